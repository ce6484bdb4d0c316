"""What was measured, found by what it is of."""

from typing import Any, Dict, Optional

#: The results of each part by its name.
Parts = Dict[str, Dict[str, Any]]

#: The parts that measure engines.
TITLES = {
    "engines.mt5-base": "mT5-base's shape, random weights",
    "engines.flan-t5-small": "Flan-T5-small's shape, random weights",
    "engines.smollm2": "SmolLM2-135M",
    "engines.bergamot": "Bergamot, English to Portuguese, real sentences",
}


def find(parts: Parts, part: str, **wanted: Any) -> "Optional[Dict[str, Any]]":
    """The result with these values."""
    results = parts.get(part, {}).get("results", [])
    return next((each for each in results if all(each.get(key) == value for key, value in wanted.items())), None)


def median(entry: "Optional[Dict[str, Any]]", key: str) -> "Optional[float]":
    return entry[key]["median"] if entry and key in entry else None


def ratio(ours: "Optional[float]", theirs: "Optional[float]") -> "Optional[float]":
    return ours / theirs if ours and theirs else None


def count(rows: int) -> str:
    """So many rows, in words."""
    return f"{rows} row{'s' if rows > 1 else ''}"
