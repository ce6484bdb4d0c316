"""Engines side by side, each in its library alone: no server, no queue.

A contender is one engine in one precision; a turn is one run of it, in a process of its own, which loads the model and
times every number of rows. Each round gives each contender its turn for each number of threads.
"""

import json
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import environments
import weights
from cache import CLI, HERE, RUNTIME_LIBRARY, SENTENCES
from environments import Unavailable, call
from report import spread

#: What a turn is told: threads, rows, input_tokens, tokens.
Settings = Dict[str, Any]


class Contender(NamedTuple):
    """An engine in one precision."""

    name: str
    precision: str
    #: What it found in one turn: `load_ms`, `resident_bytes`, and for each number of rows `first_ms` and `total_ms`.
    turn: "Callable[[Settings], Dict[str, Any]]"
    #: Rounds it takes part in, at most.
    rounds: int = 1000


def contenders(part: str) -> "List[Contender]":
    """Those of a part, ours first."""
    if part == "bergamot":
        return [Contender("textgen", "int8", bergamot_turn), Contender("native engine", "int8", native_turn)]
    if part == "smollm2":
        found = [ours(part, precision) for precision in ("int8", "int4", "fp32")]
        found += [peer("CTranslate2", part, precision, "ctranslate2") for precision in ("int8", "fp32")]
        found += [peer("ORT GenAI", part, precision, "genai", "torch") for precision in ("int8", "int4")]
        found += [peer("llama.cpp", part, "int8", "llama_cpp")]
    else:
        found = [ours(part, "int8"), ours(part, "fp32")]
        if part == "mt5-base":
            found.insert(1, ours(part, "int8", "--keep-scripts", "han,latin"))
        found += [peer("CTranslate2", part, precision, "ctranslate2") for precision in ("int8", "fp32")]
    # So far behind that one round of it says enough.
    return found + [peer("Transformers", part, "fp32", "transformers", "torch")._replace(rounds=1)]


def ours(part: str, precision: str, *flags: str) -> Contender:
    """`textgen bench` on what `textgen convert` makes with these flags."""

    def turn(settings):
        command = [CLI, "bench", weights.textgen(part, precision, *flags), "--json"]
        command += ["--threads", settings["threads"], "--rows", ",".join(map(str, settings["rows"]))]
        command += ["--source-tokens", settings["input_tokens"], "--steps", settings["tokens"]]
        found = json.loads(call(command, TEXTGEN_RUNTIME_LIBRARY=str(RUNTIME_LIBRARY)))
        # The first step takes the last token of a prompt, or the decoder's start.
        for result in found["results"]:
            result["first_ms"] = result["encode_ms"] + result["step_ms"]
        return found

    return Contender("textgen trimmed" if flags else "textgen", precision, turn)


def peer(name: str, part: str, precision: str, engine: str, environment: Optional[str] = None) -> Contender:
    """A program of `peers/` in its environment."""

    def turn(settings):
        python = environments.python(environment or engine)
        own = {"fp32": "float32"}.get(precision, precision) if engine == "ctranslate2" else precision
        model = weights.checkpoint(part) if engine == "transformers" else getattr(weights, engine)(part, own)
        told = {**settings, "model": str(model), "precision": own, "vocabulary": weights.VOCABULARY[part]}
        return json.loads(call([python, HERE / "peers" / f"{engine}_engine.py", json.dumps(told)]))

    return Contender(name, precision, turn)


def bergamot_turn(settings):
    """Texts through our whole engine, tokenizer included."""
    entry = weights.demo("translate-en-pt")
    command = [CLI, "bench", entry, "--json", "--texts", SENTENCES, "--threads", settings["threads"]]
    command += ["--rows", ",".join(map(str, settings["rows"])), "--max-sequences", max(settings["rows"])]
    return json.loads(call(command, TEXTGEN_RUNTIME_LIBRARY=str(RUNTIME_LIBRARY)))


def native_turn(settings):
    """As many threads of its own as it may use, and as many texts at once."""
    threads = settings["threads"]
    told = {"texts": str(SENTENCES), "direction": "en-pt", "rows": settings["rows"], "workers": threads}
    # The weights come with it, in the environment of the tests.
    return json.loads(
        call([sys.executable, HERE / "peers" / "native_engine.py", json.dumps(told)], RAYON_NUM_THREADS=str(threads))
    )


def measure(part: str, settings: Settings, rounds: int, threads: List[int]) -> "Dict[str, Any]":
    """Every contender of a part, in turns; those that cannot run are in `skipped`, with the reason."""
    turns: "Dict[tuple, List[Dict[str, Any]]]" = {}
    skipped: "Dict[str, str]" = {}
    field = contenders(part)
    for number in range(1, rounds + 1):
        for count in threads:
            for each in field:
                name = f"{each.name} {each.precision}"
                if name in skipped or number > each.rounds:
                    continue
                print(f"{part}: round {number} of {rounds}, {count} threads, {name}", file=sys.stderr, flush=True)
                try:
                    found = each.turn({**settings, "threads": count})
                    turns.setdefault((each.name, each.precision, count), []).append(found)
                except Unavailable as reason:
                    skipped[name] = str(reason)
                    print(f"SKIPPED {part}, {name}: {reason}", file=sys.stderr, flush=True)
    results = [
        result
        for (name, precision, count), found in turns.items()
        for result in summary(found, {"engine": name, "precision": precision, "threads": count}, settings)
    ]
    raw = [
        {"engine": name, "precision": precision, "threads": count, "rounds": found}
        for (name, precision, count), found in turns.items()
    ]
    return {"settings": settings, "results": results, "skipped": skipped, "turns": raw}


def summary(turns, who, settings):
    """Medians and spread over the rounds, for each number of rows."""
    for index, rows in enumerate(settings["rows"]):
        found = [turn["results"][index] for turn in turns]
        entry = {**who, "rows": rows, "total_ms": spread(each["total_ms"] for each in found)}
        for key in ("load_ms", "resident_bytes"):
            entry[key] = spread(turn[key] for turn in turns)
        if "first_ms" in found[0]:
            later = rows * (settings["tokens"] - 1)
            entry["first_ms"] = spread(each["first_ms"] for each in found)
            entry["input_tokens_per_second"] = spread(
                rows * settings["input_tokens"] / each["first_ms"] * 1e3 for each in found
            )
            entry["decode_tokens_per_second"] = spread(
                later / (each["total_ms"] - each["first_ms"]) * 1e3 for each in found
            )
        if "bandwidth_share" in found[0]:
            entry["bandwidth_share"] = spread(each["bandwidth_share"] for each in found)
            entry["read_bandwidth_bytes_per_second"] = spread(turn["read_bandwidth_bytes_per_second"] for turn in turns)
            # Every weight of a step is multiplied and added once for each row.
            bytes_each = {"int8": 1, "int4": 0.5, "fp32": 4}[who["precision"]]
            weights_read = turns[0]["decoder_weight_bytes"] / bytes_each
            entry["operations_per_second"] = spread(2 * weights_read * rows / each["step_ms"] * 1e3 for each in found)
        yield entry
