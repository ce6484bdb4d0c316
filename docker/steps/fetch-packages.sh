#!/usr/bin/env bash
# Unpacks Python packages that are wanted for the native files or the weights inside them:
# fetch-packages.sh DEST NAME... The requirements files say which version; nothing of the packages is run.
set -euo pipefail

usage="usage: fetch-packages.sh DEST NAME..."
dest=${1:?$usage}
shift
: "${1:?$usage}"
root=$(cd "$(dirname "$0")/../.." && pwd)

pins=()
for name in "$@"; do
    pin=$(cat "$root"/requirements.txt "$root"/requirements-native.txt "$root"/docker/requirements-cuda.txt |
        grep -x "$name==[^;[:space:]]*") || {
        echo "error: $name: no requirements file pins it" >&2
        exit 1
    }
    pins+=("$pin")
done

# The version only selects a wheel.
"${PYTHON:-python3}" -m pip --disable-pip-version-check install --quiet --no-deps --no-compile --only-binary=:all: \
    --python-version 3.12 --target "$dest" "${pins[@]}"
