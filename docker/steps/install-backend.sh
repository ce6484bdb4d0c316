#!/usr/bin/env bash
# Lays out what the backend's image adds to Triton's: install-backend.sh DESTDIR BUILT PACKAGES. BUILT is what build.sh
# made; PACKAGES holds onnxruntime or onnxruntime-gpu, as fetch-packages.sh unpacks them.
set -euo pipefail

usage="usage: install-backend.sh DESTDIR BUILT PACKAGES"
destdir=${1:?$usage}
built=${2:?$usage}
runtime=${3:?$usage}/onnxruntime
root=$(cd "$(dirname "$0")/../.." && pwd)

backend=$destdir/opt/tritonserver/backends/textgen
mkdir -p "$backend" "$destdir/usr/local/bin"
install -m 644 "$built/libtriton_textgen.so" "$backend/"
install -m 644 "$runtime"/capi/libonnxruntime.so.* "$backend/libonnxruntime.so"
# ONNX Runtime looks for its providers beside itself, and loads one when a session asks for it.
if [ -f "$runtime/capi/libonnxruntime_providers_cuda.so" ]; then
    install -m 644 "$runtime"/capi/libonnxruntime_providers_{shared,cuda}.so "$backend/"
fi
install -m 644 "$root/LICENSE" "$backend/LICENSE"
install -m 644 "$runtime/LICENSE" "$backend/LICENSE.onnxruntime"
install -m 644 "$runtime/ThirdPartyNotices.txt" "$backend/ThirdPartyNotices.onnxruntime"

install -m 755 "$built/textgen" "$destdir/usr/local/bin/"
install -m 755 "$root/docker/check-health.sh" "$destdir/usr/local/bin/check-health"
