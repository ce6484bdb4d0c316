"""Entries for Triton's Python backend with CTranslate2, and how the server finds that backend."""

import sysconfig
from pathlib import Path

import environments
import weights
from cache import HERE
from environments import Unavailable, call
from serving import places

from harness.repository import Repository, parameters

CONFIG = """
backend: "python"
max_batch_size: 32
input [
  {{ name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] }}
]
output [ {{ name: "text_output" data_type: TYPE_STRING dims: [ 1 ] }} ]
dynamic_batching {{ max_queue_delay_microseconds: 5000 }}
instance_group [ {{ count: {instances} kind: KIND_CPU }} ]
model_transaction_policy {{ decoupled: {decoupled} }}
"""


def add(repository: Repository, name: str, model: str, instances: int, threads: int, decoupled: bool) -> None:
    """An entry of so many instances, each with so many threads."""
    options = parameters(
        model=weights.ctranslate2(model, "int8"),
        tokenizer=weights.checkpoint(model) / "tokenizer.json",
        threads=threads,
    )
    version = repository.path / name / "1"
    version.mkdir(parents=True)
    config = CONFIG.format(instances=instances, decoupled=str(decoupled).lower())
    (version.parent / "config.pbtxt").write_text(config + options)
    (version / "model.py").symlink_to(HERE / "python_backend" / "model.py")


def backends(folder: Path) -> "tuple[str, dict[str, str]]":
    """The server's argument and variables, with our backend and the Python one linked into a folder."""
    python = environments.python("ctranslate2")
    version = call([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    if call([python, "-c", "import numpy; print(numpy.__version__)"]).startswith("2"):
        raise Unavailable(f"Triton's Python backend needs numpy 1, which Python {version} cannot have; use 3.9 to 3.12")
    triton = places.NATIVE / "pytriton" / "tritonserver"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    library = Path(sysconfig.get_config_var("LIBDIR")) / f"libpython{version}.so.1.0"
    for file, remedy in (stub, "use Python 3.9 to 3.12"), (library, f"apt install libpython{version}"):
        if not file.exists():
            raise Unavailable(f"no {file}, which Triton's Python backend needs; {remedy}")
    own = folder / "python"
    own.mkdir(parents=True)
    for file in (*(triton / "backends" / "python").glob("*.*"), stub):
        (own / file.name).symlink_to(file)
    stub.chmod(0o755)
    (folder / "textgen").symlink_to(places.BACKEND)
    packages = call([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    return f"--backend-directory={folder}", {"PYTHONPATH": packages, "PATH": f"{python.parent}:/usr/bin:/bin"}
