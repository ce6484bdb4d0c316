"""A client that asks at given times, whatever the server does: open loop. And one that keeps so many requests open."""

import asyncio
import json
import random
import time
from typing import Callable, List, NamedTuple

import grpc
from tritonclient.grpc import service_pb2_grpc

from serving import GrpcDoor


class Asked(NamedTuple):
    """A text and how many tokens its answer has."""

    text: str
    tokens: int


class Answered(NamedTuple):
    """When a request was due, and when its pieces came, in seconds of one clock."""

    due: float
    pieces: List[float]
    tokens: int

    @property
    def first_ms(self) -> float:
        """From when it was due to its first piece."""
        return (self.pieces[0] - self.due) * 1e3

    @property
    def whole_ms(self) -> float:
        """To its last piece."""
        return (self.pieces[-1] - self.due) * 1e3

    @property
    def gaps_ms(self) -> "List[float]":
        """Between its pieces."""
        return [(after - before) * 1e3 for before, after in zip(self.pieces, self.pieces[1:])]


class Door:
    """One way to one entry; `options` go with each request."""

    def __init__(self, port: int, model: str, options: "Callable[[Asked], dict]"):
        self.port = port
        self.model = model
        self.options = options

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass


class Grpc(Door):
    """gRPC streams over one channel."""

    def __init__(self, port, model, options, batch=False):
        super().__init__(port, model, options)
        self.batch = batch

    async def __aenter__(self):
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        return self

    async def __aexit__(self, *_):
        await self.channel.close()

    async def ask(self, asked: Asked) -> "List[float]":
        """When each piece came."""
        request = GrpcDoor.request(None, self.model, asked.text, batch=self.batch, **self.options(asked))
        pieces = []
        async for response in self.stub.ModelStreamInfer(iter([request])):
            assert not response.error_message, response.error_message
            if response.infer_response.outputs:
                pieces.append(time.perf_counter())
        return pieces


class Http(Door):
    """generate_stream, a connection for each request."""

    async def ask(self, asked: Asked) -> "List[float]":
        """When each piece came."""
        body = json.dumps({"text_input": asked.text, **self.options(asked)}).encode()
        head = f"POST /v2/models/{self.model}/generate_stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            status = await reader.readline()
            assert b" 200 " in status, status + await reader.read()
            pieces = []
            # Each event is one chunk, and ends its last line with the chunk.
            async for line in reader:
                if line.startswith(b"data: "):
                    assert not line.startswith(b'data: {"error"'), line
                    pieces.append(time.perf_counter())
            return pieces
        finally:
            writer.close()


async def open_loop(door: Door, requests: List[Asked], rate: float, seed: int) -> "List[Answered]":
    """Asks at random times, so many a second on average."""
    clock = random.Random(seed)
    due, tasks = time.perf_counter() + 0.1, []
    async with door:
        for asked in requests:
            due += clock.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(answered(door, asked, due)))
        return list(await asyncio.gather(*tasks))


async def closed_loop(door: Door, requests: List[Asked], open_at_once: int) -> "List[Answered]":
    """Keeps so many requests open until all are answered."""
    places = asyncio.Semaphore(open_at_once)

    async def one(asked):
        async with places:
            return await answered(door, asked, time.perf_counter())

    async with door:
        return list(await asyncio.gather(*(one(asked) for asked in requests)))


async def answered(door, asked, due):
    return Answered(due, await door.ask(asked), asked.tokens)
