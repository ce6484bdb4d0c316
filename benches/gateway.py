#!/usr/bin/env python3
"""What the gateway costs: `make bench-gateway`.

The same short translation, asked in turns of Triton over gRPC, and of the gateway by POST and over a WebSocket: what
the gateway adds to the time. Then so many streams at once, from Triton and through the gateway: tokens a second, and
the gateway's memory.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import grpc
import websockets
from report import machine, percentile, save
from serving import CACHE, serve
from tritonclient.grpc import service_pb2_grpc

from harness import places
from harness.gateway import Gateway
from harness.grpc_door import GrpcDoor, outputs
from harness.repository import decoupled, parameters

MODEL = "translate-en-pt"
CONFIG = f"""
[translate]
pairs = [{{ src = "en", tgt = "pt", model = "{MODEL}" }}]
options = {{ temperature = 0 }}
"""


def main():
    options = arguments()
    sentences = places.sentences()

    def fill(repository):
        repository.add(MODEL, decoupled(True) + parameters(max_queue_requests=4096, request_timeout_ms=0))

    with tempfile.TemporaryDirectory() as folder, serve(fill) as (server, door):
        config = Path(folder) / "gateway.toml"
        config.write_text(CONFIG)
        limits = ["--cache-entries=0", f"--max-active={options.streams}", "--log-level=warn"]
        with Gateway(server.grpc_port, Path(folder) / "gateway.log", *limits, config=config) as gateway:
            gateway.until_ready()
            latency = asyncio.run(latencies(door, gateway, sentences, options.requests))
            idle = gateway.rss_bytes()
            texts = [" ".join(sentences[at % 60 : at % 60 + options.sentences]) for at in range(options.streams)]
            loads, peak = {"triton": [], "gateway": []}, idle
            for _ in range(options.rounds):
                loads["triton"].append(asyncio.run(from_triton(server.grpc_port, texts)))
                rate, seen = asyncio.run(through_gateway(gateway, texts))
                loads["gateway"].append(rate)
                peak = max(peak, seen)

    report = {"machine": machine(), "settings": {key: str(value) for key, value in vars(options).items()}}
    report["latency_ms"] = {
        way: {"p50": percentile(found, 0.5), "p95": percentile(found, 0.95)} for way, found in latency.items()
    }
    base = report["latency_ms"]["triton"]["p50"]
    print(f"one sentence, {options.requests} times each, ms{'p50':>12}{'p95':>8}{'added at p50':>15}")
    for way, found in report["latency_ms"].items():
        print(f"{way:<34}{found['p50']:>10.2f}{found['p95']:>8.2f}{found['p50'] - base:>15.2f}")
    report["tokens_per_second"] = {way: percentile(rates, 0.5) for way, rates in loads.items()}
    report["memory_bytes"] = {"idle": idle, "peak": peak}
    print(f"\n{options.streams} streams at once, {options.sentences} sentences each")
    for way, rate in report["tokens_per_second"].items():
        print(f"{way:<34}{rate:>10.0f} tokens/s")
    print(f"gateway's memory: {idle / 2**20:.1f} MiB before, {peak / 2**20:.1f} MiB at most")
    save(report, options.out)


def arguments():
    parser = argparse.ArgumentParser(description="Measures what the gateway costs.")
    parser.add_argument("--requests", type=int, default=300, help="requests of each way, for the latency (default 300)")
    parser.add_argument("--streams", type=int, default=200, help="streams at once (default 200)")
    parser.add_argument("--sentences", type=int, default=8, help="sentences of each stream (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of streams, in turns (default 3)")
    parser.add_argument("--out", type=Path, default=CACHE / "gateway.json", help="JSON file to write")
    return parser.parse_args()


def message(text):
    return json.dumps({"type": "translate", "id": "a", "text": text, "src_lang": "en", "tgt_lang": "pt"})


async def answered(socket, text):
    """Tokens of a translation, once it has ended."""
    await socket.send(message(text))
    while True:
        said = json.loads(await socket.recv())
        assert said["type"] != "error", said
        if said["type"] == "done":
            return said["usage"]["output_tokens"]


async def latencies(door, gateway, sentences, requests):
    times = {"triton": [], "gateway, POST": [], "gateway, WebSocket": []}
    address = f"ws://127.0.0.1:{gateway.port}/ws/translate"
    async with websockets.connect(address) as socket:
        for at in range(requests):
            text = sentences[at % len(sentences)]
            begin = time.perf_counter()
            pieces = door.stream(MODEL, text, temperature=0.0)
            times["triton"].append(time.perf_counter() - begin)
            assert pieces and not pieces[-1].error
            begin = time.perf_counter()
            status, _ = gateway.post("/translate", {"text": text, "tgt_lang": "pt"})
            times["gateway, POST"].append(time.perf_counter() - begin)
            assert status == 200
            begin = time.perf_counter()
            await answered(socket, text)
            times["gateway, WebSocket"].append(time.perf_counter() - begin)
    return {way: [seconds * 1e3 for seconds in found[requests // 10 :]] for way, found in times.items()}


async def from_triton(port, texts):
    """Tokens a second, each text in the sentences that the gateway makes of it, one after the other."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        begin = time.perf_counter()
        tokens = sum(await asyncio.gather(*(asked(stub, text) for text in texts)))
        return tokens / (time.perf_counter() - begin)


async def asked(stub, text):
    tokens = 0
    for sentence in text.rstrip(".").split(". "):
        options = {"stream": True, "temperature": 0.0, "return_num_output_tokens": True}
        request = GrpcDoor.request(None, MODEL, f"{sentence}.", **options)
        async for response in stub.ModelStreamInfer(iter([request])):
            assert not response.error_message, response.error_message
            tokens += sum(outputs(response.infer_response).get("num_output_tokens", []))
    return tokens


async def through_gateway(gateway, texts):
    """Tokens a second, and the most memory that was seen."""
    address = f"ws://127.0.0.1:{gateway.port}/ws/translate"
    sockets = await asyncio.gather(*(websockets.connect(address, open_timeout=60) for _ in texts))
    peak, done = 0, asyncio.Event()

    async def watch():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, gateway.rss_bytes())
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    begin = time.perf_counter()
    tokens = sum(await asyncio.gather(*(answered(socket, text) for socket, text in zip(sockets, texts))))
    seconds = time.perf_counter() - begin
    done.set()
    await watching
    await asyncio.gather(*(socket.close() for socket in sockets))
    return tokens / seconds, peak


if __name__ == "__main__":
    main()
