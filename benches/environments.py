"""The peers' environments, each made of its own pinned requirements, in `.cache/bench/environments`."""

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

from cache import CACHE, HERE


class Unavailable(Exception):
    """Why something cannot be measured here; the report says so."""


def python(name: str) -> Path:
    """The interpreter of an environment, which is made when it is missing or its requirements have changed."""
    requirements = HERE / "requirements" / f"{name}.txt"
    folder = CACHE / "environments" / name
    stamp = folder / f"stamp-{zlib.crc32(requirements.read_bytes()):08x}"
    interpreter = folder / "bin" / "python"
    if not stamp.exists():
        print(f"installing {requirements.relative_to(HERE.parent)}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        call([os.environ.get("PYTHON", sys.executable), "-m", "venv", folder])
        pip = [interpreter, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        call([*pip, "--only-binary=:all:", "-r", requirements])
        stamp.touch()
    return interpreter


def call(command, text: str = "", **variables: str) -> str:
    """What a program prints, given a text; Unavailable says how it failed."""
    command = [str(part) for part in command]
    # Nothing is fetched but packages.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **variables}
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
    except OSError as error:
        raise Unavailable(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        what = " ".join(Path(part).name for part in command[:2])
        raise Unavailable(f"{what} ended with {done.returncode}: {lines[-1].strip()[:300]}")
    return done.stdout
