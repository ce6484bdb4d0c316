#!/usr/bin/env bash
# Fails unless http://127.0.0.1:PORT/PATH answers 200: check-health PORT PATH. Bash alone, since a small image has no
# HTTP client. With TEXTGEN_TLS_CERT the port speaks TLS, which bash does not; an open port is then taken for health.
set -euo pipefail

usage="usage: check-health PORT PATH"
port=${1:?$usage}
path=${2:?$usage}

exec 3<>"/dev/tcp/127.0.0.1/$port"
[ -z "${TEXTGEN_TLS_CERT:-}" ] || exit 0
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$path" >&3
IFS= read -r -t 5 status <&3
echo "$path: ${status%$'\r'}"
[[ $status == "HTTP/1.1 200 "* ]]
