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
DATA = ROOT / "tests" / "data"
CACHE = ROOT / ".cache"
MODELS = CACHE / "models"
ENSEMBLE_CONFIG = ROOT / "model_repository" / "paraphrase-en" / "config.pbtxt"


def model(direction: str, precision: str = "int8") -> Path:
    """Repository entry that `make` converted, for example `model("en-pt")`."""
    entry = MODELS / precision / f"translate-{direction}"
    if not (entry / ".converted").exists():
        raise FileNotFoundError(f"{entry} has not been converted; run `make test`")
    return entry


def sentences() -> "list[str]":
    """The committed English sentences, one a line."""
    return (DATA / "sentences.en.txt").read_text(encoding="utf-8").splitlines()
