"""The same answer, whoever else is served: alone, in a full batch, joining midway, among samples of one prompt."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Tuple

from checkpoints import BERGAMOT, LLAMA, SMOLLM2, T5, Checkpoint
from place import Entry, Place
from report import Needs, NotRun, Report

from harness import places
from harness.grpc_door import joined, replies
from harness.metrics import running
from harness.repository import decoupled, parameters
from harness.server import eventually
from harness.texts import LASTING, LONG, long_prompt

Line = Dict[str, Any]

ROWS = 16
#: How far log-probabilities may be apart where a GPU adds up in another order among other rows.
ROUNDING = 0.05
#: Steps are recorded and replayed.
RECORDED = {"enable_cuda_graph": "true"}


def check(place: Place, report: Report) -> None:
    """Answers of the program, then of the server."""
    report.section("Invariance")
    tiny = [(T5, "fp16"), (LLAMA, "fp16")]
    real = [
        (BERGAMOT, "fp16"),
        (BERGAMOT, "int8"),
        (SMOLLM2, "fp16"),
        (SMOLLM2, "bf16"),
        (SMOLLM2, "int8"),
        (SMOLLM2, "int4"),
    ]
    for checkpoint, precision in tiny if place.tiny else tiny + real:
        report.check(
            f"{checkpoint.name}, {precision}: one at a time and {ROWS} at once",
            lambda: alone_or_in_a_batch(place, checkpoint, precision),
        )
    if place.tiny:
        return
    report.check("Bergamot en-pt, fp16: joins midway", lambda: joins_midway(place, {}))
    report.check("the same, with CUDA graphs", lambda: joins_midway(place, RECORDED), Needs.GPU)
    report.check("SmolLM2-135M, fp16: with CUDA graphs and without", lambda: recorded(place), Needs.GPU)


def requests(checkpoint: Checkpoint) -> List[Line]:
    """As many as there are rows, of different lengths; every other one is sampled."""
    if checkpoint is SMOLLM2:
        lines: List[Line] = [{"text_input": long_prompt(4 + 9 * index, index)} for index in range(ROWS)]
    elif checkpoint is BERGAMOT:
        lines = [{"text_input": sentence} for sentence in places.sentences()[:ROWS]]
    else:
        given = [case["input_ids"] for case in checkpoint.cases()]
        lines = [{"input_ids": given[index % len(given)]} for index in range(ROWS)]
    sampled = {"temperature": 0.8, "top_p": 0.95}
    return [
        {**line, "max_tokens": 24, "seed": index, **(sampled if index % 2 else {"temperature": 0.0})}
        for index, line in enumerate(lines)
    ]


def alone_or_in_a_batch(place: Place, checkpoint: Checkpoint, precision: str) -> str:
    """On the CPU tokens must be the same. A GPU may round otherwise in another batch, which decides between tokens that
    are about as probable; then the sequences part. Up to there log-probabilities must be close, and most must not part."""
    reason = place.can(precision)
    if reason:
        raise NotRun(reason)
    artifact, lines = place.artifact(checkpoint, precision), requests(checkpoint)
    alone = place.answers(artifact, lines, "--max-sequences", 1)
    together = place.answers(artifact, lines, "--max-sequences", ROWS)
    assert len(alone) == len(together) == ROWS
    tokens = sum(len(answer["token_ids"]) for answer in alone)
    others: List[Tuple[int, int]] = []
    apart = 0.0
    for index, (one, other) in enumerate(zip(alone, together)):
        same = agreeing(one["token_ids"], other["token_ids"])
        if one["token_ids"] != other["token_ids"]:
            others.append((index, same))
        pairs = list(zip(one["logprobs"], other["logprobs"]))[:same]
        apart = max([apart, *(abs(a - b) for a, b in pairs)])
    said = f"{ROWS} answers, {tokens} tokens; log-probabilities of agreeing tokens at most {apart:.2g} apart"
    if others:
        said += f"; {len(others)} answers differ: (request, from token) {others}"
    assert len(others) <= (ROWS // 2 if place.on_gpu else 0) and apart <= ROUNDING, said
    return said


def agreeing(one: List[int], other: List[int]) -> int:
    """Tokens at the beginning that are the same."""
    return next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def joins_midway(place: Place, options: Dict[str, str]) -> str:
    """Requests that join while others run, against themselves alone."""
    config = decoupled(True) + parameters(max_sequences=8, max_source_tokens=1024, max_target_tokens=2048, **options)
    sentences = places.sentences()[:ROWS]
    with place.serve({"lasting": Entry(place.artifact(BERGAMOT, "fp16"), config)}) as served:
        served.load("lasting")
        alone = [served.http.text("lasting", sentence, seed=1, temperature=0.7) for sentence in sentences]
        held = [served.grpc.open_stream(served.grpc.request("lasting", LONG, stream=True, **LASTING)) for _ in range(5)]
        for call in held:
            next(call)
        eventually(lambda: running(served.server, "lasting") == 5)
        calls = [
            served.grpc.open_stream(served.grpc.request("lasting", sentence, stream=True, seed=1, temperature=0.7))
            for sentence in sentences
        ]
        midway = [joined(replies(call)) for call in calls]
        still = running(served.server, "lasting")
        for call in held:
            call.cancel()
        eventually(lambda: running(served.server, "lasting") == 0)
    assert still == 5, f"{still} of 5 streams still ran when the others had ended: nothing joined midway"
    others = [(a, b) for a, b in zip(alone, midway) if a != b]
    return differing(place, ROWS, others, "among 5 running streams")


def recorded(place: Place) -> str:
    """Replayed steps of many rows, against launched ones of one."""
    artifact = place.artifact(SMOLLM2, "fp16")
    sizes = decoupled(True) + parameters(max_sequences=8, max_context_tokens=1024)
    lines = requests(SMOLLM2)
    with place.serve(
        {"launched": Entry(artifact, sizes), "replayed": Entry(artifact, sizes + parameters(**RECORDED))}
    ) as served:

        def asked(name: str, line: Line) -> str:
            return served.http.text(name, line["text_input"], **{key: line[key] for key in line if key != "text_input"})

        for name in ("launched", "replayed"):
            served.load(name)
        alone = [asked("launched", line) for line in lines]
        with ThreadPoolExecutor(len(lines)) as pool:
            together = list(pool.map(lambda line: asked("replayed", line), lines))
    others = [(a, b) for a, b in zip(alone, together) if a != b]
    return differing(place, len(lines), others, "replayed")


def differing(place: Place, count: int, others: List[Tuple[str, str]], what: str) -> str:
    """What is said of texts that are not the same, and no more than half on a GPU: see `alone_or_in_a_batch`."""
    said = f"{count} answers {what}, {len(others)} differ" + (f", the first: {others[0]}" if others else "")
    assert len(others) <= (count // 2 if place.on_gpu else 0), said
    return said
