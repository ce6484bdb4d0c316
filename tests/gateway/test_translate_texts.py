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


@pytest.fixture(scope="module")
def answers(client):
    """The answer to each text; all are asked at once."""

    def ask(case):
        tgt = "en" if case["src_lang"] == "pt" else "pt"
        answer = client.post("/translate", json={"text": case["text"], "src_lang": case["src_lang"], "tgt_lang": tgt})
        assert answer.status_code == 200, (case["text"], answer.text)
        return answer.json()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, TEXTS))


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
    for (_, kept), start in zip(lines, case.get("line_starts", []), strict="line_starts" in case):
        assert kept.startswith(start), (kept, start)
    assert found == case.get("equals", found)
    for part in case.get("contains", []):
        assert part in found
    for part, count in case.get("count", {}).items():
        assert found.count(part) == count, found


@pytest.mark.parametrize("text", ["==========\n\n😊 https://example.com/?a=b", "```\nThe cat sleeps. The dog runs.\n```\n"])
def test_a_text_without_words_asks_no_model(client, text):
    body = {"text": text, "tgt_lang": "pt"}
    answer = client.post("/translate", json=body).json()
    assert (answer["translated_text"], answer["finish_reason"]) == (text, "stop")
    assert answer["usage"] == {"input_tokens": 0, "output_tokens": 0, "segments": 0}
    with client.stream("POST", "/translate", json={**body, "stream": True}) as streamed:
        events = [json.loads(line[len("data: ") :]) for line in streamed.iter_lines() if line]
    assert [event["type"] for event in events] == ["started", "delta", "done"]
    assert events[1]["text"] == text
