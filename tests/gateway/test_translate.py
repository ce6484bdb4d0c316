"""`POST /translate`, whole and as server-sent events."""

import json

import httpx
import pytest

from harness import metrics
from harness.server import eventually
from harness.texts import LONG

#: What keeps the entry `lasting` at work.
LASTING = LONG * 20
ENGLISH = "The cat sleeps on the sofa."
PORTUGUESE = "O gato dorme no sofá."


def translate(client, **body):
    answer = client.post("/translate", json={"tgt_lang": "pt", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(answer):
    """The events of an answer, each of which is one object."""
    assert answer.status_code == 200, answer.read()
    assert answer.headers["content-type"].startswith("text/event-stream")
    for line in answer.iter_lines():
        if line and not line.startswith(":"):
            assert line.startswith("data: "), line
            yield json.loads(line[len("data: ") :])


def test_a_sentence(client):
    answer = translate(client, text=ENGLISH)
    assert answer.pop("request_id")
    usage = answer.pop("usage")
    assert answer == {
        "translated_text": PORTUGUESE,
        "src_lang": "en",
        "tgt_lang": "pt",
        "model": "translate-en-pt",
        "finish_reason": "stop",
    }
    assert usage["segments"] == 1 and usage["input_tokens"] > 3 and usage["output_tokens"] > 3


@pytest.mark.parametrize("src, tgt", [("en", "pt"), ("English", "Portuguese"), ("english", "PT"), ("英语", "葡萄牙语")])
def test_languages_by_code_or_name(client, src, tgt):
    assert translate(client, text=ENGLISH, src_lang=src, tgt_lang=tgt)["translated_text"] == PORTUGUESE


def test_back(client):
    answer = translate(client, text=PORTUGUESE, src_lang="pt", tgt_lang="en")
    assert answer["model"] == "translate-pt-en" and "cat" in answer["translated_text"]


def test_options(client):
    drawn = [translate(client, text=ENGLISH, temperature=1.5, seed=seed)["translated_text"] for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    assert translate(client, text=ENGLISH, temperature=1.5, top_k=1)["translated_text"] == PORTUGUESE
    assert translate(client, text=ENGLISH, temperature=1.5, top_p=1e-6)["translated_text"] == PORTUGUESE
    short = translate(client, text=ENGLISH, max_length=2)
    assert short["finish_reason"] == "length" and short["usage"]["output_tokens"] == 2


@pytest.mark.parametrize("ask", [{"stream": True}, None])
def test_events_joined_are_the_answer(client, ask):
    text = "One cat sleeps.\n\nTwo dogs run in the park. Where is the station?\n"
    headers = {} if ask else {"Accept": "text/event-stream"}
    with client.stream("POST", "/translate", json={"text": text, "tgt_lang": "pt", **(ask or {})}, headers=headers) as answer:
        got = list(events(answer))
    whole = translate(client, text=text)
    assert got[0] == {"type": "started", "model": "translate-en-pt", "src_lang": "en", "tgt_lang": "pt"}
    assert {event["type"] for event in got[1:-1]} == {"delta"} and len(got) > 5
    assert "".join(event["text"] for event in got[1:-1]) == whole["translated_text"]
    assert got[-1] == {"type": "done", "finish_reason": "stop", "usage": whole["usage"]}


def test_lines_and_paragraphs_stay(client):
    text = "\n\n  The cat sleeps.\r\n\tThe dog runs.\n\n\n- One book. Two books.\n \nThe end.\n\n"
    answer = translate(client, text=text)["translated_text"]
    blank = lambda text: [line.strip() == "" for line in text.split("\n")]
    assert blank(answer) == blank(text)
    assert answer.startswith("\n\n  ") and answer.endswith("\n\n") and "\r\n\t" in answer and "\n \n" in answer


def test_blanks_between_sentences_stay(client):
    single = translate(client, text="The cat sleeps. The dog runs.")["translated_text"]
    double = translate(client, text="The cat sleeps.  The dog runs.")["translated_text"]
    assert double == single.replace(". ", ".  ", 1) and double != single


def test_a_long_text_comes_in_order(client):
    numbers = range(100, 330)
    text = " ".join(f"The number of this house is {number}, and it is old." for number in numbers)
    assert len(text) > 10_000
    with client.stream("POST", "/translate", json={"text": text, "tgt_lang": "pt", "stream": True}) as answer:
        got = list(events(answer))
    assert got[-1]["type"] == "done" and got[-1]["usage"]["segments"] == len(numbers)
    words = "".join(event.get("text", "") for event in got).replace(",", " ").replace(".", " ").split()
    assert [int(word) for word in words if word.isdigit()] == list(numbers)


def test_a_word_of_5000_characters(client):
    answer = translate(client, text="x" * 5000)
    assert answer["usage"]["segments"] > 5 and answer["translated_text"]


@pytest.mark.parametrize("text", ["今天天气很好。我们去公园。", "😀👩‍👩‍👧‍👦", "🎉 " * 300, "a\u0000b", "\u2028\u200b x"])
def test_any_text_is_taken(client, text):
    assert translate(client, text=text)["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize(
    "change, param",
    [
        ({"text": ""}, "text"),
        ({"text": " \n "}, "text"),
        ({"text": 3}, "text"),
        ({"tgt_lang": None}, "tgt_lang"),
        ({"tgt_lang": "Klingon"}, "tgt_lang"),
        ({"src_lang": "Klingon"}, "src_lang"),
        ({"src_lang": "pt"}, "tgt_lang"),
        ({"tgt_lang": ["pt"]}, "tgt_lang"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 1001}, "top_k"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": 1025}, "max_length"),
        ({"seed": -1}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"target": "pt"}, "target"),
        ({"id": "a"}, "id"),
    ],
)
def test_what_is_wrong_is_refused_by_name(client, refused, change, param):
    refused(client.post("/translate", json={"text": ENGLISH, "tgt_lang": "pt", **change}), 400, "invalid_argument", param)


def test_a_missing_text(client, refused):
    error = refused(client.post("/translate", json={"tgt_lang": "pt"}), 400, "invalid_argument", "text")
    assert "missing" in error["message"]


@pytest.mark.parametrize("body", [{"tgt_lang": "fr"}, {"src_lang": "pt", "tgt_lang": "pt"}])
def test_a_pair_that_is_not_there_is_told_the_pairs(client, refused, body):
    error = refused(client.post("/translate", json={"text": ENGLISH, **body}), 400, "invalid_argument", "tgt_lang")
    assert "en → pt" in error["message"] and "pt → en" in error["message"]


def test_a_text_beyond_its_limit(client, refused):
    error = refused(client.post("/translate", json={"text": "é" * 20_001, "tgt_lang": "pt"}), 413, "too_large", "text")
    assert "20001" in error["message"] and "20000" in error["message"]


def test_what_is_wrong_has_its_status_before_the_stream(client, refused):
    body = {"text": ENGLISH, "tgt_lang": "Klingon", "stream": True}
    refused(client.post("/translate", json=body), 400, "invalid_argument", "tgt_lang")


def test_the_time_for_a_request(own_gateway, refused, idle):
    body = {"text": LASTING, "tgt_lang": "pt"}
    with own_gateway("--request-timeout-s", "1") as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
        error = refused(client.post("/translate", json=body), 504, "deadline_exceeded")
        assert "request_timeout_s" in error["message"]
        with client.stream("POST", "/translate", json={**body, "stream": True}) as answer:
            last = list(events(answer))[-1]
        assert (last["type"], last["error"]["code"]) == ("error", "deadline_exceeded")
    idle()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_work(lasting, triton, idle, busy, stream):
    """At once: before its answer begins, and in the midst of it."""
    idle()
    before = metrics.outcomes(triton, "lasting")["cancelled"]
    client = httpx.Client(base_url=lasting.url, timeout=60)
    if stream:
        request = client.build_request("POST", "/translate", json={"text": LASTING, "tgt_lang": "pt", "stream": True})
        answer = client.send(request, stream=True)
        stream_of_events = events(answer)
        assert next(stream_of_events)["type"] == "started"
        busy()
        answer.close()
    else:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/translate", json={"text": LASTING, "tgt_lang": "pt"}, timeout=httpx.Timeout(60, read=0.2))
    client.close()
    idle()
    eventually(lambda: metrics.outcomes(triton, "lasting")["cancelled"] > before)
    eventually(lambda: lasting.metric("textgen_gateway_active") == 0)


def test_a_full_queue_is_told_at_once(lasting, refused, idle, busy):
    body = {"text": LASTING, "tgt_lang": "pt", "stream": True}
    with httpx.Client(base_url=lasting.url, timeout=60) as client:
        answers = [client.send(client.build_request("POST", "/translate", json=body), stream=True) for _ in range(3)]
        streams = [events(answer) for answer in answers]
        assert next(streams[0])["type"] == "started"
        assert [next(stream) for stream in streams[1:]] == [
            {"type": "queued", "position": 1},
            {"type": "queued", "position": 2},
        ]
        for asked in (body, {**body, "stream": False}):
            answer = client.post("/translate", json=asked)
            refused(answer, 503, "overloaded")
            assert int(answer.headers["retry-after"]) > 0
        answers[0].close()
        assert next(streams[1])["type"] == "started"
        assert next(streams[2]) == {"type": "queued", "position": 1}
        for answer in answers[1:]:
            answer.close()
    idle()
