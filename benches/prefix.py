#!/usr/bin/env python3
"""What a common beginning saves: `make bench-prefix`.

The same conversations, one after the other, with `prefix_reuse` on and off: one system text of some hundred tokens,
each time another question. The tokens must be the same. What differs is the time to the first one.
"""

import argparse
import json
import statistics
from pathlib import Path

from report import machine, percentile, save
from serving import CACHE, serve, timed

from harness import places
from harness.repository import parameters


def main():
    options = arguments()
    sentences = places.sentences()
    system = "You answer questions about the following notes. " + " ".join(sentences[: options.system_sentences])
    questions = [f"What do you think of this: {sentence}" for sentence in sentences[-options.requests :]]
    assert len(questions) == options.requests, f"there are {len(questions)} questions"

    def fill(repository):
        for reuse in ("true", "false"):
            repository.add(f"reuse-{reuse}", parameters(prefix_reuse=reuse), model="chat")

    with serve(fill) as (server, door):
        runs = {reuse: [ask(door, f"reuse-{reuse}", system, each, options) for each in questions] for reuse in ("true", "false")}
        hits, queries = (server.metric(f"textgen_prefix_cache_{what}_total", model="reuse-true") for what in ("hits", "queries"))
    same = [run["token_ids"] for run in runs["true"]] == [run["token_ids"] for run in runs["false"]]
    assert same, "the tokens differ"

    report = {"machine": machine(), "settings": {key: str(value) for key, value in vars(options).items()}}
    report["results"] = {f"prefix_reuse={reuse}": summary(found) for reuse, found in runs.items()}
    report["prompt_tokens_found"] = hits / queries
    tokens = statistics.median(run["prompt_tokens"] for run in runs["true"])
    print(f"{options.requests} requests of about {tokens:.0f} prompt tokens, {hits / queries:.0%} of them found in a cache; same tokens")
    print(f"{'time to first token, ms':<24}{'first':>8}{'later p50':>12}{'later p95':>12}{'whole p50':>12}")
    for name, found in report["results"].items():
        print(f"{name:<24}" + f"{found['first_ms']:>8.0f}" + "".join(f"{found[key]:>12.0f}" for key in ("later_p50_ms", "later_p95_ms", "whole_p50_ms")))
    save(report, options.out)


def arguments():
    parser = argparse.ArgumentParser(description="Measures what a common beginning of prompts saves.")
    parser.add_argument("--requests", type=int, default=50, help="requests (default 50)")
    parser.add_argument("--system-sentences", type=int, default=28, help="length of the common text (default 28)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens generated for each (default 32)")
    parser.add_argument("--out", type=Path, default=CACHE / "prefix.json", help="JSON file to write")
    return parser.parse_args()


def ask(door, model, system, question, options):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    greedy = {"max_tokens": options.tokens, "temperature": 0.0}
    extras = {"return_log_probs": True, "return_num_input_tokens": True}
    answer = timed(door, model, messages=json.dumps(messages), **greedy, **extras)
    tokens = [token["token_id"] for _, outputs in answer.pieces for text in outputs["logprobs"] for token in json.loads(text)]
    assert tokens
    return {
        "first_token_ms": answer.first_ms,
        "whole_ms": (answer.pieces[-1][0] - answer.sent) * 1e3,
        "prompt_tokens": answer.pieces[-1][1]["num_input_tokens"][0],
        "token_ids": tokens,
    }


def summary(runs):
    first, *later = [run["first_token_ms"] for run in runs]
    return {
        "first_ms": first,
        "later_p50_ms": percentile(later, 0.5),
        "later_p95_ms": percentile(later, 0.95),
        "whole_p50_ms": percentile([run["whole_ms"] for run in runs], 0.5),
    }


if __name__ == "__main__":
    main()
