"""The entry for Hunyuan-MT around a small model of its family: told in words what to translate into."""

import json

import grpc
import pytest

from harness import grpc_door as grpc_replies
from harness import http_door as http_events
from harness.grpc_door import error_code

TEXT = "Hello, there!"
SHORT = {"max_tokens": 12, "temperature": 0.0, "repetition_penalty": 1.0}


@pytest.mark.parametrize(
    "languages, prompt",
    [
        ({"tgt_lang": "de"}, "Translate the following segment into German, without additional explanation."),
        (
            {"src_lang": "en", "tgt_lang": "pt"},
            "Translate the following segment into Portuguese, without additional explanation.",
        ),
        ({"tgt_lang": "zh"}, "把下面的文本翻译成中文，不要额外解释。"),
        ({"src_lang": "zh", "tgt_lang": "en"}, "把下面的文本翻译成英语，不要额外解释。"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_the_prompt_is_the_one_the_model_wants(http, grpc_door, languages, prompt):
    messages = json.dumps([{"role": "user", "content": f"{prompt}\n\n{TEXT}"}])
    count = {"return_num_input_tokens": True}
    expected = http.infer_text("translator-whole", None, messages=messages, **count, **SHORT)
    assert http.infer_text("translator-whole", TEXT, **languages, **count, **SHORT) == expected
    (text,) = expected["text_output"]
    assert text
    assert http_events.joined(http.stream("translator", TEXT, **languages, **SHORT)) == text
    assert grpc_replies.joined(grpc_door.stream("translator", TEXT, **languages, **SHORT)) == text
    assert grpc_door.infer("translator-whole", TEXT, parameters=languages, **SHORT)["text_output"] == [text]


def test_the_language_matters(http):
    """The weights are random, so that another prompt gives another text."""
    texts = {http.text("translator", TEXT, tgt_lang=code, **SHORT) for code in ("de", "pt", "zh")}
    assert len(texts) == 3


def test_a_language_that_is_missing_or_unknown(http, grpc_door):
    assert http.generate("translator", TEXT).status == 400
    code, message = error_code(lambda: grpc_door.infer("translator-whole", TEXT))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "tgt_lang" in message
    code, message = error_code(lambda: grpc_door.infer("translator-whole", TEXT, tgt_lang="klingon"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "klingon" in message


def test_a_model_without_a_place_for_languages_says_so(grpc_door):
    code, message = error_code(lambda: grpc_door.infer("chat-whole", TEXT, tgt_lang="de"))
    assert code == grpc.StatusCode.UNIMPLEMENTED and "tgt_lang" in message
