"""Through the real server, open loop: ours beside CTranslate2 in Triton's Python backend, on the same weights.

Texts have the lengths of real ones, and answers the lengths of their translations. What the home-made answer can take
at most is found first, with 64 requests open all the time. Then requests come at random times (Poisson, a fixed seed), at
shares of that rate, to each of: ours by gRPC streams and by HTTP generate_stream, and the Python backend in two forms:
whole answers, and tokens sent from CTranslate2's callback. All are in one server and take turns.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import home_made
import processor_time
import weights
from cache import CLI, RUNTIME_LIBRARY
from environments import Unavailable, call
from load import Asked, Grpc, Http, closed_loop, open_loop
from report import percentile, spread
from serving import places, serve

from harness.repository import parameters

MODEL = "mt5-base"
#: Requests open at once when the maximum is sought; twice the rows of a batch, so that the next one is waiting.
OPEN = 64
ROWS = 32
SHARES = (0.4, 0.8)
#: What the Python backend is tried with: how it answers, instances, and threads of each.
TRIED = (("whole", 1, 2), ("whole", 2, 1), ("streamed", 1, 2), ("streamed", 2, 1))


def measure(options) -> dict:
    """Maximum rates, then latencies at shares of the home-made answer's."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            directory, variables = home_made.backends(Path(folder) / "backends")
        except Unavailable as reason:
            return {"skipped": {"served": str(reason)}}
        ours = weights.textgen(MODEL, "int8")

        def fill(repository):
            limits = parameters(max_sequences=ROWS, intra_op_threads=2, max_queue_requests=4096, request_timeout_ms=0)
            repository.add("textgen", limits, artifact=ours)
            for kind, instances, threads in TRIED:
                name = entry(kind, instances, threads)
                home_made.add(repository, name, MODEL, instances, threads, kind == "streamed")

        with serve(fill, directory, variables=variables) as (server, _):
            return measured(server, options)


def measured(server, options):
    texts = asked_texts(options.requests)
    doors = {
        "textgen, gRPC": Grpc(server.grpc_port, "textgen", of_ours),
        "textgen, HTTP": Http(server.http_port, "textgen", of_ours),
    }
    for kind, instances, threads in TRIED:
        name = f"CTranslate2 {kind}, {instances} x {threads}"
        doors[name] = Grpc(server.grpc_port, entry(kind, instances, threads), of_theirs, batch=True)
    for door in doors.values():
        asyncio.run(closed_loop(door, texts[:4], 4))

    most = {name: [] for name in doors if name != "textgen, HTTP"}
    for number in range(options.rounds):
        for name in most:
            say(f"maximum, round {number + 1} of {options.rounds}, {name}")
            most[name].append(run(server, closed_loop(doors[name], texts, OPEN)))
    rates = {name: spread(each["requests_per_second"] for each in found) for name, found in most.items()}
    # The better of what was tried, for each form.
    whole, streamed = (
        max((name for name in rates if kind in name), key=lambda name: rates[name]["median"])
        for kind in ("whole", "streamed")
    )
    base = max(rates[whole]["median"], rates[streamed]["median"])
    loads = {(name, share): [] for share in SHARES for name in ("textgen, gRPC", "textgen, HTTP", whole, streamed)}
    for number in range(options.rounds):
        for (name, share), found in loads.items():
            say(f"{share:.0%} of the Python backend's maximum, round {number + 1} of {options.rounds}, {name}")
            count = max(8, min(len(texts), round(options.seconds * share * base)))
            found.append(run(server, open_loop(doors[name], texts[:count], share * base, seed=number)))
    return {
        "settings": {
            "model": MODEL,
            "precision": "int8",
            "threads": 2,
            "requests": len(texts),
            "seconds": options.seconds,
        },
        "skipped": {},
        "maximum": [{"door": name, **spreads(found)} for name, found in most.items()],
        "python_backend_requests_per_second": base,
        "loads": [{"door": name, "share": share, **spreads(found)} for (name, share), found in loads.items()],
    }


def entry(kind, instances, threads):
    """Its name in the repository."""
    return f"{kind}-{instances}x{threads}"


def say(text):
    print(f"served: {text}", file=sys.stderr, flush=True)


def of_ours(asked):
    return {"stream": True, "temperature": 0.0, "max_tokens": asked.tokens, "min_tokens": asked.tokens}


def of_theirs(asked):
    return {"max_tokens": asked.tokens}


def asked_texts(count):
    """Texts and lengths of answers: one to four sentences, as many tokens as the real translator reads and writes."""
    lines = [json.dumps({"text_input": sentence}) for sentence in places.sentences()]
    printed = call(
        [CLI, "generate", weights.demo("translate-en-pt"), "--jsonl"],
        text="\n".join(lines),
        TEXTGEN_RUNTIME_LIBRARY=str(RUNTIME_LIBRARY),
    )
    lengths = [(line["num_input_tokens"], line["num_output_tokens"]) for line in map(json.loads, printed.splitlines())]
    chance = random.Random(1)
    texts = []
    for _ in range(count):
        source, target = map(sum, zip(*chance.choices(lengths, k=chance.randint(1, 4))))
        # The first token is the blank before the word, the last the end.
        texts.append(Asked("".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=source - 2)), target))
    return texts


def run(server, client):
    """One load: its rates, percentiles, and processor time of server and client."""
    before = processor_time.seconds(server.process.pid), time.process_time()
    answers = asyncio.run(client)
    server_s = processor_time.seconds(server.process.pid) - before[0]
    client_s = time.process_time() - before[1]
    seconds = max(answer.pieces[-1] for answer in answers) - min(answer.due for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    result = {
        "requests": len(answers),
        "requests_per_second": len(answers) / seconds,
        "tokens_per_second": tokens / seconds,
        "server_cpu_ms_per_token": server_s / tokens * 1e3,
        "client_cpu_ms_per_token": client_s / tokens * 1e3,
    }
    times = {
        "first_ms": [answer.first_ms for answer in answers],
        "whole_ms": [answer.whole_ms for answer in answers],
        "gap_ms": [gap for answer in answers for gap in answer.gaps_ms],
    }
    for key, found in times.items():
        for share in (50, 95, 99) if found else ():
            result[f"{key}_p{share}"] = percentile(found, share / 100)
    return result


def spreads(found):
    return {key: spread(each[key] for each in found) for key in found[0]}
