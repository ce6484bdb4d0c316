#!/usr/bin/env bash
# Lays out the files of the gateway's image: install-gateway.sh DESTDIR BUILT. BUILT is what build.sh made.
set -euo pipefail

usage="usage: install-gateway.sh DESTDIR BUILT"
destdir=${1:?$usage}
built=${2:?$usage}
root=$(cd "$(dirname "$0")/../.." && pwd)

mkdir -p "$destdir/usr/local/bin" "$destdir/etc/textgen" "$destdir/var/log/textgen"
install -m 755 "$built/textgen-gateway" "$destdir/usr/local/bin/"
install -m 755 "$root/docker/check-health.sh" "$destdir/usr/local/bin/check-health"
install -m 644 "$root"/crates/gateway/config/*.toml "$destdir/etc/textgen/"
