#!/usr/bin/env bash
# Serves a model repository with the built backend until Ctrl-C: tools/serve.sh REPOSITORY [TRANSLATOR CHAT_MODEL].
# Prints how to call the two models once the server is ready. The server itself needs no Python.
set -euo pipefail

repository=${1:?usage: tools/serve.sh REPOSITORY [TRANSLATOR CHAT_MODEL]}
translator=${2:-}
chat=${3:-}
root=$(cd "$(dirname "$0")/.." && pwd)
http_port=${HTTP_PORT:-8000}

if [ ! -d "$repository" ]; then
    echo "error: MODEL_REPOSITORY=$repository: no such folder" >&2
    exit 1
fi

server=$$
announce() {
    until (exec 3<>"/dev/tcp/127.0.0.1/$http_port") 2>/dev/null; do
        kill -0 "$server" 2>/dev/null || return 0
        sleep 0.1
    done
    local url=http://localhost:$http_port/v2/models
    printf '\nServing. Stop with Ctrl-C. Models: %s/v2/repository/index (POST)\n' "http://localhost:$http_port"
    [ -z "$translator" ] || cat <<EOF
Try, in another terminal:

  curl -s $url/$translator/generate -d '{"text_input": "The cat sleeps on the sofa."}'
  curl -sN $url/$translator/generate_stream -d '{"text_input": "The cat sleeps on the sofa.", "stream": true}'
  curl -sN $url/$chat/generate_stream -d '{"text_input": "What is the capital of France?", "stream": true}'

EOF
}
announce &

# SERVER_ARGS holds any further options of tritonserver, split at spaces.
# shellcheck disable=SC2086
exec "${TRITONSERVER:-$root/.venv/native/pytriton/tritonserver/bin/tritonserver}" \
    --model-repository="$repository" \
    --backend-directory="$root" \
    --http-port="$http_port" \
    --grpc-port="${GRPC_PORT:-8001}" \
    --metrics-port="${METRICS_PORT:-8002}" \
    ${SERVER_ARGS:-}
