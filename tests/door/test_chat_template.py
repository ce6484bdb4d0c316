"""Conversations through the server: a chat model's own template makes the prompts that transformers makes."""

import json

import pytest

from harness import places, program
from harness.http_door import tensor
from harness.repository import decoupled, parameters

FIXTURE = places.FIXTURES / "decoder" / "qwen2"
CASES = json.loads((FIXTURE / "reference.json").read_text(encoding="utf-8"))["chat"]
#: The model samples unless told otherwise.
GREEDY = {"max_tokens": 6, "temperature": 0.0, "return_num_input_tokens": True}
TEMPLATE = "{{ tgt_lang.chinese }}\n{{ text }}"


@pytest.fixture(scope="module")
def chat(explicit):
    """A server with the entries `chat`, `batched` and `templated` of one model."""
    server, http, repository = explicit
    entries = {
        "chat": decoupled(False),
        "batched": decoupled(False) + "max_batch_size: 8\n",
        "templated": decoupled(False) + parameters(prompt_template=TEMPLATE, languages="zh, en", prefix_reuse="false"),
    }
    for name, config in entries.items():
        entry = repository.path / name
        (entry / "1").mkdir(parents=True)
        (entry / "config.pbtxt").write_text(f'backend: "textgen"\n{config}', encoding="utf-8")
        program.run("convert", FIXTURE, "--repository", repository.path, "--name", name, "--precision", "fp32")
        reply = http.load(name)
        assert reply.status == 200, reply
    yield http
    server.assert_alive()


def ask(http, model, name, value, **options):
    inputs = [tensor(name, value)] + [tensor(name, value) for name, value in {**GREEDY, **options}.items()]
    reply = http.infer(model, inputs)
    assert reply.status == 200, reply
    return {output["name"]: output["data"] for output in reply.json["outputs"]}


def one_turn(text):
    return json.dumps([{"role": "user", "content": text}], ensure_ascii=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["messages"])[:40])
def test_a_conversation_is_the_prompt_of_the_reference(chat, case):
    got = ask(chat, "chat", "messages", json.dumps(case["messages"]))
    assert got["num_input_tokens"] == [len(case["ids"])]
    assert got == ask(chat, "chat", "text_input", case["prompt"], apply_chat_template=False)


def test_several_conversations_keep_their_order(chat):
    conversations = [json.dumps(case["messages"]) for case in CASES]
    got = ask(chat, "chat", "messages", conversations)
    alone = [ask(chat, "chat", "messages", conversation) for conversation in conversations]
    assert got["text_output"] == [each["text_output"][0] for each in alone]
    rows = [tensor("messages", conversations, [len(CASES), 1])]
    reply = chat.infer("batched", rows, parameters={"max_tokens": 6, "temperature": 0.0})
    assert reply.status == 200, reply
    assert reply.json["outputs"][0]["data"] == got["text_output"]


def test_a_text_is_a_turn_of_the_user(chat):
    turn = ask(chat, "chat", "messages", one_turn("Hello, how are you?"))
    assert ask(chat, "chat", "text_input", "Hello, how are you?") == turn
    assert ask(chat, "chat", "text_input", "Hello, how are you?", apply_chat_template=True) == turn
    plain = ask(chat, "chat", "text_input", "Hello, how are you?", apply_chat_template=False)
    assert plain["num_input_tokens"] < turn["num_input_tokens"]


def test_a_prompt_template_is_inside_the_turn(chat):
    turn = ask(chat, "templated", "messages", one_turn("英语\nHello."))
    assert ask(chat, "templated", "text_input", "Hello.", tgt_lang="en") == turn
    bare = ask(chat, "chat", "text_input", "英语\nHello.", apply_chat_template=False)
    assert ask(chat, "templated", "text_input", "Hello.", tgt_lang="en", apply_chat_template=False) == bare


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"apply_chat_template": False}, ["apply_chat_template", "text_input"]),
        ({"tgt_lang": "en"}, ["tgt_lang", "text_input"]),
        ({"exclude_input_in_output": False}, ["exclude_input_in_output", "messages"]),
    ],
    ids=str,
)
def test_options_that_a_conversation_has_no_place_for(chat, options, parts):
    inputs = [tensor("messages", one_turn("Hello."))] + [tensor(name, value) for name, value in options.items()]
    reply = chat.infer("templated", inputs)
    assert reply.status == 400, reply
    for part in parts:
        assert part in reply.error, reply.error
