"""Where the checks run: on a GPU, or, to rehearse them, the same steps on the CPU."""

import json
import os
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from checkpoints import Checkpoint
from driver import Driver

from harness import places, program
from harness.grpc_door import GrpcDoor
from harness.http_door import HttpDoor
from harness.repository import Repository
from harness.server import TritonServer

#: What `make test-gpu` unpacks `requirements-gpu.txt` into.
PACKAGES = Path(os.environ.get("TEXTGEN_GPU_PACKAGES", places.ROOT / ".venv" / "gpu"))
#: What stands in for a precision of CUDA on the CPU; nothing does for bf16.
STAND_INS = {"fp16": "fp32", "int8": "int8", "int4": "int4"}
#: What hangs has failed: a large model loads within this.
PATIENCE_S = 1800
EXPLICIT = "--model-control-mode=explicit"


class Entry(NamedTuple):
    """An entry of the repository."""

    artifact: Path
    config: str = ""
    instances: int = 1
    #: Numbers of GPUs, as `gpus` of the instance group has them. Without, Triton makes the instances on each.
    gpus: Tuple[int, ...] = (0,)


class Served(NamedTuple):
    """A server that runs."""

    server: TritonServer
    http: HttpDoor
    grpc: GrpcDoor

    def load(self, name: str) -> float:
        """Loads an entry that must load; the seconds it took."""
        start = time.perf_counter()
        reply = self.http.load(name)
        assert reply.status == 200, reply
        return time.perf_counter() - start

    def unload(self, name: str) -> None:
        """Unloads an entry and waits until it is gone."""
        assert self.http.unload(name).status == 200
        deadline = time.monotonic() + 60
        # The server answers when the unload has begun.
        while self.state(name) == "UNLOADING" or self.http.ready(name):
            assert time.monotonic() < deadline, f"{name} is not unloaded after a minute"
            time.sleep(0.05)

    def state(self, name: str) -> str:
        """The state of an entry, as the server's index has it."""
        index = self.http.post("/v2/repository/index").json
        return next((entry.get("state", "") for entry in index if entry["name"] == name), "")

    def refusal(self, name: str) -> str:
        """What is said of an entry that must not load; the server must survive it."""
        reply = self.http.load(name)
        self.server.assert_alive()
        assert reply.status >= 400, f"{name} has been loaded: {reply}"
        return reply.error


class Place:
    """The GPU, or the CPU when there is none: artifacts, the program and the server for it."""

    def __init__(self, driver: Optional[Driver], tiny: bool, work: Path):
        self.driver = driver
        #: Whether everything is done with the smallest models, to try the harness.
        self.tiny = tiny
        self._work = work
        self._servers = 0
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)

    @property
    def on_gpu(self) -> bool:
        """Whether it is one."""
        return self.driver is not None

    @property
    def kind(self) -> str:
        """Of an instance group."""
        return "KIND_GPU" if self.on_gpu else "KIND_CPU"

    @property
    def runtime(self) -> Path:
        """ONNX Runtime's library."""
        if not self.on_gpu:
            return places.RUNTIME_LIBRARY
        found = list(PACKAGES.glob("onnxruntime/capi/libonnxruntime.so.*"))
        assert found, f"no ONNX Runtime in {PACKAGES}: run `make test-gpu`"
        return found[0]

    @property
    def variables(self) -> Dict[str, str]:
        """What programs are started with."""
        variables = {"TEXTGEN_RUNTIME_LIBRARY": str(self.runtime)}
        if self.on_gpu:
            folders = sorted({str(file.parent) for file in PACKAGES.glob("nvidia/**/lib*.so.*")})
            inherited = os.environ.get("LD_LIBRARY_PATH", "")
            variables["LD_LIBRARY_PATH"] = ":".join(folders + [inherited] * bool(inherited))
            # The driver keeps what it compiles in HOME.
            for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HOME"):
                if name in os.environ:
                    variables[name] = os.environ[name]
        return variables

    def can(self, precision: str) -> str:
        """Why a precision cannot run here; empty when it can."""
        if not self.on_gpu:
            return "" if precision in STAND_INS else f"nothing stands in for {precision} on the CPU"
        major, minor = self.driver.gpus[0].capability
        if precision == "bf16" and major < 8:
            return f"compute capability {major}.{minor}, bf16 needs 8.0"
        return ""

    def source(self, checkpoint: Checkpoint) -> Path:
        """The checkpoint as `convert` takes it."""
        return checkpoint.source(self._folder("checkpoint", checkpoint.name))

    def for_cuda(self, checkpoint: Checkpoint, precision: str) -> Path:
        """The checkpoint converted for CUDA."""
        return self._converted(checkpoint, "cuda", precision)

    def artifact(self, checkpoint: Checkpoint, precision: str) -> Path:
        """The checkpoint converted for what the checks run on."""
        if self.on_gpu:
            return self.for_cuda(checkpoint, precision)
        return self._converted(checkpoint, "cpu", STAND_INS[precision])

    def reference(self, checkpoint: Checkpoint) -> Path:
        """The checkpoint in fp32 for the CPU, which other tests compare with trusted implementations."""
        return self._converted(checkpoint, "cpu", "fp32")

    def _converted(self, checkpoint: Checkpoint, device: str, precision: str) -> Path:
        out = self._folder("artifacts", f"{checkpoint.name} {device} {precision}")
        if not out.exists():
            program.run("convert", self.source(checkpoint), "--out", out, "--device", device, "--precision", precision)
        return out

    def run(self, command: str, *arguments: object, lines: "List[Dict[str, Any]]" = ()) -> str:
        """`textgen COMMAND` on an artifact of this place."""
        return program.run(command, *arguments, lines=lines, variables=self.variables, timeout_s=PATIENCE_S)

    def answers(self, artifact: Path, lines: "List[Dict[str, Any]]", *arguments: object) -> "List[Dict[str, Any]]":
        """`textgen generate --jsonl` here; an answer for each sequence."""
        return parsed(self.run("generate", artifact, "--jsonl", *arguments, lines=numbered(lines)))

    @contextmanager
    def serve(self, entries: "Dict[str, Entry]") -> Iterator[Served]:
        """A server over these entries, none of them loaded."""
        self._servers += 1
        folder = self._folder("servers", str(self._servers))
        repository = Repository(folder / "repository")
        for name, entry in entries.items():
            gpus = f" gpus: {list(entry.gpus)}" if self.on_gpu else ""
            group = f"instance_group [ {{ kind: {self.kind} count: {entry.instances}{gpus} }} ]\n"
            repository.add(name, entry.config + group, artifact=entry.artifact)
        arguments = (EXPLICIT, "--log-info=true", f"--backend-config=textgen,runtime_library={self.runtime}")
        with TritonServer(repository.path, folder / "server.log", arguments, self.variables) as server:
            doors = HttpDoor(server.http_port, read_s=PATIENCE_S), GrpcDoor(server.grpc_port)
            try:
                yield Served(server, *doors)
            finally:
                for door in doors:
                    door.close()

    def clear(self) -> None:
        """Removes the models; the servers' logs stay."""
        for models in ("checkpoint", "artifacts"):
            shutil.rmtree(self._work / models, ignore_errors=True)

    def _folder(self, *names: str) -> Path:
        path = self._work.joinpath(*(re.sub(r"[^\w.-]+", "-", name) for name in names))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def numbered(lines: "List[Dict[str, Any]]") -> "List[Dict[str, Any]]":
    """The same with an id each."""
    return [{"id": index, **line} for index, line in enumerate(lines)]


def parsed(printed: str) -> "List[Dict[str, Any]]":
    """One object a line; none may be an error."""
    objects = [json.loads(line) for line in printed.splitlines()]
    errors = [object for object in objects if "error" in object]
    assert not errors, errors
    return objects
