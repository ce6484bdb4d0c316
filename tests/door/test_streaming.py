"""A stream, joined, is the whole text, byte for byte; nothing is lost at any speed."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import places
from harness.texts import ENGLISH, FOREIGN, LASTING, LONG, OTHER_ENGLISH

TOTALS = ("finish_reason", "cumulative_logprob", "num_input_tokens")
ALL_EXTRAS = {
    "return_finish_reason": True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
    "return_log_probs": True,
    "return_cumulative_logprob": True,
}


def joined(events, key="text_output"):
    return "".join(event[key] for event in events)


def test_every_sentence_joined_is_the_whole(http):
    for sentence in places.sentences():
        assert joined(http.stream("pieces", sentence)) == http.text("whole", sentence), sentence


@pytest.mark.parametrize("text", [FOREIGN, FOREIGN[:9], FOREIGN[-4:], "naïve café — “quoted” … ½"], ids=ascii)
def test_text_outside_the_vocabulary(http, grpc_door, text):
    whole = http.text("whole", text)
    assert joined(http.stream("pieces", text)) == whole
    assert "".join("".join(reply.outputs.get("text_output", [])) for reply in grpc_door.stream("pieces", text)) == whole


def test_sampled_bytes_are_never_split(http):
    """Hot sampling draws odd pieces; every event must still be valid UTF-8 and the sum the same."""
    for seed in range(20):
        options = {"temperature": 3.0, "seed": seed, "max_tokens": 40}
        assert joined(http.stream("pieces", FOREIGN, **options)) == http.text("whole", FOREIGN, **options), seed


def test_stop_words_are_held_back(http):
    whole = http.text("whole", ENGLISH)
    for start in range(1, len(whole) - 4):
        stop = whole[start : start + 4]
        events = http.stream("pieces", ENGLISH, stop_words=[stop])
        assert joined(events) == whole[: whole.index(stop)], stop


def test_counts_add_up(http):
    """Counts and log-probabilities belong to a piece, totals to the last one."""
    # Long enough that not all of it is there before the first piece is sent.
    text = " ".join(places.sentences()[:6])
    whole = http.infer_text("whole", text, **ALL_EXTRAS)
    *pieces, last = http.stream("pieces", text, **ALL_EXTRAS)
    assert pieces and not any(set(TOTALS) & set(piece) for piece in pieces)
    assert {name: last[name] for name in TOTALS} == {name: whole[name][0] for name in TOTALS}
    assert sum(piece["num_output_tokens"] for piece in [*pieces, last]) == whole["num_output_tokens"][0]
    tokens = [token for piece in [*pieces, last] for token in json.loads(piece["logprobs"])]
    assert tokens == json.loads(whole["logprobs"][0])
    assert len(tokens) == whole["num_output_tokens"][0]


def test_length_is_told(http):
    events = http.stream("pieces", ENGLISH, max_tokens=2, return_finish_reason=True)
    assert events[-1]["finish_reason"] == "length"


def test_several_sequences_are_told_apart(http):
    """`sequence_index` says which one a piece belongs to."""
    options = {"num_return_sequences": 3, "temperature": 1.2, "seed": 11}
    reply = http.infer_text("whole", ENGLISH, **options)
    texts = ["", "", ""]
    for event in http.stream("pieces", ENGLISH, **options):
        texts[event["sequence_index"]] += event["text_output"]
    assert texts == reply["text_output"]


def test_several_texts_in_a_stream(http):
    texts = ["", ""]
    for event in http.stream("pieces", [ENGLISH, OTHER_ENGLISH]):
        texts[event["sequence_index"]] += event["text_output"]
    assert texts == [http.text("whole", ENGLISH), http.text("whole", OTHER_ENGLISH)]


def test_a_long_stream_is_complete(http):
    whole = http.text("lasting-whole", LONG, **LASTING)
    events = http.stream("lasting", LONG, **LASTING)
    assert joined(events) == whole
    assert len(events) > 10, "it did not come in pieces"


@pytest.mark.parametrize("count", [8])
def test_a_reader_that_dawdles_loses_nothing(http, count):
    """The client stops reading for a while; the server must neither drop nor hang."""
    whole = http.text("lasting-whole", LONG, **LASTING)
    pause = threading.Event()

    def read(_):
        with http.open_stream("lasting", LONG, stream=True, **LASTING) as events:
            first = next(events)
            pause.wait(2)
            return first["text_output"] + joined(events)

    with ThreadPoolExecutor(count) as pool:
        assert set(pool.map(read, range(count))) == {whole}


def test_two_hundred_http_streams(http):
    sentences = places.sentences()
    expected = [http.text("whole", sentence) for sentence in sentences]
    wanted = [index % len(sentences) for index in range(200)]
    start = threading.Barrier(len(wanted))

    def read(index):
        start.wait(60)
        return joined(http.stream("pieces", sentences[index]))

    with ThreadPoolExecutor(len(wanted)) as pool:
        assert list(pool.map(read, wanted)) == [expected[index] for index in wanted]


def test_two_hundred_grpc_streams(http, grpc_door):
    sentences = places.sentences()
    expected = [http.text("whole", sentence) for sentence in sentences]
    wanted = [index % len(sentences) for index in range(200)]
    start = threading.Barrier(len(wanted))

    def read(index):
        start.wait(60)
        replies = grpc_door.stream("pieces", sentences[index])
        assert replies[-1].final and not any(reply.error for reply in replies)
        return "".join("".join(reply.outputs.get("text_output", [])) for reply in replies)

    with ThreadPoolExecutor(len(wanted)) as pool:
        assert list(pool.map(read, wanted)) == [expected[index] for index in wanted]


def test_company_does_not_change_the_text(http):
    """Alone, in a full batch, and joining midway: the same tokens, sampled ones too."""
    options = {"temperature": 1.0, "seed": 21, "max_tokens": 30}
    sentences = places.sentences()[:24]
    alone = [http.text("whole", sentence, **options) for sentence in sentences]
    for count in (3, 8, 24):
        with ThreadPoolExecutor(count) as pool:
            assert list(pool.map(lambda sentence: http.text("whole", sentence, **options), sentences)) == alone, count
