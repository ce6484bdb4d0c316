#!/usr/bin/env bash
# Compiles the plugin and the two programs: build.sh DEST PACKAGES. PACKAGES holds libclang, as fetch-packages.sh
# unpacks it; LIBCLANG_PATH may name another. All in one run of Cargo: apart, the features of one would rebuild what
# it shares with the others.
set -euo pipefail

usage="usage: build.sh DEST PACKAGES"
dest=${1:?$usage}
packages=${2:?$usage}
cd "$(dirname "$0")/../.."

export LIBCLANG_PATH=${LIBCLANG_PATH:-$packages/clang/native}
BINDGEN_EXTRA_CLANG_ARGS=-I$(gcc -print-file-name=include)
export BINDGEN_EXTRA_CLANG_ARGS
cargo build --release --locked --package triton_textgen --package textgen-cli --package textgen-gateway

built=${CARGO_TARGET_DIR:-target}/release
mkdir -p "$dest"
install -m 644 "$built/libtriton_textgen.so" "$dest/"
install -m 755 "$built/textgen" "$built/textgen-gateway" "$dest/"
