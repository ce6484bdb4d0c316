#!/usr/bin/env python3
"""What long prompts do to running streams: `make bench-prefill`.

Some chat streams run in the real server. The gaps between the pieces of each are taken at the client, first while
nothing else happens, then while prompts of two thousand tokens come, one at a time, each a text of its own, so that
no cached beginning helps; then quiet again, since the streams' contexts have grown. Gaps of a loaded time are those
that end between a prompt's sending and its first token. The prompt's time to first token is what the configuration
key `max_prefill_tokens` trades against them: the engine takes as many tokens as the streams can bear, that many at
most.
"""

import argparse
import statistics
import threading
import time
from pathlib import Path

from report import machine, percentile, save
from serving import CACHE, replies, serve, timed

from harness.repository import parameters
from harness.texts import QUESTION, long_prompt

MODEL = "chat"
SHARES = (0.5, 0.95, 0.99)


def main():
    options = arguments()
    report = {"machine": machine(), "settings": {key: str(value) for key, value in vars(options).items()}}
    report["results"] = []
    head = " ".join(f"p{share * 100:.0f}".rjust(8) for share in SHARES)
    print(f"{options.streams} streams, {options.prompts} prompts of about {options.prompt_tokens} tokens; milliseconds")
    print(f"{'':>7} {'quiet':^26} {'while prompts come':^26} {'p99':>6} {'first token':>12}")
    print(f"{'at most':>7} {head} {head} {'ratio':>6} {'of a prompt':>12}")
    for budget in options.budgets:
        result = measure(options, budget)
        report["results"].append(result)
        quiet, loaded = (" ".join(f"{ms:8.1f}" for ms in result[key].values()) for key in ("quiet_ms", "loaded_ms"))
        print(f"{budget:>7} {quiet} {loaded} {result['p99_ratio']:>6.2f} {result['first_token_ms']:>12.0f}", flush=True)
    save(report, options.out)


def arguments():
    parser = argparse.ArgumentParser(description="Measures what long prompts do to running streams.")
    parser.add_argument("--streams", type=int, default=8, help="streams that run (default 8)")
    parser.add_argument("--prompts", type=int, default=5, help="prompts that come (default 5)")
    parser.add_argument("--prompt-tokens", type=int, default=2000, help="tokens of each prompt (default 2000)")
    parser.add_argument("--quiet-tokens", type=int, default=60, help="tokens of each quiet time (default 60)")
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="values of max_prefill_tokens"
    )
    parser.add_argument("--out", type=Path, default=CACHE / "prefill.json", help="JSON file to write")
    return parser.parse_args()


def measure(options, budget):
    config = parameters(max_prefill_tokens=budget, request_timeout_ms=0)
    with serve(lambda repository: repository.add(MODEL, config, model=MODEL)) as (_, door):
        streams = [Stream(door, index) for index in range(options.streams)]
        for stream in streams:
            stream.wait_for(5)
        quiet = [quiet_time(streams, options.quiet_tokens)]
        prompts, tokens = [], []
        for number in range(options.prompts):
            extras = {"max_tokens": 1, "temperature": 0.0, "return_num_input_tokens": True}
            answer = timed(door, MODEL, long_prompt(options.prompt_tokens, seed=number), **extras)
            prompts.append((answer.sent, answer.pieces[0][0]))
            tokens += answer.pieces[-1][1]["num_input_tokens"]
        quiet.append(quiet_time(streams, options.quiet_tokens))
        for stream in streams:
            stream.stop()
        gaps = {"quiet_ms": gaps_in(streams, quiet), "loaded_ms": gaps_in(streams, prompts)}

    result = {"max_prefill_tokens": budget, "prompt_tokens": tokens}
    for key, found in gaps.items():
        result[key] = {f"p{share * 100:.0f}": percentile(found, share) for share in SHARES}
        result[key.replace("_ms", "_gaps")] = len(found)
    result["p99_ratio"] = result["loaded_ms"]["p99"] / result["quiet_ms"]["p99"]
    result["first_token_ms"] = statistics.median((end - start) * 1e3 for start, end in prompts)
    return result


class Stream:
    """A stream that runs until it is stopped, and when each of its pieces came."""

    def __init__(self, door, index):
        options = {"max_tokens": 3500, "min_tokens": 3500, "temperature": 0.8, "seed": index}
        self.times = []
        self.error = ""
        self.call = door.open_stream(door.request(MODEL, QUESTION, stream=True, **options), timeout_s=3600)
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        try:
            for reply in replies(self.call):
                self.times.append(time.perf_counter())
                self.error = reply.error
        except Exception as error:  # pylint: disable=broad-except
            self.error = str(error)

    def wait_for(self, pieces):
        """Until it has so many more pieces."""
        enough = len(self.times) + pieces
        while len(self.times) < enough:
            assert self.thread.is_alive(), f"a stream has ended: {self.error}"
            time.sleep(0.005)

    def stop(self):
        assert self.thread.is_alive(), f"a stream has ended: {self.error}"
        self.call.cancel()
        self.thread.join()


def quiet_time(streams, tokens):
    start = time.perf_counter()
    for stream in streams:
        stream.wait_for(tokens)
    return start, time.perf_counter()


def gaps_in(streams, spans):
    """Milliseconds between pieces of a stream, for those that came in one of the spans."""
    pairs = [pair for stream in streams for pair in zip(stream.times, stream.times[1:])]
    return [(b - a) * 1e3 for a, b in pairs if any(start <= b <= end for start, end in spans)]


if __name__ == "__main__":
    main()
