"""ONNX Runtime's GPU build in the real server: it serves on the CPU too, and what a GPU lacks is named in one error.

The machine of the tests has no GPU. There the server itself refuses KIND_GPU; KIND_MODEL gets as far as our own check.
"""

import ctypes
from pathlib import Path

import pytest

from harness import places, program
from harness.http_door import HttpDoor
from harness.repository import Repository
from harness.server import TritonServer
from harness.texts import ENGLISH

TEXT = "O gato dorme no sofá."
PROVIDER = "libonnxruntime_providers_cuda.so"
#: What the CUDA provider is linked with beside the system, and who has it.
NEEDED = {
    "libcuda.so.1": "NVIDIA driver",
    "libcudart.so.13": "nvidia-cuda-runtime",
    "libcublas.so.13": "nvidia-cublas",
    "libcublasLt.so.13": "nvidia-cublas",
    "libcurand.so.10": "nvidia-curand",
}


def kind(name):
    return f"instance_group [ {{ kind: {name} }} ]\n"


def is_here(library):
    """Whether the dynamic linker finds it, as it will for the server."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def gpu_build(tmp_path_factory):
    """A server whose backend folder has the GPU build beside the plugin, as the README says; models on demand."""
    assert places.GPU_RUNTIME.is_dir(), f"no {places.GPU_RUNTIME}: run `make test`"
    folder = tmp_path_factory.mktemp("gpu-build")
    backend = folder / "backends" / "textgen"
    backend.mkdir(parents=True)
    (backend / "libtriton_textgen.so").symlink_to(places.BACKEND / "libtriton_textgen.so")
    for library in places.GPU_RUNTIME.glob("libonnxruntime*.so*"):
        name = "libonnxruntime.so" if library.name.startswith("libonnxruntime.so.") else library.name
        (backend / name).symlink_to(library)
    repository = Repository(folder / "repository")
    repository.add("unsaid")
    repository.add("chosen", kind("KIND_MODEL"))
    cuda = folder / "cuda"
    program.run("convert", places.FIXTURES / "decoder" / "llama", "--out", cuda, "--device", "cuda")
    repository.add("cuda", kind("KIND_MODEL"), artifact=cuda)
    # Of an option that comes twice, the server takes the last.
    arguments = ("--model-control-mode=explicit", f"--backend-directory={backend.parent}")
    with TritonServer(repository.path, folder / "server.log", arguments) as server:
        door = HttpDoor(server.http_port)
        yield server, door
        door.close()


def test_a_model_for_the_cpu_is_served_by_the_gpu_build(gpu_build):
    server, http = gpu_build
    for name in ("unsaid", "chosen"):
        assert http.load(name).status == 200
        assert http.text(name, ENGLISH) == TEXT
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
    runtimes = {line.split()[-1] for line in mapped.splitlines() if "/libonnxruntime.so" in line}
    (gpu_runtime,) = places.GPU_RUNTIME.glob("libonnxruntime.so.*")
    assert runtimes == {str(gpu_runtime)}, "it is not the GPU build that serves"


def test_what_the_machine_lacks_is_named_in_one_error(gpu_build):
    server, http = gpu_build
    missing = {library for library in NEEDED if not is_here(library)}
    if not missing:
        pytest.skip("this machine has all that a GPU needs; make test-gpu checks the rest")
    reply = http.load("cuda")
    server.assert_alive()
    assert reply.status >= 400, reply
    assert PROVIDER in reply.error and "LD_LIBRARY_PATH" in reply.error, reply.error
    assert {library for library in NEEDED if f"{library} (" in reply.error} == missing, reply.error
    assert all(NEEDED[library] in reply.error for library in missing), reply.error
    assert http.load("unsaid").status == 200
    assert http.text("unsaid", ENGLISH) == TEXT
