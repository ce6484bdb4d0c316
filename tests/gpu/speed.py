"""Speed: steps measured by the program and by the server, with and without CUDA graphs, beside what the model of
`benches/gpu_model.py` says, and the claims of `docs/gpu.md`.

What is measured and what the model is for are the same: 512 cached positions a row, 256 of a source.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from checkpoints import LLAMA, PRECISIONS, PRECISIONS_DECODER_ONLY, SMOLLM2, T5, Checkpoint
from driver import Gpu
from place import Entry, Place, Served
from report import Needs, NotRun, Report

from harness import places
from harness.metrics import PREFIX
from harness.repository import decoupled, parameters
from harness.texts import long_prompt

BENCHES = places.ROOT / "benches"
sys.path.append(str(BENCHES))
import gpu_model  # noqa: E402


class Sizes(NamedTuple):
    """What is run."""

    rows: Tuple[int, ...]
    #: Arguments of `textgen bench`; its median step is in the middle of the steps.
    bench: Tuple[object, ...]
    #: The server's prompt, and tokens that it generates in the shorter and the longer request.
    prompt: str
    tokens: Tuple[int, int]


#: At position 512 in the middle: 480 + 64 / 2, or 1024 / 2 beside a source, of which each letter is a token.
PROMPTED = Sizes(
    (1, 8, 32), ("--source-tokens", 480, "--steps", 64, "--max-context-tokens", 1024), long_prompt(380, 1), (16, 80)
)
SOURCED = Sizes(
    (1, 8, 32),
    ("--source-tokens", 256, "--steps", 1024, "--max-target-tokens", 1100),
    long_prompt(60, 1)[:255],
    (448, 576),
)
REHEARSED = Sizes(
    (1, 4), ("--source-tokens", 16, "--steps", 8, "--max-context-tokens", 128), "The cat sleeps.", (4, 36)
)


#: Of each request.
REPEATS = 3


class Model(NamedTuple):
    """What is measured: a checkpoint, and which of `gpu_model.MODELS` it is."""

    name: str
    checkpoint: Checkpoint
    sizes: Sizes


class Measured(NamedTuple):
    """How a step was measured."""

    model: str
    precision: str
    rows: int
    #: BENCH, SERVER, or one of those with CUDA graphs.
    way: str


#: As `gpu_model.MODELS` has them.
MT5, HUNYUAN = "mT5-base", "HunYuan-7B"
#: The checkpoint and an artifact of each precision.
HUNYUAN_DISK_BYTES = 45e9
BENCH, BENCH_GRAPH, SERVER, SERVER_GRAPH = "textgen bench", "textgen bench, CUDA graph", "server", "server, CUDA graph"
GRAPHS = (BENCH_GRAPH, SERVER_GRAPH)
Steps = Dict[Measured, float]


def check(place: Place, report: Report, options: argparse.Namespace) -> None:
    """Measures, then holds what was measured against the claims."""
    report.section("Speed: measurements")
    steps: Steps = {}
    for model in models(place, options):
        # bf16 reads as many bytes as fp16, and the model has no figures of its own for it.
        precisions = [each for each in model.checkpoint.precisions if each != "bf16"]
        for precision in precisions[:1] if place.tiny else precisions:
            about = f"{model.name}, {precision}"
            for measure, ways in ((bench, (BENCH, BENCH_GRAPH)), (serve, (SERVER, SERVER_GRAPH))):
                for way in ways:
                    needs = Needs.GPU if way in GRAPHS else Needs.MODEL
                    report.check(f"{about}: {way}", partial(measure, place, model, precision, steps, way), needs)
    gpu = place.driver.gpus[0] if place.driver else None
    report.table("Steps against the model", *against_the_model(steps, gpu))
    report.section("Speed: claims of docs/gpu.md")
    for claim in CLAIMS:
        report.check(claim.text, partial(judge, claim, steps, gpu), Needs.GPU)


def models(place: Place, options: argparse.Namespace) -> List[Model]:
    """Those of the tables, as far as they are asked for; fixtures in their place where it is only rehearsed."""
    if not place.on_gpu:
        chat = LLAMA if place.tiny else SMOLLM2
        return [Model(f"{T5.name} (fixture)", T5, REHEARSED), Model(chat.name, chat, REHEARSED)]
    found = [
        Model(SMOLLM2.name, SMOLLM2, PROMPTED),
        Model(MT5, Checkpoint(MT5, t5_shape, PRECISIONS, list), SOURCED),
    ]
    if options.hunyuan_7b:
        found.append(Model(HUNYUAN, Checkpoint(HUNYUAN, hunyuan_shape, PRECISIONS_DECODER_ONLY, list), PROMPTED))
    return found


def t5_shape(out: Path) -> Path:
    """Random weights of mT5-base's shape, 1.2 GB."""
    return made(out, "make_t5_shape.py", "mt5-base", "--bf16")


def hunyuan_shape(out: Path) -> Path:
    """Random weights of HunYuan-7B's shape, 15 GB."""
    free = shutil.disk_usage(out.parent).free
    if free < HUNYUAN_DISK_BYTES and not out.exists():
        raise NotRun(f"{free / 1e9:.0f} GB of disk are free, {HUNYUAN_DISK_BYTES / 1e9:.0f} GB are needed")
    return made(out, "make_hunyuan_7b_shape.py")


def made(out: Path, script: str, *arguments: str) -> Path:
    """What a script of the benchmarks makes, once."""
    if not out.exists():
        subprocess.run(
            [sys.executable, BENCHES / script, *arguments[:1], out, *arguments[1:]], check=True, stdout=sys.stderr
        )
    return out


def bench(place: Place, model: Model, precision: str, steps: Steps, way: str) -> str:
    """The median step of the executor and the sampler, by the program."""
    rows = ",".join(map(str, model.sizes.rows))
    arguments = [place.artifact(model.checkpoint, precision), "--json", "--rows", rows, *model.sizes.bench]
    if way in GRAPHS:
        arguments.append("--enable-cuda-graph")
    found = json.loads(place.run("bench", *arguments))["results"]
    for result in found:
        assert result["step_ms"] > 0, result
        steps[Measured(model.name, precision, result["rows"], way)] = result["step_ms"]
    return "; ".join(
        f"{each['rows']} rows {each['step_ms']:.2f} ms, {each['tokens_per_second']:,.0f} tokens/s" for each in found
    )


def serve(place: Place, model: Model, precision: str, steps: Steps, way: str) -> str:
    """The mean step of the server, by its own histogram."""
    sizes = model.sizes
    config = decoupled(True) + parameters(
        max_sequences=max(sizes.rows),
        max_context_tokens=1024,
        max_target_tokens=1100,
        enable_cuda_graph=str(way in GRAPHS).lower(),
    )
    said = []
    with place.serve({"model": Entry(place.artifact(model.checkpoint, precision), config)}) as served:
        served.load("model")
        for rows in sizes.rows:
            ms, prompt = step_of_server(served, rows, sizes)
            steps[Measured(model.name, precision, rows, way)] = ms
            said.append(f"{rows} rows {ms:.2f} ms")
    return "; ".join(said) + f"; prompt of {prompt} tokens"


def step_of_server(served: Served, rows: int, sizes: Sizes) -> Tuple[float, int]:
    """Milliseconds of a step, and the prompt's tokens. Two requests that differ only in how much they generate have the
    same prefill: the steps between are of all rows."""
    metric = PREFIX + "step_duration_seconds"

    def run(tokens: int) -> Tuple[float, float, int]:
        def total(part: str) -> float:
            return served.server.metric(f"{metric}_{part}", model="model", phase="decode")

        before = total("sum"), total("count")
        reply = served.grpc.stream(
            "model",
            sizes.prompt,
            num_return_sequences=rows,
            # The candidates suffice: no logits are fetched.
            temperature=1.0,
            top_k=50,
            seed=1,
            max_tokens=tokens,
            min_tokens=tokens,
            return_num_input_tokens=True,
        )
        errors = [each.error for each in reply if each.error]
        assert not errors, errors
        prompt = next(each.outputs["num_input_tokens"][0] for each in reply if "num_input_tokens" in each.outputs)
        return total("sum") - before[0], total("count") - before[1], prompt

    # The first pays for memory, and records graphs.
    run(sizes.tokens[1])
    short, long = ([run(tokens) for _ in range(REPEATS)] for tokens in sizes.tokens)
    seconds, steps = (
        statistics.median(run[part] for run in long) - statistics.median(run[part] for run in short) for part in (0, 1)
    )
    expected = sizes.tokens[1] - sizes.tokens[0]
    # A prompt may be taken in one part more or less, as the clock says.
    assert abs(steps - expected) <= 2, f"{steps:.0f} steps between the two requests, expected {expected}"
    return seconds / steps * 1e3, long[0][2]


def against_the_model(steps: Steps, gpu: Optional[Gpu]) -> Tuple[List[str], List[List[str]]]:
    """A table of each step beside the model's."""
    columns = [
        "model",
        "precision",
        "rows",
        "measured by",
        "ms a step",
        "tokens/s",
        "the model says",
        "measured / model",
    ]
    known = {model.name: model for model in gpu_model.MODELS}
    rows = []
    for measured, ms in steps.items():
        model = known.get(measured.model)
        predicted, ratio = "nothing: no GPU" if gpu is None else "nothing of this model", ""
        if gpu and model and (gpu.bandwidth or device_of(gpu)):
            launch_s = gpu_model.REPLAY_S if measured.way in GRAPHS else gpu_model.LAUNCH_S
            seconds, bound = gpu_model.step(model, assumed(gpu), measured.precision, measured.rows, launch_s)
            predicted, ratio = f"{seconds * 1e3:.2f} ms, {bound}", f"{ms / seconds / 1e3:.2f}"
        rows.append(
            [
                measured.model,
                measured.precision,
                str(measured.rows),
                measured.way,
                f"{ms:.2f}",
                f"{measured.rows / ms * 1e3:,.0f}",
                predicted,
                ratio,
            ]
        )
    return columns, rows


def device_of(gpu: Gpu) -> str:
    """Which of the devices of `docs/gpu.md` it is; empty for another."""
    if "H100" in gpu.name and "PCIe" not in gpu.name and "NVL" not in gpu.name:
        return "H100 SXM"
    return "L4" if gpu.name.split()[-1] == "L4" else ""


def assumed(gpu: Gpu) -> gpu_model.Device:
    """The model's figures for a device; of one that it does not know, the bandwidth is that of its clock, and
    multiplying bounds nothing."""
    known = {device.name: device for device in gpu_model.DEVICES}
    return known.get(device_of(gpu)) or gpu_model.Device(gpu.name, gpu.bandwidth, math.inf)


class Claim(NamedTuple):
    """A line of the table in `docs/gpu.md`."""

    text: str
    #: Devices that it is about; none are all.
    devices: Tuple[str, ...]
    #: What was measured, and whether the claim holds; a KeyError names what was not.
    judged: Callable[[Steps, str], Tuple[str, bool]]


def step_of_7b(steps: Steps, device: str) -> Tuple[str, bool]:
    ms, claimed = steps[Measured(HUNYUAN, "fp16", 1, BENCH)], {"H100 SXM": 5.63, "L4": 62.8}[device]
    return f"{ms:.2f} ms, claimed {claimed} ms", abs(ms / claimed - 1) <= 0.25


def int8_of_7b(steps: Steps, _: str) -> Tuple[str, bool]:
    times = [steps[Measured(HUNYUAN, precision, 1, BENCH)] for precision in ("fp16", "int8")]
    return f"{times[0] / times[1]:.2f} times fp16", times[0] / times[1] >= 1.7


def graphs_of_smollm2(steps: Steps, _: str) -> Tuple[str, bool]:
    times = [steps[Measured(SMOLLM2.name, "fp16", 1, way)] for way in (BENCH, BENCH_GRAPH)]
    return f"{times[0] / times[1]:.2f} times as fast", times[0] / times[1] >= 2


def rows_of_mt5(steps: Steps, _: str) -> Tuple[str, bool]:
    times = [steps[Measured(MT5, "fp16", rows, BENCH)] for rows in (1, 8)]
    return f"{times[1] / times[0]:.2f} times one row", times[1] / times[0] <= 1.4


def candidates_of_mt5(_steps: Steps, _: str) -> Tuple[str, bool]:
    raise NotRun("no command takes TopK out of the step; needs a profiler (nsys) on `textgen bench`")


CLAIMS = [
    Claim("a step of HunYuan-7B in fp16 at 1 row: 5.6 ms on an H100, 63 ms on an L4", ("H100 SXM", "L4"), step_of_7b),
    Claim("int8 is at least 1.7 times fp16 there", ("H100 SXM", "L4"), int8_of_7b),
    Claim("CUDA graphs make SmolLM2 on an H100 at least twice as fast", ("H100 SXM",), graphs_of_smollm2),
    Claim("8 rows of mT5-base cost at most 1.4 times what 1 row costs on an L4", ("L4",), rows_of_mt5),
    Claim("64 candidates cost no more than 50 µs a row", (), candidates_of_mt5),
]


def judge(claim: Claim, steps: Steps, gpu: Gpu) -> str:
    """Holds a claim against what was measured."""
    device = device_of(gpu)
    if claim.devices and device not in claim.devices:
        raise NotRun(f"a claim about {' and '.join(claim.devices)}, this is {gpu.name}")
    try:
        said, holds = claim.judged(steps, device)
    except KeyError as missing:
        (lacking,) = missing.args
        hint = "; ask for it with --hunyuan-7b" if lacking.model == HUNYUAN else ""
        raise NotRun(
            f"{lacking.model}, {lacking.precision}, {lacking.rows} rows by {lacking.way} was not measured{hint}"
        ) from None
    assert holds, f"refuted: {said}"
    return said
