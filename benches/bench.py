#!/usr/bin/env python3
"""Everything side by side, on one machine and the same weights: `make bench`.

Parts are named as in `--only engines.mt5-base serving`. Each part writes its JSON file to `.cache/bench/results` as soon as
it is done; `report.json`, with all that are there, and `docs/benchmarks.md` and the block in the README with --publish,
are made of those.
"""

import argparse
import sys
import time

import engines
from cache import CACHE
from report import save

RESULTS = CACHE / "results"
ENGINES = ("mt5-base", "flan-t5-small", "smollm2", "bergamot")


def engine_part(part):
    def measure(options):
        rows = [1, 64] if part == "bergamot" else options.rows
        settings = {"rows": rows, "input_tokens": 32, "tokens": options.tokens}
        return engines.measure(part, settings, options.rounds, options.threads)

    return measure


PARTS = {**{f"engines.{part}": engine_part(part) for part in ENGINES}}


def main():
    options = arguments()
    names = [name for name in PARTS if not options.only or any(name.startswith(each) for each in options.only)]
    if not names:
        sys.exit(f"error: --only {' '.join(options.only)}: no such part; there are {', '.join(PARTS)}")
    for name in names:
        start = time.perf_counter()
        found = PARTS[name](options)
        save({**found, "part": name, "seconds": time.perf_counter() - start}, RESULTS / f"{name}.json")


def arguments():
    parser = argparse.ArgumentParser(description="Measures everything side by side.")
    parser.add_argument("--only", nargs="+", default=[], help="parts, or what their names begin with")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default 3)")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="threads of each engine")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], help="rows decoded together")
    parser.add_argument("--tokens", type=int, default=32, help="tokens generated in each row (default 32)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
