"""What server and backend add to the bare engine, with 32 streams.

The same numbers of input and output tokens: alone by `textgen bench`, and by 32 gRPC streams through the server. The
time between two tokens of a stream, while all 32 run, stands beside the step alone; so does the engine's own time for a
step in the server, which says how much of the difference is work of others on the same processors: the server's threads
and the client. With one thread for the engine, a processor is left to those.
"""

import asyncio
import json
import sys
import time

import processor_time
import weights
from cache import CLI, RUNTIME_LIBRARY
from environments import call
from load import Asked, Grpc, closed_loop
from report import percentile, spread
from serving import serve

from harness.metrics import PREFIX
from harness.repository import parameters

MODEL = "mt5-base"
ROWS = 32
INPUT_TOKENS = 32


def measure(options) -> dict:
    """Steps alone and in the server, in turns."""
    artifact = weights.textgen(MODEL, "int8")
    steps = 4 * options.tokens
    found = {threads: [] for threads in options.threads}

    def fill(repository):
        for threads in options.threads:
            limits = parameters(intra_op_threads=threads, max_sequences=ROWS, request_timeout_ms=0)
            repository.add(entry(threads), limits, artifact=artifact)

    with serve(fill) as (server, _):
        for number in range(options.rounds):
            for threads in options.threads:
                print(
                    f"overhead: round {number + 1} of {options.rounds}, {threads} threads", file=sys.stderr, flush=True
                )
                found[threads].append({**alone(artifact, threads, steps), **in_server(server, threads, steps)})
    results = []
    for threads, rounds in found.items():
        # Each round has its own two sides, measured one after the other.
        for each in rounds:
            each["wall_overhead"] = each["gap_ms"] / each["alone_step_ms"] - 1
            each["engine_overhead"] = each["engine_step_ms"] / each["alone_step_ms"] - 1
        results.append({"threads": threads, **{key: spread(each[key] for each in rounds) for key in rounds[0]}})
    settings = {"model": MODEL, "precision": "int8", "rows": ROWS, "input_tokens": INPUT_TOKENS, "tokens": steps}
    return {"settings": settings, "skipped": {}, "results": results}


def entry(threads):
    return f"threads-{threads}"


def alone(artifact, threads, steps):
    command = [CLI, "bench", artifact, "--json", "--rows", ROWS, "--threads", threads]
    command += ["--source-tokens", INPUT_TOKENS, "--steps", steps]
    found = json.loads(call(command, TEXTGEN_RUNTIME_LIBRARY=str(RUNTIME_LIBRARY)))
    (result,) = found["results"]
    return {"alone_step_ms": result["step_ms"]}


def in_server(server, threads, steps):
    def options(asked):
        return {"stream": True, "temperature": 0.0, "max_tokens": asked.tokens, "min_tokens": asked.tokens}

    def engine():
        sums = (
            server.metric(PREFIX + f"step_duration_seconds_{what}", model=entry(threads), phase="decode")
            for what in ("sum", "count")
        )
        return tuple(sums)

    door = Grpc(server.grpc_port, entry(threads), options)
    # The last of its tokens is the end, and the first two are one blank and the beginning of the word.
    texts = [Asked("abcdefghijklmnopqrstuvwxyz"[:1] * (INPUT_TOKENS - 2), steps)] * ROWS
    asyncio.run(closed_loop(door, texts, ROWS))
    before = engine(), processor_time.seconds(server.process.pid), time.process_time()
    answers = asyncio.run(closed_loop(door, texts, ROWS))
    (seconds, count), cpu, own = engine(), processor_time.seconds(server.process.pid), time.process_time()
    taken, count = seconds - before[0][0], count - before[0][1]
    begin = max(answer.pieces[0] for answer in answers)
    end = min(answer.pieces[-1] for answer in answers)
    gaps = [
        (after - earlier) * 1e3
        for answer in answers
        for earlier, after in zip(answer.pieces, answer.pieces[1:])
        if begin <= earlier and after <= end
    ]
    return {
        "gap_ms": percentile(gaps, 0.5),
        "engine_step_ms": taken / count * 1e3,
        "server_cpu_ms_per_step": (cpu - before[1]) / count * 1e3,
        "client_cpu_ms_per_step": (own - before[2]) / count * 1e3,
    }
