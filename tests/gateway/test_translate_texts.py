"""What a translation keeps of a text: its lines, columns, marks and addresses, and where it cuts between sentences.

`texts.json` says of each text what its translation must be or have; the wording is the model's.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

TEXTS = json.loads((Path(__file__).parent / "texts.json").read_text(encoding="utf-8"))
BREAK = re.compile("\r\n|[\n\r\u2028]")


def body(case):
    tgt = "en" if case["src_lang"] == "pt" else "pt"
    return {"text": case["text"], "src_lang": case["src_lang"], "tgt_lang": tgt}


@pytest.fixture(scope="module")
def answers(client):
    """The answer to each text; all are asked at once."""

    def ask(case):
        answer = client.post("/translate", json=body(case))
        assert answer.status_code == 200, (case["text"], answer.text)
        return answer.json()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, TEXTS))


def streamed(client, body):
    """The events of a translation."""
    with client.stream("POST", "/translate", json=body) as answer:
        return [json.loads(line[len("data: ") :]) for line in answer.iter_lines() if line]


@pytest.mark.parametrize("index", range(len(TEXTS)), ids=lambda index: f"{TEXTS[index]['kind']}-{index}")
def test_text(answers, index):
    case, answer = TEXTS[index], answers[index]
    source, found = case["text"], answer["translated_text"]
    assert answer["usage"]["segments"] == case["segments"], found
    # What holds for every text.
    assert BREAK.findall(found) == BREAK.findall(source)
    lines = list(zip(BREAK.split(source), BREAK.split(found)))
    for line, kept in lines:
        assert kept.count("\t") == line.count("\t")
        blanks = lambda text: (text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :], text.strip() == "")
        assert blanks(kept) == blanks(line), (line, kept)
    starts = case.get("line_starts", [""] * len(lines))
    assert len(starts) == len(lines)
    for (_, kept), start in zip(lines, starts):
        assert kept.startswith(start), (kept, start)
    assert found == case.get("equals", found)
    for part in case.get("contains", []):
        assert part in found
    for part, count in case.get("count", {}).items():
        assert found.count(part) == count, found


@pytest.mark.parametrize("kind", ["table", "subtitles", "mail", "emoji"])
def test_streamed_it_is_the_same(client, answers, kind):
    index = max((len(case["text"]), index) for index, case in enumerate(TEXTS) if case["kind"] == kind)[1]
    got = streamed(client, {**body(TEXTS[index]), "stream": True})
    assert "".join(event["text"] for event in got[1:-1]) == answers[index]["translated_text"]
    assert got[-1]["usage"] == answers[index]["usage"]


@pytest.mark.parametrize("text", ["==========\n\n😊 https://example.com/?a=b", "```\nThe cat sleeps. The dog runs.\n```\n"])
def test_a_text_without_words_asks_no_model(client, text):
    asked = {"text": text, "tgt_lang": "pt"}
    answer = client.post("/translate", json=asked).json()
    assert (answer["translated_text"], answer["finish_reason"]) == (text, "stop")
    assert answer["usage"] == {"input_tokens": 0, "output_tokens": 0, "segments": 0}
    events = streamed(client, {**asked, "stream": True})
    assert [event["type"] for event in events] == ["started", "delta", "done"]
    assert events[1]["text"] == text
