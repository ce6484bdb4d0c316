"""What every benchmark says in the end."""

import json
import math
import os
import platform
import statistics
from pathlib import Path
from typing import Any, Dict, Iterable, List


def machine() -> Dict[str, Any]:
    """Where it was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform()}


def percentile(values: List[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(values: "Iterable[float]") -> "Dict[str, float]":
    """Median, least and most."""
    found = list(values)
    return {"median": statistics.median(found), "min": min(found), "max": max(found)}


def save(report: Dict[str, Any], path: Path) -> None:
    """Writes the JSON file and says where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten to {path}")
