"""The peers' environments, each made of its own pinned requirements, in `.cache/bench/environments`."""

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

from cache import CACHE, HERE

#: Environments whose packages have no wheels: they are made only when asked for.
COMPILED = ("llama_cpp",)
may_build = False
#: Seconds that a turn of a contender may take.
PATIENCE_S = 600


class Unavailable(Exception):
    """Why something cannot be measured here; the report says so."""


def python(name: str) -> Path:
    """The interpreter of an environment, which is made when it is missing or its requirements have changed."""
    requirements = HERE / "requirements" / f"{name}.txt"
    folder = CACHE / "environments" / name
    stamp = folder / f"stamp-{zlib.crc32(requirements.read_bytes()):08x}"
    interpreter = folder / "bin" / "python"
    if not stamp.exists():
        if name in COMPILED and not may_build:
            raise Unavailable(f"{name} must be compiled, which takes long; run with --with-{name.replace('_', '-')}")
        print(f"installing {requirements.relative_to(HERE.parent)}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        call([os.environ.get("PYTHON", sys.executable), "-m", "venv", folder])
        pip = [interpreter, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        wheels = [] if name in COMPILED else ["--only-binary=:all:"]
        call([*pip, *wheels, "-r", requirements], patience_s=3600)
        stamp.touch()
    return interpreter


def call(command, text: str = "", patience_s: float = PATIENCE_S, **variables: str) -> str:
    """What a program prints, given a text; Unavailable says how it failed."""
    command = [str(part) for part in command]
    what = " ".join(Path(part).name for part in command[:2])
    # Nothing is fetched but packages.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **variables}
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, timeout=patience_s)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{what} was not done after {patience_s:.0f} s") from error
    except OSError as error:
        raise Unavailable(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        # A traceback ends with the error; other programs begin with it.
        told = next((line for line in lines if line.startswith("error: ")), lines[-1])
        raise Unavailable(f"{what} ended with {done.returncode}: {told.strip()[:300]}")
    return done.stdout
