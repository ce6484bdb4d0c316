"""The report in Markdown: the summary that the README shows, and every table."""

from typing import Any, Dict, Iterator, List, Optional

from losses import losses
from machine import heading
from results import TITLES, Parts, count, find, median, ratio
from targets import targets


def summary(parts: Parts) -> str:
    """One line for each target, met or not, and what else was lost."""
    lines = [heading(parts), ""]
    rows = []
    for each in targets(parts):
        verdict = "not measured" if each.value is None else "met" if each.met else "missed"
        bound = "at least" if each.more_is_better else "at most"
        rows.append([each.what, "" if each.value is None else f"{each.value:.2f}", f"{bound} {each.target:g}", verdict])
    lines += [table(["measured on two threads", "ratio or share", "target", ""], rows), "", *losses(parts)]
    return "\n".join(lines).rstrip() + "\n"


def document(parts: Parts) -> str:
    """The whole report."""
    sections = [
        "# Benchmarks",
        "Written by `make bench BENCH_ARGS=--publish`. Every figure is a median over the rounds, with the least and the "
        "most in brackets.",
        summary(parts),
    ]
    for part, title in TITLES.items():
        if part in parts:
            sections += [f"## {title}", *engine_tables(parts, part)]
    for name, write in (
        ("served", served_tables),
        ("overhead", overhead_table),
        ("services", services_table),
        ("quality", quality_table),
    ):
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
            "Text to text, tokenizers included, in milliseconds. The native engine takes one sentence at a time; "
            "it gets as many "
            "threads of its own as there are, and as many sentences at once. CTranslate2 cannot load the model: "
            "it has no SSRU, "
            "the recurrent unit that stands for self-attention in the decoder."
        )
    else:
        yield (
            f"Inputs of {settings['input_tokens']} tokens, {settings['tokens']} tokens generated in each row, "
            "tokens a second. "
            "*Inputs* is from the token ids to the first token, *decoding* from there to the last."
        )
    for threads in sorted({each["threads"] for each in found["results"]}, reverse=True):
        own = [each for each in found["results"] if each["threads"] == threads]
        engines = list(dict.fromkeys((each["engine"], each["precision"]) for each in own))
        sizes = settings["rows"]
        if part == "engines.bergamot":
            head = [f"{threads} threads"] + [f"{rows} at once" for rows in sizes] + ["load ms", "memory MiB"]
        else:
            head = [f"{threads} threads", "precision"] + [
                f"{kind}, {count(rows)}" for rows in sizes for kind in ("decoding", "inputs")
            ]
            head += ["load ms", "memory MiB", f"read bandwidth, {count(sizes[0])}", f"peak, {count(sizes[-1])}"]
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
                line += [
                    cell(by_rows[rows].get(key)) for key in ("decode_tokens_per_second", "input_tokens_per_second")
                ]
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
        f"{settings['model']}'s shape in {settings['precision']}, {settings['threads']} threads, texts and "
        "answers as long as one to four "
        "real sentences and their translations. CTranslate2 is in Triton's Python backend behind "
        "its dynamic batcher, with so many instances x threads; it sends answers whole, or token by token "
        "from its callback. A static "
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
        f"{settings['rows']} gRPC streams of {settings['input_tokens']} input and {settings['tokens']} output "
        "tokens each, beside the same "
        "rows by `textgen bench`. Server and client share the processors with the engine; with one thread for"
        " the engine, the other "
        "processor is theirs. A step takes a token of every stream."
    )
    columns = {
        "alone_step_ms": "step alone, ms",
        "engine_step_ms": "step in the server, ms",
        "gap_ms": "between tokens of a stream, ms",
        "server_cpu_ms_per_step": "server's CPU a step, ms",
        "client_cpu_ms_per_step": "client's CPU a step, ms",
    }
    lines = []
    for each in found["results"]:
        line = [str(each["threads"]), *(cell(each[key]) for key in columns)]
        lines.append(line + [f"{each[key]['median']:+.1%}" for key in ("engine_overhead", "wall_overhead")])
    yield table(["threads", *columns.values(), "of the step", "in all"], lines)


def services_table(found: "Dict[str, Any]") -> "Iterator[str]":
    yield "## The services"
    yield "Configuration and models of `make demo`. The published figures are of other, larger models on a GPU."
    published = found["published"]
    yield table(
        ["", "here", "published"],
        [[what, cell(value), published.get(what, "")] for what, value in found["results"].items()],
    )


def quality_table(found: "Dict[str, Any]") -> "Iterator[str]":
    yield "## Quality"
    lines = [[each["model"], each["precision"], each["measure"], f"{each['value']:.4f}"] for each in found["results"]]
    yield table(["model", "precision", "measure", "value"], lines)
