"""No key that the gateway's README lists is ignored: each one changes the answer, is refused where it has no use, or has
nothing but idle values, which are listed, and refuses every other one."""

import json
import re

import pytest

from harness import documents, places

PAGE = places.ROOT / "crates" / "gateway" / "README.md"
AUGMENTATION = documents.table(documents.section(PAGE, "Augmentation"), "key", "type", "default", "meaning")
OPENAI = documents.section(PAGE, "OpenAI-compatible")
CHAT_ONLY = documents.table(OPENAI, "key", "type", "meaning")
IDLE = documents.table(OPENAI, "key", "values that ask for nothing")

TEXT = "The train was late because of the snow."
OTHER = "The cat sleeps on the sofa."
REPEATS = "No, no, no, no, no, no."
SEEDED = {"text": TEXT, "seed": 1, "num_return_sequences": 2}
HOT = {**SEEDED, "temperature": 2}
LABELS = {"text": TEXT, "task": "classify", "labels": ["weather", "cooking"]}

#: For each key: a request, and a value that makes the answer another one than without the key, or than the value in the
#: request. `texts` asks for a batch.
AUGMENT = {
    "text": (SEEDED, OTHER),
    "num_return_sequences": (SEEDED, 1),
    "temperature": (SEEDED, 0),
    "top_p": (HOT, 0.01),
    "top_k": (HOT, 1),
    "max_length": (SEEDED, 3),
    "repetition_penalty": ({"text": REPEATS, "temperature": 0}, 5),
    "seed": (SEEDED, 2),
    "task": ({"text": TEXT, "temperature": 0}, "title"),
    "labels": (LABELS, ["travel", "politics"]),
    "answer": ({"text": TEXT, "temperature": 0}, "the snow"),
    "src_lang": ({"text": TEXT, "temperature": 0}, "en"),
    "tgt_lang": ({"text": TEXT, "temperature": 0}, "pt"),
    "return_probabilities": (LABELS, True),
    "grouped": ({"texts": [TEXT], "temperature": 0}, True),
    "partial": ({"texts": [TEXT, " "], "temperature": 0}, True),
}

TRANSLATED = {"text": TEXT, "tgt_lang": "pt"}
TRANSLATED_HOT = {**TRANSLATED, "temperature": 2, "seed": 1}
TRANSLATE = {
    "text": (TRANSLATED, OTHER),
    "src_lang": (TRANSLATED, "tlh"),
    "tgt_lang": (TRANSLATED, "en"),
    "temperature": ({**TRANSLATED, "seed": 1}, 2),
    "top_p": (TRANSLATED_HOT, 0.01),
    "top_k": (TRANSLATED_HOT, 1),
    "max_length": (TRANSLATED, 3),
    "seed": (TRANSLATED_HOT, 2),
    "stream": (TRANSLATED, True),
}

GREEDY = {"model": "chat", "prompt": "The capital of France is", "max_tokens": 6, "temperature": 0}
SAMPLED = {**GREEDY, "temperature": 2, "seed": 1}
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 6, "temperature": 0}
COMPLETE = {
    "model": (GREEDY, "gpt"),
    "messages": (CHAT, [{"role": "user", "content": "Say no."}]),
    "prompt": (GREEDY, "The capital of Spain is"),
    "max_tokens": (GREEDY, 2),
    "max_completion_tokens": (GREEDY, 2),
    "temperature": ({**GREEDY, "seed": 1}, 2),
    "top_p": (SAMPLED, 0.01),
    "n": (SAMPLED, 2),
    "stop": (GREEDY, "Paris"),
    "stream": (GREEDY, True),
    "stream_options.include_usage": ({**GREEDY, "stream": True}, True),
    "presence_penalty": ({**GREEDY, "max_tokens": 24}, 2),
    "frequency_penalty": ({**GREEDY, "max_tokens": 24}, 2),
    "seed": (SAMPLED, 2),
    "top_k": (SAMPLED, 1),
    "min_p": (SAMPLED, 1),
    "repetition_penalty": ({**GREEDY, "max_tokens": 24}, 5),
    # The demo's template uses no variable of that name: refused, and by the name that was given.
    "chat_template_kwargs": (CHAT, {"enable_thinking": False}),
    "enable_thinking": (CHAT, False),
    "think": (CHAT, False),
    "add_generation_prompt": (CHAT, False),
}


def asked(client, path, body):
    """Status and answer, without what is another each time."""
    answer = client.post(path, json=body)
    changing = r'"(request_id|id)":"[^"]*"|"created":\d+'
    return answer.status_code, re.sub(changing, "", answer.text)


def check(client, path, body, name, value):
    before = asked(client, path, body)
    assert asked(client, path, body) == before, "the answer has to be the same each time"
    outer, _, inner = name.partition(".")
    status, answer = asked(client, path, {**body, outer: {inner: value} if inner else value})
    assert (status, answer) != before
    assert status == 200 or name in answer, "a refusal names the key"


def test_every_documented_key_is_tried():
    assert documents.names(*(row[0] for row in AUGMENTATION)) == set(AUGMENT)
    (translation,) = re.findall(r"^A translation is .*?`seed`\.", documents.section(PAGE, "Translation"), flags=re.S | re.M)
    documented = documents.names(translation) - {"/services"}
    keys = {key for name in documented for key in (re.findall(r'"(\w+)":', name) or [name])}
    assert keys | {"stream"} == set(TRANSLATE)
    (supported,) = re.findall(r"^Supported: (.*?)\. Chat requests", OPENAI, flags=re.S | re.M)
    assert documents.names(supported, *(row[0] for row in CHAT_ONLY)) - {"user"} == set(COMPLETE)


@pytest.mark.parametrize("name", AUGMENT)
def test_a_key_of_an_augmentation(client, name):
    body, value = AUGMENT[name]
    check(client, "/augment_batch" if "texts" in body else "/augment", body, name, value)


@pytest.mark.parametrize("name", TRANSLATE)
def test_a_key_of_a_translation(client, name):
    check(client, "/translate", *TRANSLATE[name][:1], name, TRANSLATE[name][1])


@pytest.mark.parametrize("name", COMPLETE)
def test_a_key_of_a_completion(client, name):
    body, value = COMPLETE[name]
    check(client, "/v1/chat/completions" if "messages" in body else "/v1/completions", body, name, value)


def idle_values():
    """Each key with its values that ask for nothing; none where any value does."""
    for keys, values in IDLE:
        keys, groups = sorted(documents.names(keys)), values.split("; ")
        if len(groups) == 1:
            groups *= len(keys)
        else:
            keys = re.findall(r"`([^`]+)`", next(row[0] for row in IDLE if row[1] == values))
        for key, group in zip(keys, groups):
            found = re.findall(r"`([^`]+)`|(\d+)", group)
            assert found or group == "all", f"{key}: {group}"
            yield key, [json.loads(text or number) for text, number in found] or None


def test_keys_that_are_not_served_take_idle_values_only(client):
    plain = asked(client, "/v1/chat/completions", CHAT)
    tried = {}
    for key, idle in idle_values():
        tried[key] = idle
        for value in [None, *(["anything"] if idle is None else idle)]:
            assert asked(client, "/v1/chat/completions", {**CHAT, key: value}) == plain, (key, value)
        if idle is not None:
            status, answer = asked(client, "/v1/chat/completions", {**CHAT, key: "anything"})
            assert status == 400 and key in answer, (key, answer)
    assert len(tried) > 30
