"""Answers to deterministic questions are kept; others are not."""

import pytest

TEXT = "The house with the green door is older than the church."


@pytest.fixture
def lookups(own_gateway):
    config = (
        '[translate]\npairs = [{ src = "en", tgt = "pt", model = "translate-en-pt" }]\n'
        '[augment]\nmodel = "paraphrase-en"\n[chat]\nmodels = ["chat"]\n'
    )
    with own_gateway("--cache-entries", "2", config=config) as gateway:

        def ask(path, **body):
            """How many were remembered, and how many not; and the answer."""
            count = lambda result: gateway.metric("textgen_gateway_cache_lookups_total", result=result)
            before = count("hit"), count("miss")
            status, answer = gateway.post(path, body)
            assert status == 200, answer
            for changing in ("request_id", "id", "created"):
                answer.pop(changing, None)
            return count("hit") - before[0], count("miss") - before[1], answer

        yield ask


def test_translations(lookups):
    asked = {"text": TEXT, "tgt_lang": "pt", "temperature": 0}
    hit, miss, first = lookups("/translate", **asked)
    assert (hit, miss) == (0, 1)
    assert lookups("/translate", **asked) == (1, 0, first)
    assert lookups("/translate", **{**asked, "max_length": 3})[:2] == (0, 1), "another option is another question"
    assert lookups("/translate", **{**asked, "text": TEXT + "!"})[:2] == (0, 1)
    assert lookups("/translate", **asked)[:2] in ((0, 1), (1, 0)), "only so many are kept"


def test_a_seed_makes_it_deterministic(lookups):
    sampled = {"text": TEXT, "tgt_lang": "pt", "temperature": 1.0}
    for _ in range(2):
        assert lookups("/translate", **sampled)[:2] == (0, 0)
    hit, miss, first = lookups("/translate", seed=4, **sampled)
    assert (hit, miss) == (0, 1)
    assert lookups("/translate", seed=4, **sampled) == (1, 0, first)
    assert lookups("/translate", seed=5, **sampled)[:2] == (0, 1)


def test_augmentation(lookups):
    asked = {"text": TEXT, "num_return_sequences": 1, "temperature": 0}
    first = lookups("/augment", **asked)
    assert first[:2] == (0, 1)
    assert lookups("/augment", **asked) == (1, 0, first[2])
    assert lookups("/augment", text=TEXT, num_return_sequences=1)[:2] == (0, 0)


def test_chat(lookups):
    asked = {"model": "chat", "messages": [{"role": "user", "content": TEXT}], "temperature": 0, "max_tokens": 5}
    first = lookups("/v1/chat/completions", **asked)
    assert first[:2] == (0, 1)
    assert lookups("/v1/chat/completions", **asked) == (1, 0, first[2])
    assert lookups("/v1/chat/completions", **{**asked, "temperature": 0.7})[:2] == (0, 0)
