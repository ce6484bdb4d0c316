"""Every family in every precision: it converts, and gives each token the probability that fp32 on the CPU gives it."""

import math
from typing import Any, Dict, List, NamedTuple

from checkpoints import REAL, T5, TINY, LLAMA, Checkpoint
from place import Place, numbered, parsed
from report import Needs, NotRun, Report

from harness import program


class Limits(NamedTuple):
    """How far log-probabilities of tokens may be off: their mean, and any one of them."""

    mean: float
    most: float


#: Of the tiny models, whose random weights are far larger than trained ones. A wrong sum is off by more than what f16
#: costs; what 4 bits cost them hides much, so that int4 is told by the trained model.
TINY_LIMITS = {
    "fp16": Limits(0.02, 0.1),
    "bf16": Limits(0.15, 0.8),
    "int8": Limits(0.25, 2.0),
    "int4": Limits(2.0, math.inf),
}
#: Of the trained ones.
REAL_LIMITS = {
    "fp16": Limits(0.01, 0.2),
    "bf16": Limits(0.05, 1.0),
    "int8": Limits(0.25, 3.0),
    "int4": Limits(0.9, math.inf),
}
#: For those, the mean of a text may be off by so much: `make quality` gives what int8 and int4 cost on the CPU.
SUM_LIMITS = {"fp16": 0.005, "bf16": 0.03, "int8": 0.06, "int4": 0.35}


def check(place: Place, report: Report) -> None:
    """A conversion and a score for each."""
    report.section("Families and precisions")
    for checkpoint in [T5, LLAMA] if place.tiny else [*TINY, *REAL]:
        limits = REAL_LIMITS if checkpoint in REAL else TINY_LIMITS
        for precision in checkpoint.precisions:
            name = f"{checkpoint.name}, {precision}"
            report.check(f"{name}: convert", lambda: converts(place, checkpoint, precision), Needs.NOTHING)
            report.check(f"{name}: score", lambda: scores(place, checkpoint, precision, limits[precision]))


def converts(place: Place, checkpoint: Checkpoint, precision: str) -> str:
    """The size of an artifact for CUDA."""
    files = list(place.for_cuda(checkpoint, precision).iterdir())
    assert files, "the artifact has no files"
    return f"{sum(file.stat().st_size for file in files) / 1e6:.2f} MB"


def scores(place: Place, checkpoint: Checkpoint, precision: str, limits: Limits) -> str:
    """How far the log-probabilities are off."""
    reason = place.can(precision)
    if reason:
        raise NotRun(reason)
    cases = numbered(checkpoint.cases())
    expected = flat(program.run("score", place.reference(checkpoint), "--jsonl", lines=cases))
    got = flat(place.run("score", place.artifact(checkpoint, precision), "--jsonl", lines=cases))
    assert len(got) == len(expected) > 0 and all(map(math.isfinite, got)), "numbers are missing"
    off = [abs(a - b) for a, b in zip(got, expected)]
    mean, most = sum(off) / len(off), max(off)
    shift = abs(sum(got) - sum(expected)) / len(got)
    said = f"{len(off)} tokens, off by {mean:.4f} on average, {most:.3f} at most, their mean by {shift:.4f}"
    assert mean <= limits.mean and most <= limits.most, f"{said}; allowed {limits.mean} and {limits.most}"
    if checkpoint in REAL:
        assert shift <= SUM_LIMITS[precision], f"{said}; allowed {SUM_LIMITS[precision]}"
    return said


def flat(printed: str) -> "List[float]":
    """The log-probabilities of all cases."""
    objects: "List[Dict[str, Any]]" = parsed(printed)
    return [logprob for object in objects for logprob in object["logprobs"]]
