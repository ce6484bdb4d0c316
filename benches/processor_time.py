"""Processor time of a process and its children."""

import os
from pathlib import Path


def seconds(pid: int) -> float:
    """User and system time of a process and all below it that run."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return own + sum(seconds(int(child)) for file in children for child in file.read_text().split())
