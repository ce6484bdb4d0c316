"""Where the benchmarks find the harness of the tests, and keep what they make."""

import shutil
import sys
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from harness import places as harness_places  # noqa: E402

#: Kept from run to run: environments, checkpoints, conversions.
CACHE = harness_places.CACHE / "bench"
CLI = harness_places.CLI
RUNTIME_LIBRARY = harness_places.RUNTIME_LIBRARY
SENTENCES = harness_places.DATA / "sentences.en.txt"


def made(path: Path, make: "Callable[[Path], None]") -> Path:
    """The file or folder, made when it is missing; what is interrupted is made again."""
    if not path.exists():
        print(f"making {path.relative_to(HERE.parent)}", file=sys.stderr, flush=True)
        unfinished = path.with_name(path.name + ".unfinished")
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(unfinished)
        unfinished.rename(path)
    return path
