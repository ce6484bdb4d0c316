"""Where others are ahead, and what could not be measured."""

from typing import Any, Dict, Iterator, List

from results import TITLES, Parts, count, median, ratio

#: What is compared, its name, and whether more of it is better.
OF_ROWS = (
    ("total_ms", "the whole", False),
    ("decode_tokens_per_second", "decoding", True),
    ("input_tokens_per_second", "taking in the inputs", True),
)
#: The same for every number of rows.
OF_MODELS = (("load_ms", "loading", False), ("resident_bytes", "memory", False))
#: Ratios nearer to one than that are noise.
NOISE = 1.02


def losses(parts: Parts) -> "List[str]":
    """Lines of a list under its heading; none when there is nothing to say."""
    lines = [line for part, title in TITLES.items() for line in ahead(parts.get(part, {}).get("results", []), title)]
    for part, found in parts.items():
        lines += [f"- not measured: {part}, {name}: {reason}" for name, reason in found.get("skipped", {}).items()]
    if not lines:
        return []
    return ["Where others are ahead in the same precision, and what could not be measured:", "", *lines]


def ahead(results: "List[Dict[str, Any]]", title: str) -> "Iterator[str]":
    """A line for each measure of ours that a peer in the same precision, threads and rows beats."""
    for own in (each for each in results if each["engine"] == "textgen"):
        first = own["rows"] == results[0]["rows"]
        where = f"{title}, {own['precision']}, {own['threads']} threads"
        for peer in results:
            if peer["engine"].startswith("textgen") or any(
                peer[key] != own[key] for key in ("precision", "threads", "rows")
            ):
                continue
            for measures, place in (OF_ROWS, f"{where}, {count(own['rows'])}"), (OF_MODELS if first else (), where):
                for key, what, more_is_better in measures:
                    pair = median(peer, key), median(own, key)
                    by = ratio(*(pair if more_is_better else reversed(pair)))
                    if by and by > NOISE:
                        yield f"- {place}: {peer['engine']} is ahead in {what}, {by:.2f} times"
