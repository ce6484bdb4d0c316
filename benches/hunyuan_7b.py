#!/usr/bin/env python3
"""Converts and serves a model of HunYuan-7B's shape, and says what that takes: `make bench-7b`.

Random weights are written, 15 GB in bf16, and converted, 8 GB as int8: time and peak memory of the program. Then the
real server loads the entry of `model_repository/hunyuan-mt` with them, and one client streams a translation: time to
load, memory, time to first token, tokens a second. `textgen bench` says what share of the read bandwidth that is.
Files are removed once they are not needed any more; `--keep` leaves them in `.cache/bench` for the next run.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import make_hunyuan_7b_shape
from report import machine, save
from serving import CACHE, serve, timed

from harness import places, program

MODEL = "hunyuan-mt"
CHECKPOINT = CACHE / "hunyuan-7b"
ARTIFACT = CACHE / "hunyuan-7b-artifact"
#: What is on the disk when the conversion ends.
DISK_BYTES = 25e9
TEXT = "It rains."
GIB = 1 << 30


def main():
    options = arguments()
    report = {"machine": machine(), "settings": {key: str(value) for key, value in vars(options).items()}}
    try:
        if not (options.keep and ARTIFACT.exists()):
            report["conversion"] = convert(options)
        report["serving"] = serve_it(options)
        report["bench"] = bench(options)
    finally:
        if not options.keep:
            shutil.rmtree(CHECKPOINT, ignore_errors=True)
            shutil.rmtree(ARTIFACT, ignore_errors=True)
    print_table(report)
    save(report, options.out)
    if report["serving"]["peak_memory_gib"] > options.memory_gib:
        sys.exit(f"error: the server took more than {options.memory_gib} GiB")


def arguments():
    parser = argparse.ArgumentParser(description="Measures a model of HunYuan-7B's shape.")
    parser.add_argument("--precision", default="int8", choices=["int8", "int4"], help="of the weights (default int8)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to generate (default 64)")
    parser.add_argument("--memory-gib", type=float, default=24, help="memory the server may take (default 24)")
    parser.add_argument("--keep", action="store_true", help="leave the files, and use those that are there")
    parser.add_argument("--out", type=Path, default=CACHE / "hunyuan_7b.json", help="JSON file to write")
    return parser.parse_args()


def convert(options):
    CACHE.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(CACHE).free
    if free < DISK_BYTES:
        sys.exit(f"error: {CACHE}: {free / 1e9:.0f} GB are free, {DISK_BYTES / 1e9:.0f} GB are needed; make room")
    if not CHECKPOINT.exists():
        print("writing the weights", file=sys.stderr, flush=True)
        unfinished = CHECKPOINT.with_name(CHECKPOINT.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        make_hunyuan_7b_shape.make(unfinished)
        unfinished.rename(CHECKPOINT)
    print("converting", file=sys.stderr, flush=True)
    command = ["convert", CHECKPOINT, "--out", ARTIFACT, "--precision", options.precision, "--force"]
    start = time.perf_counter()
    child = subprocess.Popen([str(part) for part in [places.CLI, *command]], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        sys.exit(f"error: the conversion ended with {os.waitstatus_to_exitcode(status)}")
    if not options.keep:
        shutil.rmtree(CHECKPOINT)
    # Linux counts in KiB.
    return {"seconds": seconds, "peak_memory_gib": usage.ru_maxrss * 1024 / GIB}


def serve_it(options):
    start = time.perf_counter()
    with serve(lambda repository: repository.add_committed(MODEL, artifact=ARTIFACT)) as (server, door):
        loaded = time.perf_counter()
        memory = server.rss_bytes()
        settings = {"max_tokens": options.tokens, "min_tokens": options.tokens, "temperature": 0.0, "tgt_lang": "de"}
        extras = {"return_num_input_tokens": True, "return_num_output_tokens": True}
        # The first request pays for pages and buffers.
        timed(door, MODEL, "Hello.", **{**settings, "max_tokens": 4, "min_tokens": 4})
        answer = timed(door, MODEL, TEXT, **settings, **extras)
        counts = [outputs["num_output_tokens"][0] for _, outputs in answer.pieces]
        seconds = answer.pieces[-1][0] - answer.pieces[0][0]
        return {
            "load_seconds": loaded - start,
            "loaded_memory_gib": memory / GIB,
            "peak_memory_gib": server.peak_rss_bytes() / GIB,
            "prompt_tokens": answer.pieces[-1][1]["num_input_tokens"][0],
            "first_token_seconds": answer.first_ms / 1e3,
            "generated_tokens": sum(counts),
            "tokens_per_second": sum(counts[1:]) / seconds,
        }


def bench(options):
    arguments = [ARTIFACT, "--rows", 1, "--steps", options.tokens, "--max-context-tokens", 1024, "--json"]
    return json.loads(program.run("bench", *arguments))


def print_table(report):
    rows = []
    if "conversion" in report:
        conversion = report["conversion"]
        rows += [("conversion", f"{conversion['seconds']:.0f} s"), ("its peak memory", f"{conversion['peak_memory_gib']:.2f} GiB")]
    serving, (one,) = report["serving"], report["bench"]["results"]
    rows += [
        ("server's start and load", f"{serving['load_seconds']:.1f} s"),
        ("server's memory, loaded", f"{serving['loaded_memory_gib']:.2f} GiB"),
        ("server's memory, peak", f"{serving['peak_memory_gib']:.2f} GiB"),
        (f"first token of a prompt of {serving['prompt_tokens']} tokens", f"{serving['first_token_seconds']:.2f} s"),
        (f"then {serving['generated_tokens']} tokens", f"{serving['tokens_per_second']:.2f} tokens/s"),
        ("textgen bench, 1 row", f"{one['tokens_per_second']:.2f} tokens/s"),
        ("its step", f"{one['step_ms']:.0f} ms"),
        ("read bandwidth", f"{report['bench']['read_bandwidth_bytes_per_second'] / 1e9:.1f} GB/s"),
        ("share of it that a step's weights use", f"{one['bandwidth_share']:.0%}"),
    ]
    for name, value in rows:
        print(f"{name:<42}{value:>18}")


if __name__ == "__main__":
    main()
