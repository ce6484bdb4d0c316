"""What the processor multiplies at most, for the engines' share of it."""

import json

import environments
from cache import HERE
from environments import Unavailable, call
from report import spread


def measure(options) -> dict:
    """Operations a second by threads and precision."""
    results, skipped = [], {}
    try:
        for threads in options.threads:
            command = [environments.python("torch"), HERE / "peers" / "peak.py", json.dumps({"threads": threads})]
            rounds = [json.loads(call(command)) for _ in range(options.rounds)]
            for precision in rounds[0]:
                found = spread(each[precision] for each in rounds)
                results.append({"threads": threads, "precision": precision, "operations_per_second": found})
    except Unavailable as reason:
        skipped["peak"] = str(reason)
    return {"settings": {}, "skipped": skipped, "results": results}
