"""The report in Markdown: what was aimed at, and every table."""

from typing import Any, Dict, Iterator, List, Optional, Tuple

from machine import heading

Parts = Dict[str, Dict[str, Any]]

#: Rows of the README's table: what, where it is found, the target, and how a value is written.
TITLES = {
    "engines.mt5-base": "mT5-base's shape, random weights",
    "engines.flan-t5-small": "Flan-T5-small's shape, random weights",
    "engines.smollm2": "SmolLM2-135M",
    "engines.bergamot": "Bergamot, English to Portuguese, real sentences",
}


def summary(parts: Parts) -> str:
    """One line for each target, met or not, and what else was lost."""
    lines = [heading(parts), "", "| measured | ratio or share | target | |", "| --- | --- | --- | --- |"]
    for what, value, target, higher in targets(parts):
        if value is None:
            lines.append(f"| {what} | not measured | {number(target)} | |")
            continue
        met = value >= target if higher else value <= target
        lines.append(f"| {what} | {number(value)} | {number(target)} | {'met' if met else 'missed'} |")
    lines += ["", *losses(parts)]
    return "\n".join(lines).rstrip() + "\n"


def number(value: float) -> str:
    return f"{value:.2f}"


def find(parts: Parts, part: str, **wanted: Any) -> "Optional[Dict[str, Any]]":
    """The result with these values."""
    results = parts.get(part, {}).get("results", [])
    return next((each for each in results if all(each.get(key) == value for key, value in wanted.items())), None)


def median(entry: "Optional[Dict[str, Any]]", key: str) -> "Optional[float]":
    return entry[key]["median"] if entry and key in entry else None


def ratio(ours: "Optional[float]", theirs: "Optional[float]") -> "Optional[float]":
    return ours / theirs if ours and theirs else None


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


def targets(parts: Parts) -> "Iterator[Tuple[str, Optional[float], float, bool]]":
    """What, the value, the target, and whether more is better. Two threads throughout."""
    for rows, target in (1, 3.0), (8, 3.0), (32, 2.5):
        yield f"mT5-base int8, {rows} rows: tokens/s over CTranslate2's", rate_ratio(parts, "engines.mt5-base", rows, "int8"), target, True
    trimmed = rate_ratio(parts, "engines.mt5-base", 1, "int8", "textgen trimmed")
    yield "mT5-base int8 trimmed, 1 row, over CTranslate2 untrimmed", trimmed, 6.0, True
    one = find(parts, "engines.mt5-base", engine="textgen", precision="int8", threads=2, rows=1)
    yield "mT5-base int8, 1 row: share of the read bandwidth", median(one, "bandwidth_share"), 0.75, True
    for rows, target in (1, 1.5), (8, 2.0), (32, 3.0):
        value = rate_ratio(parts, "engines.smollm2", rows, "int8")
        yield f"SmolLM2 int8, {rows} rows: tokens/s over the best peer's in int8", value, target, True
    for rows, target in (1, 2.0), (64, 4.0):
        what = "one sentence" if rows == 1 else f"{rows} sentences"
        yield f"Bergamot, {what}: speed over the native engine's", rate_ratio(parts, "engines.bergamot", rows, "int8"), target, True
    served = parts.get("served", {})
    for door in ("textgen, gRPC", "textgen, HTTP"):
        yield f"server at 80 % of the Python backend's maximum, {door}: p95 to the first token over its", first_token(served, door), 0.5, False
    most = {each["door"]: each["requests_per_second"]["median"] for each in served.get("maximum", [])}
    value = ratio(most.get("textgen, gRPC"), served.get("python_backend_requests_per_second"))
    yield "server: maximum throughput over the Python backend's", value, 2.5, True
    two = find(parts, "overhead", threads=2)
    yield "server and backend over the bare engine, 32 streams: longer time between tokens", median(two, "wall_overhead"), 0.05, False


def first_token(served: "Dict[str, Any]", door: str) -> "Optional[float]":
    """At the highest share: ours over the better of the Python backend's forms."""
    loads = served.get("loads", [])
    top = max((each["share"] for each in loads), default=None)
    found = {each["door"]: each["first_ms_p95"]["median"] for each in loads if each["share"] == top}
    return ratio(found.get(door), min((value for name, value in found.items() if not name.startswith("textgen")), default=None))


def losses(parts: Parts) -> "List[str]":
    """Where a peer in the same precision is ahead, on any number of threads, in any of what is measured."""
    lines = []
    kinds = {
        "total_ms": ("the whole", False),
        "decode_tokens_per_second": ("decoding", True),
        "input_tokens_per_second": ("taking in the inputs", True),
        "load_ms": ("loading", False),
        "resident_bytes": ("memory", False),
    }
    for part, title in TITLES.items():
        results = parts.get(part, {}).get("results", [])
        for own in (each for each in results if each["engine"] == "textgen"):
            same = ("precision", "threads", "rows")
            peers = [each for each in results if not each["engine"].startswith("textgen") and all(each[key] == own[key] for key in same)]
            for key, (what, higher) in kinds.items():
                # Loading and memory do not depend on the rows.
                if key not in own or (key in ("load_ms", "resident_bytes") and own["rows"] != results[0]["rows"]):
                    continue
                for peer in peers:
                    by = ratio(median(peer, key), median(own, key)) if higher else ratio(median(own, key), median(peer, key))
                    if by and by > 1.02:
                        rows = "" if key in ("load_ms", "resident_bytes") else f", {own['rows']} rows"
                        lines.append(f"- {title}, {own['precision']}, {own['threads']} threads{rows}: {peer['engine']} is ahead in {what}, {by:.2f} times")
    skipped = [f"- not measured: {part}, {name}: {reason}" for part, each in parts.items() for name, reason in each.get("skipped", {}).items()]
    return (["Where others are ahead in the same precision, and what could not be measured:", ""] + lines + skipped) if lines or skipped else []


def document(parts: Parts) -> str:
    """The whole report."""
    sections = ["# Benchmarks", "Written by `make bench BENCH_ARGS=--publish`; every figure is a median over the rounds, with the least and the most in brackets.", summary(parts)]
    for part, title in TITLES.items():
        if part in parts:
            sections += [f"## {title}", *engine_tables(parts, part)]
    for name, write in ("served", served_tables), ("overhead", overhead_table), ("services", services_table), ("quality", quality_table):
        if name in parts and not parts[name].get("skipped"):
            sections += write(parts[name])
    return "\n\n".join(section.strip() for section in sections) + "\n"


def table(head: "List[str]", rows: "List[List[str]]") -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(spread: "Optional[Dict[str, float]]", scale: float = 1.0, digits: Optional[int] = None) -> str:
    """Median (least–most)."""
    if spread is None:
        return ""
    values = [spread[key] * scale for key in ("median", "min", "max")]
    if digits is None:
        digits = 2 if values[0] < 10 else 1 if values[0] < 100 else 0
    middle, least, most = (f"{value:.{digits}f}" for value in values)
    return middle if least == most else f"{middle} ({least}–{most})"


def engine_tables(parts: Parts, part: str) -> "Iterator[str]":
    """A table for each number of threads."""
    found, settings = parts[part], parts[part]["settings"]
    if part == "engines.bergamot":
        yield (
            "Text to text, tokenizers included, in milliseconds. The native engine takes one sentence at a time; it gets as many "
            "threads of its own as there are, and as many sentences at once. CTranslate2 cannot load the model: it has no SSRU, "
            "the recurrent unit that stands for self-attention in the decoder."
        )
    else:
        yield (
            f"Inputs of {settings['input_tokens']} tokens, {settings['tokens']} tokens generated in each row, tokens a second. "
            "*Inputs* is from the token ids to the first token, *decoding* from there to the last."
        )
    for threads in sorted({each["threads"] for each in found["results"]}, reverse=True):
        own = [each for each in found["results"] if each["threads"] == threads]
        engines = list(dict.fromkeys((each["engine"], each["precision"]) for each in own))
        sizes = settings["rows"]
        if part == "engines.bergamot":
            head = [f"{threads} threads"] + [f"{rows} at once" for rows in sizes] + ["load ms", "memory MiB"]
        else:
            head = [f"{threads} threads", "precision"] + [f"{kind}, {rows} rows" for rows in sizes for kind in ("decoding", "inputs")]
            head += ["load ms", "memory MiB", f"read bandwidth, {sizes[0]} rows", f"peak, {sizes[-1]} rows"]
        lines = []
        for engine, precision in engines:
            by_rows = {each["rows"]: each for each in own if (each["engine"], each["precision"]) == (engine, precision)}
            last = by_rows[sizes[-1]]
            costs = [cell(last["load_ms"]), cell(last["resident_bytes"], 2**-20, 0)]
            if part == "engines.bergamot":
                lines.append([engine] + [cell(by_rows[rows]["total_ms"]) for rows in sizes] + costs)
                continue
            line = [engine, precision]
            for rows in sizes:
                line += [cell(by_rows[rows].get(key)) for key in ("decode_tokens_per_second", "input_tokens_per_second")]
            line += costs + [percent(median(by_rows[sizes[0]], "bandwidth_share")), percent(peak_share(parts, last))]
            lines.append(line)
        yield table(head, lines)


def peak_share(parts: Parts, entry: "Dict[str, Any]") -> "Optional[float]":
    """Of what the processor multiplies in the same precision; int4 is multiplied in int8."""
    precision = "fp32" if entry["precision"] == "fp32" else "int8"
    peak = find(parts, "peak", threads=entry["threads"], precision=precision)
    return ratio(median(entry, "operations_per_second"), median(peak, "operations_per_second"))


def percent(value: "Optional[float]") -> str:
    return "" if value is None else f"{value:.0%}"


def served_tables(found: "Dict[str, Any]") -> "Iterator[str]":
    settings = found["settings"]
    yield "## Through the server, open loop"
    yield (
        f"{settings['model']}'s shape in {settings['precision']}, {settings['threads']} threads, texts and answers as long as one to four "
        "real sentences and their translations. `whole` and `streamed` are CTranslate2 in Triton's Python backend behind its "
        "dynamic batcher, with so many instances x threads: answers sent whole, or token by token from CTranslate2's callback. A static "
        "batch takes in nobody before it has ended. Times are from when a request was due."
    )
    head = ["64 requests open", "requests/s", "tokens/s", "server's CPU, ms a token", "client's CPU, ms a token"]
    keys = ("requests_per_second", "tokens_per_second", "server_cpu_ms_per_token", "client_cpu_ms_per_token")
    yield table(head, [[each["door"]] + [cell(each[key]) for key in keys] for each in found["maximum"]])
    for share in sorted({each["share"] for each in found["loads"]}):
        rate = share * found["python_backend_requests_per_second"]
        head = [f"{rate:.2f} requests/s, {share:.0%} of the Python backend's maximum", "tokens/s"]
        times = {"first_ms": "first token", "gap_ms": "between tokens", "whole_ms": "whole answer"}
        head += [f"{what}, ms p{level}" for what in times.values() for level in (50, 95, 99)]
        lines = []
        for each in (each for each in found["loads"] if each["share"] == share):
            line = [each["door"], cell(each["tokens_per_second"])]
            line += [cell(each.get(f"{key}_p{level}")) for key in times for level in (50, 95, 99)]
            lines.append(line)
        yield table(head, lines)


def overhead_table(found: "Dict[str, Any]") -> "Iterator[str]":
    settings = found["settings"]
    yield "## Server and backend over the bare engine"
    yield (
        f"{settings['rows']} gRPC streams of {settings['input_tokens']} input and {settings['tokens']} output tokens each, beside the same "
        "rows by `textgen bench`. Server and client share the processors with the engine; with one thread for the engine, the other "
        "processor is theirs. A step takes a token of every stream."
    )
    columns = {
        "alone_step_ms": "step alone, ms", "engine_step_ms": "step in the server, ms", "gap_ms": "between tokens of a stream, ms",
        "server_cpu_ms_per_step": "server's CPU a step, ms", "client_cpu_ms_per_step": "client's CPU a step, ms",
    }
    lines = []
    for each in found["results"]:
        line = [str(each["threads"]), *(cell(each[key]) for key in columns)]
        lines.append(line + [f"{each[key]['median']:+.1%}" for key in ("engine_overhead", "wall_overhead")])
    yield table(["threads", *columns.values(), "of the step", "in all"], lines)


def services_table(found: "Dict[str, Any]") -> "Iterator[str]":
    yield "## The services"
    yield "With the configuration and models of `make demo`. The published figures are of other, larger models on a GPU."
    published = found["published"]
    yield table(["", "here", "published"], [[what, cell(value), published.get(what, "")] for what, value in found["results"].items()])


def quality_table(found: "Dict[str, Any]") -> "Iterator[str]":
    yield "## Quality"
    lines = [[each["model"], each["precision"], each["measure"], f"{each['value']:.4f}"] for each in found["results"]]
    yield table(["model", "precision", "measure", "value"], lines)
