#!/usr/bin/env bash
# Counts the instructions that each microbenchmark runs once, with Valgrind: they say the same on a busy machine.
# Valgrind knows no AVX-512, so that the code takes the way of a machine with AVX2.
#
# usage: benches/instructions.sh [BENCH...]; in the environment what the Makefile exports
set -euo pipefail

command -v valgrind >/dev/null || { echo 'error: valgrind not found; install it (apt install valgrind)' >&2; exit 1; }

for bench in "${@:-sampler}"; do
  # Only what runs inside this function is counted: not the making of what is measured.
  case $bench in
    scheduler) inside='*engine::worker::Worker::run*' ;;
    *) inside="$bench::measured*" ;;
  esac
  program=$(cargo bench --quiet --bench "$bench" --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
  "$program" --bench --list | sed -n 's/: benchmark$//p' | while read -r name; do
    count=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no \
      --toggle-collect="$inside" "$program" --bench --test --exact "$name" 2>&1 >/dev/null </dev/null |
      sed -n 's/.*Collected : //p' | tail -n 1)
    # None at all: what was to be counted has another name, or was inlined.
    [ "${count:-0}" -gt 0 ] || { echo "error: $name: nothing was counted inside $inside" >&2; exit 1; }
    printf '%15s  %s\n' "$count" "$name"
  done
done
