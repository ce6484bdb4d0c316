#!/usr/bin/env python3
"""Compares textgen with CTranslate2 on a checkpoint of mT5-base's shape, both in 8 bits: `make bench-t5`.

What is timed is the same for both: from the token ids of the sources, all encoded as one batch, to the last of
a fixed number of greedily chosen tokens in every row, the end of sequence forbidden. Each runs in its library
alone: textgen by `textgen bench` (executor and sampler, no server, queue and tokenizer), CTranslate2 by
`Translator.translate_batch`, which also looks up the names of the tokens, in a vocabulary. Loading and a short
run before are not timed. The two take turns, so that what else the machine does meets both; medians count.

Needs the packages of requirements.txt. Everything is kept in `.cache/bench`, 3.7 GB, and made when it is
missing; textgen's own conversion is made anew each time.
"""

import argparse
import gc
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import ctranslate2
import ctranslate2_model
import make_mt5_base_shape
from report import machine, save

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "bench"
CLI = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "textgen"
#: Tokens generated before the clock starts, as in `textgen bench`.
WARM_UP_TOKENS = 4


def main():
    options = arguments()
    checkpoint = made(CACHE / "mt5-base", make_mt5_base_shape.make)
    theirs = made(CACHE / "ctranslate2", lambda out: ctranslate2_model.convert(checkpoint, out))
    ours = CACHE / "textgen"
    run([CLI, "convert", checkpoint, "--out", ours, "--precision", "int8", "--force"])

    rounds = []
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
        rounds.append({"textgen": time_ours(ours, options), "ctranslate2": time_theirs(theirs, options)})
    report = {"machine": machine(), "settings": settings(options), "results": results(rounds, options)}
    report["rounds"] = rounds
    print_table(report)
    save(report, options.out)


def arguments():
    parser = argparse.ArgumentParser(description="Compares textgen with CTranslate2 on mT5-base's shape.")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], help="rows decoded together")
    parser.add_argument("--source-tokens", type=int, default=32, help="tokens of each source (default 32)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens generated in each row (default 64)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each (default 2)")
    parser.add_argument("--out", type=Path, default=CACHE / "compare_ctranslate2.json", help="JSON file to write")
    return parser.parse_args()


def made(folder, make):
    """The folder, made when it is missing; what is interrupted is made again."""
    if not folder.exists():
        print(f"making {folder.relative_to(ROOT)}", file=sys.stderr, flush=True)
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        unfinished.rename(folder)
    return folder


def run(command):
    try:
        return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout
    except FileNotFoundError:
        sys.exit(f"error: {command[0]} is not there; run `make bench-t5`, which builds it")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {' '.join(error.cmd)} ended with {error.returncode}")


def time_ours(artifact, options):
    """Milliseconds for each number of rows."""
    command = [CLI, "bench", artifact, "--json", "--threads", options.threads, "--steps", options.tokens]
    command += ["--source-tokens", options.source_tokens, "--rows", ",".join(map(str, options.rows))]
    report = json.loads(run(command))
    assert (report["steps"], report["threads"]) == (options.tokens, options.threads)
    return [result["total_ms"] for result in report["results"]]


def time_theirs(model, options):
    """Milliseconds for each number of rows. The model is loaded for each turn, and gone when the turn ends."""
    translator = ctranslate2.Translator(
        str(model), device="cpu", compute_type="int8", inter_threads=1, intra_threads=options.threads
    )
    times = []
    for rows in options.rows:
        sources = random_sources(model, rows, options.source_tokens)
        translate(translator, sources, WARM_UP_TOKENS)
        start = time.perf_counter()
        translate(translator, sources, options.tokens)
        times.append((time.perf_counter() - start) * 1e3)
    del translator
    gc.collect()
    return times


def translate(translator, sources, tokens):
    answers = translator.translate_batch(
        sources,
        beam_size=1,
        min_decoding_length=tokens,
        max_decoding_length=tokens,
        max_input_length=0,
        return_scores=False,
    )
    lengths = {len(answer.hypotheses[0]) for answer in answers}
    assert lengths == {tokens}, f"answers of {lengths} tokens, expected {tokens}"


def random_sources(model, rows, tokens):
    names = json.loads((model / "shared_vocabulary.json").read_text(encoding="utf-8"))
    generator = random.Random(1)
    return [generator.choices(names, k=tokens) for _ in range(rows)]


def results(rounds, options):
    """Medians over the rounds, for each number of rows."""
    table = []
    for index, rows in enumerate(options.rows):
        entry = {"rows": rows}
        for engine in ("textgen", "ctranslate2"):
            times = [turn[engine][index] for turn in rounds]
            entry[engine] = {
                "total_ms": statistics.median(times),
                "fastest_ms": min(times),
                "slowest_ms": max(times),
                "tokens_per_second": rows * options.tokens / statistics.median(times) * 1e3,
            }
        entry["ratio"] = entry["textgen"]["tokens_per_second"] / entry["ctranslate2"]["tokens_per_second"]
        table.append(entry)
    return table


def settings(options):
    return {
        "source_tokens": options.source_tokens,
        "tokens": options.tokens,
        "threads": options.threads,
        "rounds": options.rounds,
        "precision": "int8",
        "textgen": run([CLI, "--version"]).split()[-1],
        "ctranslate2": ctranslate2.__version__,
    }


def print_table(report):
    facts, processor = report["settings"], report["machine"]["processor"]
    print(f"{processor}, {facts['threads']} threads; textgen {facts['textgen']}, CTranslate2 {facts['ctranslate2']}")
    print(
        f"sources of {facts['source_tokens']} tokens, {facts['tokens']} tokens generated in each row, "
        f"median of {facts['rounds']} rounds (fastest to slowest)"
    )
    print(f"{'rows':>5}{'textgen ms':>28}{'CTranslate2 ms':>28}{'textgen tok/s':>15}{'CTranslate2':>13}{'ratio':>8}")
    for entry in report["results"]:
        ours, theirs = entry["textgen"], entry["ctranslate2"]
        spans = [f"{e['total_ms']:.0f} ({e['fastest_ms']:.0f} to {e['slowest_ms']:.0f})" for e in (ours, theirs)]
        print(
            f"{entry['rows']:>5}{spans[0]:>28}{spans[1]:>28}"
            f"{ours['tokens_per_second']:>15.1f}{theirs['tokens_per_second']:>13.1f}{entry['ratio']:>8.2f}"
        )


if __name__ == "__main__":
    main()
