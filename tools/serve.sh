#!/usr/bin/env bash
# Serves a model repository with the built backend until Ctrl-C: tools/serve.sh REPOSITORY [TRANSLATOR CHAT_MODEL].
# With GATEWAY_CONFIG=FILE the gateway and its web page are served beside it. Prints how to call the models once the
# server is ready. The server itself needs no Python.
set -euo pipefail

repository=${1:?usage: tools/serve.sh REPOSITORY [TRANSLATOR CHAT_MODEL]}
translator=${2:-}
chat=${3:-}
root=$(cd "$(dirname "$0")/.." && pwd)
http_port=${HTTP_PORT:-8000}
grpc_port=${GRPC_PORT:-8001}
web_port=${WEB_PORT:-7860}
config=${GATEWAY_CONFIG:-}

if [ ! -d "$repository" ]; then
    echo "error: MODEL_REPOSITORY=$repository: no such folder" >&2
    exit 1
fi
if [ -n "$config" ] && [ ! -f "$config" ]; then
    echo "error: GATEWAY_CONFIG=$config: no such file" >&2
    exit 1
fi

announce() {
    until (exec 3<>"/dev/tcp/127.0.0.1/$http_port") 2>/dev/null; do
        kill -0 "$server" 2>/dev/null || return 0
        sleep 0.1
    done
    local url=http://localhost:$http_port/v2/models
    printf '\nServing. Stop with Ctrl-C. Models: %s/v2/repository/index (POST)\n' "http://localhost:$http_port"
    [ -z "$config" ] || printf 'The web page: http://localhost:%s/\n' "$web_port"
    [ -z "$translator" ] || cat <<EOS
Try, in another terminal:

  curl -s $url/$translator/generate -d '{"text_input": "The cat sleeps on the sofa."}'
  curl -sN $url/$translator/generate_stream -d '{"text_input": "The cat sleeps on the sofa.", "stream": true}'
  curl -sN $url/$chat/generate_stream -d '{"text_input": "What is the capital of France?", "stream": true}'
  curl -s http://localhost:$web_port/augment -d '{"text": "The train was late because of the snow."}'

EOS
}

# The gateway goes first: it lets what runs come to its end, which needs the server.
stop() {
    trap '' INT TERM
    [ -z "$gateway" ] || kill -TERM "$gateway" 2>/dev/null || true
    [ -z "$gateway" ] || wait "$gateway" || true
    kill -TERM "$server" 2>/dev/null || true
}

# SERVER_ARGS holds any further options of tritonserver, split at spaces.
# shellcheck disable=SC2086
"${TRITONSERVER:-$root/.venv/native/pytriton/tritonserver/bin/tritonserver}" \
    --model-repository="$repository" \
    --backend-directory="$root" \
    --http-port="$http_port" \
    --grpc-port="$grpc_port" \
    --metrics-port="${METRICS_PORT:-8002}" \
    ${SERVER_ARGS:-} &
server=$!
gateway=
trap stop INT TERM
if [ -n "$config" ]; then
    "${GATEWAY:-$root/target/release/textgen-gateway}" --config "$config" --log-format text \
        --triton "127.0.0.1:$grpc_port" --port "$web_port" &
    gateway=$!
fi
announce &

# One without the other is no service.
wait -n "$server" ${gateway:+"$gateway"} || true
stop
code=0
wait "$server" || code=$?
exit "$code"
