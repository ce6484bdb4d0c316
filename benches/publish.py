"""Puts the report where it is read."""

import re
from pathlib import Path

from cache import HERE

ROOT = HERE.parent
README = ROOT / "README.md"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
#: The README's block that is written anew stands between these.
BEGIN, END = "<!-- bench: written by `make bench BENCH_ARGS=--publish` -->", "<!-- /bench -->"


def publish(summary: str, document: str) -> "list[Path]":
    """Writes both; the files that were written."""
    text = README.read_text(encoding="utf-8")
    between = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
    if not between.search(text):
        raise SystemExit(f"error: {README}: no block between {BEGIN} and {END}; put the two lines back")
    README.write_text(between.sub(lambda _: f"{BEGIN}\n{summary}{END}", text, count=1), encoding="utf-8")
    DOCUMENT.write_text(document, encoding="utf-8")
    return [README, DOCUMENT]
