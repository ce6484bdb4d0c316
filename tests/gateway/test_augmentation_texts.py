"""Forty texts through `/augment_batch`: variants keep the lines, columns and marks of their source, differ from it and from
each other, and what the model cannot read is told."""

import json
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

#: `kept` is in every variant as often as in the text, `warned` is in no script of the model, of `unchanged` there is nothing
#: to say in other words.
TEXTS = json.loads(Path(__file__).with_name("augmentation_texts.json").read_text(encoding="utf-8"))
VARIANTS = 2
AT_ONCE = 4

#: Short ones, of which a model easily says the same again.
SHORT = [
    "Good morning!",
    "I am hungry.",
    "The cat sleeps.",
    "Where are you going?",
    "It is raining.",
    "Thank you very much.",
    "She reads a book.",
    "The house is old.",
    "We won the game!",
    "He lives in London.",
    "Open the window, please.",
    "The water is cold.",
    "They bought a new car.",
    "I do not know.",
    "Happy birthday!",
]


def likeness(text):
    """A text as a reader compares it, without case, punctuation, symbols and blanks."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(each for each in folded if unicodedata.category(each)[0] in "LNM") or text.strip()


def assert_distinct(text, variants, wanted, exhausted):
    seen = [likeness(each) for each in (text, *variants)]
    assert len(set(seen)) == len(seen), (text, variants)
    assert len(variants) == wanted or (exhausted and len(variants) < wanted), (text, variants)


@pytest.fixture(scope="module")
def answers(client):
    """For each text its variants, whether there are no more, and its warnings."""

    def ask(texts):
        body = {"texts": texts, "grouped": True, "num_return_sequences": VARIANTS, "seed": 1, "partial": True}
        answer = client.post("/augment_batch", json=body)
        assert answer.status_code == 200, answer.text
        answer = answer.json()
        assert answer["errors"] == []
        exhausted = answer.get("exhausted", [False] * len(texts))
        warned = {warning["index"] for warning in answer.get("warnings", [])}
        return [(*each, index in warned) for index, each in enumerate(zip(answer["augmented_texts"], exhausted))]

    texts = [each["text"] for each in TEXTS]
    size = -(-len(texts) // AT_ONCE)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        parts = pool.map(ask, [texts[first : first + size] for first in range(0, len(texts), size)])
        return [each for part in parts for each in part]


@pytest.mark.parametrize("index", range(len(TEXTS)), ids=[each["name"] for each in TEXTS])
def test_a_text_keeps_its_structure(answers, index):
    asked, (variants, exhausted, warned) = TEXTS[index], answers[index]
    text = asked["text"]
    assert_distinct(text, variants, VARIANTS, exhausted)
    assert (variants == []) or not asked.get("unchanged"), variants
    assert warned == asked.get("warned", False)
    for variant in variants:
        assert re.findall(r"\r\n|\n", variant) == re.findall(r"\r\n|\n", text), variant
        for line, source in zip(re.split(r"\r?\n", variant), re.split(r"\r?\n", text)):
            assert bool(line.strip()) == bool(source.strip()), variant
            assert line.count("\t") == source.count("\t"), variant
            assert re.match(r"\s*", line)[0] == re.match(r"\s*", source)[0], variant
            assert re.search(r"\s*$", line)[0] == re.search(r"\s*$", source)[0], variant
        for kept in asked.get("kept", ()):
            assert variant.count(kept) == text.count(kept), (kept, variant)


def test_short_texts_are_not_said_twice(client):
    body = {"texts": SHORT, "grouped": True, "num_return_sequences": 5, "seed": 1}
    answer = client.post("/augment_batch", json=body).json()
    exhausted = answer.get("exhausted", [False] * len(SHORT))
    for text, variants, is_exhausted in zip(SHORT, answer["augmented_texts"], exhausted, strict=True):
        assert_distinct(text, variants, 5, is_exhausted)
    assert sum(map(len, answer["augmented_texts"])) > len(SHORT), "most of them can be said in other words"
