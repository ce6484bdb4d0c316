"""One turn of a peer, in a process of its own: `python ENGINE.py SETTINGS`, both ways in JSON.

What is timed is the same for every engine: `first_ms` from the token ids of the inputs, all taken in as one batch, to
the first token of every row; `total_ms` to the last of a fixed number of greedily chosen tokens, the end of sequence
forbidden. Loading and a short run before are not timed.
"""

import json
import random
import re
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List

#: Tokens generated before the clock starts, as in `textgen bench`.
WARM_UP_TOKENS = 4

#: Generates so many tokens for each of these inputs.
Generate = Callable[[List[List[int]], int], None]


def run(load: "Callable[[Dict], Generate]") -> None:
    """Loads the model that the settings name, times it and prints the result."""
    settings = json.loads(sys.argv[1])
    seconds, generate = timed(load, settings)
    results = []
    for rows in settings["rows"]:
        inputs = random_inputs(rows, settings["input_tokens"], settings["vocabulary"])
        generate(inputs, WARM_UP_TOKENS)
        first, _ = timed(generate, inputs, 1)
        total, _ = timed(generate, inputs, settings["tokens"])
        results.append({"rows": rows, "first_ms": first * 1e3, "total_ms": total * 1e3})
    print(json.dumps({"load_ms": seconds * 1e3, "resident_bytes": resident_bytes(), "results": results}))


def timed(function, *arguments):
    """Seconds, and what it returned."""
    start = time.perf_counter()
    value = function(*arguments)
    return time.perf_counter() - start, value


def random_inputs(rows: int, tokens: int, vocabulary: int) -> "List[List[int]]":
    """Ids that are no special ones."""
    generator = random.Random(1)
    return [generator.choices(range(100, vocabulary), k=tokens) for _ in range(rows)]


def resident_bytes() -> int:
    """Of this process, now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024
