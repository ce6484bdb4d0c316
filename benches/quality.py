"""What each precision costs: translations, log-probabilities of a real text, and the error on random weights."""

import json
import random
import statistics
import sys

import weights
from cache import CLI, HERE, RUNTIME_LIBRARY
from environments import call

sys.path.insert(0, str(HERE.parent / "tests" / "quality"))

import chrf  # noqa: E402

from harness import smollm2  # noqa: E402

#: Random pairs that are scored, and their tokens.
PAIRS = 8
TOKENS = 32


def measure(options) -> dict:
    """None of this is timed, so once is enough."""
    results = []
    for direction in ("en-pt", "pt-en"):
        for precision in ("fp32", "int8"):
            say(f"chrF {direction} {precision}")
            score = chrf.score(direction, precision)
            results.append(
                {"model": f"Bergamot {direction}", "precision": precision, "measure": "chrF, UDHR", "value": score}
            )
    for precision in ("fp32", "int8", "int4"):
        value = smollm2.mean_logprob(precision)
        results.append(
            {"model": "SmolLM2-135M", "precision": precision, "measure": "mean log-probability", "value": value}
        )
    for shape in weights.SHAPES:
        say(f"error of {shape}")
        exact, rounded = (scores(shape, precision) for precision in ("fp32", "int8"))
        error = statistics.mean(abs(a - b) for a, b in zip(exact, rounded))
        measured = "mean error of a token's log-probability, random weights"
        results.append({"model": shape, "precision": "int8", "measure": measured, "value": error})
    return {"settings": {"pairs": PAIRS, "tokens": TOKENS}, "skipped": {}, "results": results}


def say(text):
    print(f"quality: {text}", file=sys.stderr, flush=True)


def scores(shape, precision):
    """Log-probabilities of random targets."""
    chance = random.Random(1)
    ids = range(100, weights.VOCABULARY[shape])
    lines = [
        {"input_ids": chance.choices(ids, k=TOKENS), "target_ids": chance.choices(ids, k=TOKENS)} for _ in range(PAIRS)
    ]
    printed = call(
        [CLI, "score", weights.textgen(shape, precision), "--jsonl"],
        text="\n".join(map(json.dumps, lines)),
        TEXTGEN_RUNTIME_LIBRARY=str(RUNTIME_LIBRARY),
    )
    return [value for line in printed.splitlines() for value in json.loads(line)["logprobs"]]
