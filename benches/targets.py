"""What is aimed at."""

from typing import Any, Dict, List, NamedTuple, Optional

from results import Parts, find, median, ratio


class Target(NamedTuple):
    """A ratio or share on two threads, and what it is to be."""

    what: str
    #: None when it was not measured.
    value: Optional[float]
    target: float
    more_is_better: bool = True

    @property
    def met(self) -> bool:
        """True for one that was measured and reached."""
        if self.value is None:
            return False
        return self.value >= self.target if self.more_is_better else self.value <= self.target


def targets(parts: Parts) -> "List[Target]":
    """All of them, in the order of the report."""
    mt5, smollm2, bergamot = "engines.mt5-base", "engines.smollm2", "engines.bergamot"
    one = find(parts, mt5, engine="textgen", precision="int8", threads=2, rows=1)
    trimmed = rate_ratio(parts, mt5, 1, "int8", "textgen trimmed")
    served, two = parts.get("served", {}), find(parts, "overhead", threads=2)
    most = {each["door"]: each["requests_per_second"]["median"] for each in served.get("maximum", [])}
    most_ratio = ratio(most.get("textgen, gRPC"), served.get("python_backend_requests_per_second"))
    first = "served at 80 % of the Python backend's maximum, p95 to the first token over its,"
    return [
        Target("mT5-base int8, 1 row, speed over CTranslate2's", rate_ratio(parts, mt5, 1, "int8"), 3.0),
        Target("mT5-base int8, 8 rows", rate_ratio(parts, mt5, 8, "int8"), 3.0),
        Target("mT5-base int8, 32 rows", rate_ratio(parts, mt5, 32, "int8"), 2.5),
        Target("mT5-base int8 trimmed to Latin and Chinese, 1 row, over CTranslate2 untrimmed", trimmed, 6.0),
        Target("mT5-base int8, 1 row, share of the read bandwidth", median(one, "bandwidth_share"), 0.75),
        Target("SmolLM2 int8, 1 row, speed over the best peer's in int8", rate_ratio(parts, smollm2, 1, "int8"), 1.5),
        Target("SmolLM2 int8, 8 rows", rate_ratio(parts, smollm2, 8, "int8"), 2.0),
        Target("SmolLM2 int8, 32 rows", rate_ratio(parts, smollm2, 32, "int8"), 3.0),
        Target("Bergamot, one sentence, speed over the native engine's", rate_ratio(parts, bergamot, 1, "int8"), 2.0),
        Target("Bergamot, 64 sentences", rate_ratio(parts, bergamot, 64, "int8"), 4.0),
        Target(f"{first} gRPC", first_token(served, "textgen, gRPC"), 0.5, more_is_better=False),
        Target(f"{first} HTTP", first_token(served, "textgen, HTTP"), 0.5, more_is_better=False),
        Target("served, maximum throughput over the Python backend's", most_ratio, 2.5),
        Target(
            "server and backend, 32 streams, what they add to the time between two tokens",
            median(two, "wall_overhead"),
            0.05,
            more_is_better=False,
        ),
    ]


def first_token(served: "Dict[str, Any]", door: str) -> "Optional[float]":
    """At the highest share: ours over the better of the Python backend's forms."""
    loads = served.get("loads", [])
    top = max((each["share"] for each in loads), default=None)
    found = {each["door"]: each["first_ms_p95"]["median"] for each in loads if each["share"] == top}
    return ratio(
        found.get(door), min((value for name, value in found.items() if not name.startswith("textgen")), default=None)
    )


def rate_ratio(parts: Parts, part: str, rows: int, precision: str, ours: str = "textgen") -> "Optional[float]":
    """Tokens a second, from the inputs to the last token, ours over the best of the peers in the same precision."""
    told = {"threads": 2, "rows": rows, "precision": precision}
    peers = [
        each["total_ms"]["median"]
        for each in parts.get(part, {}).get("results", [])
        if not each["engine"].startswith("textgen") and all(each[key] == value for key, value in told.items())
    ]
    own = median(find(parts, part, engine=ours, **told), "total_ms")
    return ratio(min(peers, default=None), own)
