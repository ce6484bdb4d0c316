"""The real server for benchmarks, by the harness of the tests."""

import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from harness import places  # noqa: E402
from harness.grpc_door import GrpcDoor, replies  # noqa: E402
from harness.repository import Repository  # noqa: E402
from harness.server import TritonServer  # noqa: E402

#: Where benchmarks keep what they make.
CACHE = places.CACHE / "bench"


@contextmanager
def serve(
    fill, *arguments: str, variables: "Optional[Dict[str, str]]" = None
) -> "Iterator[Tuple[TritonServer, GrpcDoor]]":
    """A server over the repository that `fill` fills, once its models are ready."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder) / "repository")
        fill(repository)
        with TritonServer(repository.path, Path(folder) / "server.log", arguments, variables) as server:
            door = GrpcDoor(server.grpc_port)
            try:
                yield server, door
            finally:
                door.close()


class Timed(NamedTuple):
    """A streamed request and when it said what."""

    sent: float
    #: When each piece came, and what came with it.
    pieces: List[Tuple[float, Dict[str, List[Any]]]]

    @property
    def first_ms(self) -> float:
        """From sending it to its first piece."""
        return (self.pieces[0][0] - self.sent) * 1e3


def timed(door: GrpcDoor, model: str, text=None, **options: Any) -> Timed:
    """One streamed request, to its end."""
    request = door.request(model, text, stream=True, **options)
    sent, pieces = time.perf_counter(), []
    for reply in replies(door.open_stream(request, timeout_s=3600)):
        assert not reply.error, reply.error
        pieces.append((time.perf_counter(), reply.outputs))
    return Timed(sent, pieces)
