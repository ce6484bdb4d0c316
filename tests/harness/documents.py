"""What the project's own pages say."""

import re
from pathlib import Path
from typing import List, Set


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next heading of any level."""
    parts = re.split(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return parts[parts.index(heading) + 1]


def table(text: str, *columns: str) -> "List[List[str]]":
    """The cells of each row of the tables with these columns, of which there is one or more."""
    head = re.escape(f"| {' | '.join(columns)} |")
    tables = re.findall(rf"^{head}\n\|[ |:-]+\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert tables, f"no table has the columns {columns}"
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in "".join(tables).splitlines()]


def names(*cells: str) -> "Set[str]":
    """What stands between backticks."""
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
