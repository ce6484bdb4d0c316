"""Memory is flat: what a request takes, it gives back."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import places
from harness.repository import decoupled
from harness.server import eventually
from harness.texts import ENGLISH

MEGABYTE = 1 << 20


def fill(repository):
    repository.add("whole", decoupled(False))
    repository.add("pieces", decoupled(True))


def one_request(http, draw):
    """Served, streamed, refused or abandoned, by lot."""
    kind = draw.random()
    sentence = draw.choice(places.sentences())
    if kind < 0.5:
        http.text("whole", sentence, max_tokens=8)
    elif kind < 0.8:
        http.stream("pieces", sentence, max_tokens=8)
    elif kind < 0.95:
        assert http.generate("whole", ENGLISH, temperature=-1.0).status == 400
    else:
        with http.open_stream("pieces", sentence, stream=True) as events:
            next(events)


def growth(server, http, requests):
    """Growth of resident memory over so many requests, after as long a warm-up as a fifth of them."""

    def run(count, seed):
        with ThreadPoolExecutor(8) as pool:
            shares = [pool.submit(lambda s: [one_request(http, random.Random(s * 10_000_019 + i)) for i in range(count // 8)], seed + each) for each in range(8)]
            for share in shares:
                share.result()

    run(requests // 5, 0)
    before = server.rss_bytes()
    run(requests, 100)
    return server.rss_bytes() - before


def test_two_thousand_requests(own_server):
    with own_server(fill) as (server, http, _):
        assert growth(server, http, 2_000) < 24 * MEGABYTE


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_twenty_thousand_requests(own_server):
    with own_server(fill) as (server, http, _):
        assert growth(server, http, 20_000) < 24 * MEGABYTE


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_hundred_reloads(own_server):
    with own_server(fill, "--model-control-mode=explicit", "--load-model=*") as (server, http, _):
        sizes = []
        for _ in range(100):
            assert http.unload("whole").status == 200
            assert http.load("whole").status == 200
            assert http.text("whole", ENGLISH) == "O gato dorme no sofá."
            sizes.append(server.rss_bytes())
        assert sizes[-1] - sizes[20] < 64 * MEGABYTE, sizes[::10]


def test_an_unload_gives_back_what_the_model_took(own_server):
    """In fp32 ONNX Runtime keeps every matrix a second time, packed."""

    def both(repository):
        fill(repository)
        repository.add("chat", decoupled(False), artifact=places.model("chat", "fp32") / "1")

    with own_server(both, "--model-control-mode=explicit", "--load-model=whole") as (server, http, _):
        http.text("whole", ENGLISH)
        before, taken, kept = server.rss_bytes(), [], []
        for _ in range(4):
            assert http.load("chat").status == 200
            http.text("chat", ENGLISH, max_tokens=4)
            taken.append(server.rss_bytes() - before)
            assert http.unload("chat").status == 200
            eventually(lambda: server.rss_bytes() - before < taken[-1] / 4)
            kept.append(server.rss_bytes() - before)
        assert max(taken) < 1.25 * taken[0], (taken, kept)
