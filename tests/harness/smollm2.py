"""What a trusted implementation says of the chat model, and how near a precision comes."""

import json

from . import places, program

REFERENCE = json.loads((places.FIXTURES / "smollm2" / "reference.json").read_text(encoding="utf-8"))


def mean_logprob(precision: str) -> float:
    """Mean log-probability of each token of the reference's text but the first."""
    first, *rest = REFERENCE["score"]["ids"]
    lines = [{"input_ids": [first], "target_ids": rest}]
    printed = program.run("score", places.model("chat", precision) / "1", "--jsonl", lines=lines)
    return json.loads(printed)["sum"] / len(rest)
