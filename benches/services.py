"""The services of the gateway, with the configuration of `make demo`.

One text in three variants, twenty texts in five each, and a translation of ten sentences, of which the first piece is
waited for. `PUBLISHED` is what the services say of themselves that these are to stand for: other models, on a GPU.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from report import percentile, spread
from serving import places, serve

from harness.gateway import DEMO, Gateway

PUBLISHED = {
    "one text, 3 variants, p95 ms": "842 (RTX 3090)",
    "20 texts, 5 variants each, ms": "412 (RTX 3090)",
    "translation, first piece, ms": "300",
}
SENTENCES = 10


def measure(options) -> dict:
    """Each service in turns."""
    sentences = places.sentences()
    rounds = []
    with tempfile.TemporaryDirectory() as folder, serve(lambda repository: repository.add_demo()) as (server, _):
        log = Path(folder) / "gateway.log"
        with Gateway(server.grpc_port, log, "--cache-entries=0", "--log-level=warn", config=DEMO) as gateway:
            gateway.until_ready()
            asked(gateway, "/augment", text=sentences[0])
            for number in range(options.rounds):
                print(f"services: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
                rounds.append(one_round(gateway, sentences, number))
    results = {key: spread(each[key] for each in rounds) for key in rounds[0]}
    return {"settings": {"sentences": SENTENCES}, "skipped": {}, "results": results, "published": PUBLISHED}


def one_round(gateway, sentences, number):
    singles = [asked(gateway, "/augment", text=text, num_return_sequences=3, seed=number) for text in sentences]
    batches = [
        asked(gateway, "/augment_batch", texts=sentences[start : start + 20], num_return_sequences=5, seed=number)
        for start in range(0, 80, 20)
    ]
    firsts = [first_piece(gateway, " ".join(sentences[at : at + SENTENCES])) for at in range(0, 80, SENTENCES)]
    return {
        "one text, 3 variants, p50 ms": percentile(singles, 0.5),
        "one text, 3 variants, p95 ms": percentile(singles, 0.95),
        "20 texts, 5 variants each, ms": percentile(batches, 0.5),
        "translation, first piece, ms": percentile([first for first, _ in firsts], 0.5),
        "translation, whole, ms": percentile([whole for _, whole in firsts], 0.5),
    }


def asked(gateway, path, **body):
    """Milliseconds of a POST."""
    start = time.perf_counter()
    status, answer = gateway.post(path, body)
    assert status == 200, answer
    return (time.perf_counter() - start) * 1e3


def first_piece(gateway, text):
    """Milliseconds to the first piece of a streamed translation, and to its end."""
    body = json.dumps({"text": text, "tgt_lang": "pt", "stream": True})
    start, first = time.perf_counter(), None
    answer = gateway.http.request("POST", f"{gateway.url}/translate", body=body, preload_content=False)
    assert answer.status == 200, answer.read()
    for line in answer:
        if first is None and b'"delta"' in line:
            first = (time.perf_counter() - start) * 1e3
    whole = (time.perf_counter() - start) * 1e3
    answer.release_conn()
    assert first is not None, "no piece came"
    return first, whole
