#!/usr/bin/env python3
"""Everything side by side, on one machine and the same weights: `make bench`.

Each part writes its JSON file to `.cache/bench/results` as soon as it is done, with machine, versions, every round,
medians and spread. `.cache/bench/report.json` and `report.md` are made of all that are there; --publish also puts the
report into `docs/benchmarks.md` and its summary into the README. Environments, checkpoints and conversions stay in
`.cache/bench`, some 16 GB, and are made when they are missing.
"""

import argparse
import datetime
import json
import sys
import time

import engines
import environments
import machine
import overhead
import peak
import publish
import quality
import served
import services
import tables
from cache import CACHE
from report import save

RESULTS = CACHE / "results"


def engine_part(part):
    """The measurement of one model's engines."""

    def measure(options):
        # One sentence and 64, for a model that translates sentences.
        rows = [1, 64] if part == "bergamot" else options.rows
        settings = {"rows": rows, "input_tokens": options.input_tokens, "tokens": options.tokens}
        return engines.measure(part, settings, options.rounds, options.threads)

    return measure


PARTS = {
    "peak": peak.measure,
    **{f"engines.{part}": engine_part(part) for part in ("bergamot", "mt5-base", "flan-t5-small", "smollm2")},
    "served": served.measure,
    "overhead": overhead.measure,
    "services": services.measure,
    "quality": quality.measure,
}


def main():
    options = arguments()
    environments.may_build = options.with_llama_cpp
    if not options.report:
        facts = {**machine.facts(), "day": datetime.date.today().isoformat()}
        for name in chosen(options.only):
            start = time.perf_counter()
            found = {"part": name, **facts, **PARTS[name](options)}
            save({**found, "seconds": time.perf_counter() - start}, RESULTS / f"{name}.json")
    parts = {name: json.loads(file.read_text()) for name in PARTS if (file := RESULTS / f"{name}.json").exists()}
    if not parts:
        sys.exit(f"error: {RESULTS} has no results; run without --report first")
    summary, document = tables.summary(parts), tables.document(parts)
    (CACHE / "report.md").write_text(document, encoding="utf-8")
    print(f"\n{summary}")
    save(parts, CACHE / "report.json")
    print(f"and {CACHE / 'report.md'}")
    if options.publish:
        for file in publish.publish(summary, document):
            print(f"and {file}")


def chosen(only):
    """The parts with these names, or whose names begin so."""
    names = [name for name in PARTS if not only or any(name.startswith(each) for each in only)]
    unknown = [each for each in only if not any(name.startswith(each) for name in PARTS)]
    if unknown:
        sys.exit(f"error: --only {' '.join(unknown)}: no such part; there are {', '.join(PARTS)}")
    return names


def arguments():
    parser = argparse.ArgumentParser(description="Measures everything side by side.")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender (default 3)")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="threads of each engine (default 2 1)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], help="rows decoded together")
    parser.add_argument("--input-tokens", type=int, default=32, help="tokens of each source or prompt (default 32)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens generated in each row (default 32)")
    parser.add_argument(
        "--requests", type=int, default=160, help="requests of a load on the server, at most (default 160)"
    )
    parser.add_argument("--seconds", type=float, default=30, help="seconds of a load on the server, about (default 30)")
    parser.add_argument("--quick", action="store_true", help="one round of everything, two threads, little of each")
    parser.add_argument("--with-llama-cpp", action="store_true", help="compile llama.cpp too, which takes long")
    parser.add_argument("--report", action="store_true", help="measure nothing, report what was measured before")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.md and the README's block")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.threads, options.tokens = 1, [2], 8
        options.requests, options.seconds = 24, 5
    return options


if __name__ == "__main__":
    main()
