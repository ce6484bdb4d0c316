"""A chat model through every door, beside other models, and with prompts that begin alike."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import grpc_door as grpc_replies
from harness import http_door as http_events
from harness import places, smollm2
from harness.metrics import PREFIX
from harness.server import eventually
from harness.texts import ENGLISH, QUESTION

SHORT = {"max_tokens": 24, "temperature": 0.0}


def conversation(*turns):
    """Messages in JSON: user and assistant by turns."""
    roles = ["user", "assistant"] * len(turns)
    return json.dumps([{"role": role, "content": content} for role, content in zip(roles, turns)])


@pytest.fixture(scope="module")
def answer(http):
    """What the model says to the question."""
    text = http.text("chat-whole", QUESTION, **SHORT)
    assert "Paris" in text
    return text


@pytest.mark.parametrize("source", [{"text_input": QUESTION}, {"messages": conversation(QUESTION)}], ids=lambda s: [*s][0])
def test_every_door_answers_alike(http, grpc_door, answer, source):
    text, rest = source.get("text_input"), {"messages": source["messages"]} if "messages" in source else {}
    assert http.text("chat-whole", text, **rest, **SHORT) == answer
    assert http.text("chat", text, **rest, **SHORT) == answer
    events = http.stream("chat", text, **rest, **SHORT)
    assert len(events) > 1 and http_events.joined(events) == answer
    assert grpc_door.infer("chat-whole", text, **rest, **SHORT)["text_output"] == [answer]
    replies = grpc_door.stream("chat", text, **rest, **SHORT)
    assert len(replies) > 1 and grpc_replies.joined(replies) == answer


def test_a_conversation_is_the_prompt_with_all_its_turns(http):
    before = smollm2.REFERENCE["greedy"][0]
    messages = conversation(before["message"], before["text"], "And of Spain?")
    prompt = f"{before['prompt']}{before['text']}<|im_end|>\n<|im_start|>user\nAnd of Spain?<|im_end|>\n<|im_start|>assistant\n"
    extras = {"return_num_input_tokens": True, **SHORT}
    written = http.infer_text("chat-whole", prompt, apply_chat_template=False, **extras)
    assert http.infer_text("chat-whole", messages=messages, **extras) == written


def test_models_of_both_kinds_at_once(http, grpc_door, answer):
    """Each request gets its own model's answer."""
    translation = http.text("whole", ENGLISH)

    def ask(index):
        return [
            lambda: http.text("whole", ENGLISH) == translation,
            lambda: http.text("chat", QUESTION, **SHORT) == answer,
            lambda: http_events.joined(http.stream("pieces", ENGLISH)) == translation,
            lambda: grpc_replies.joined(grpc_door.stream("chat", QUESTION, **SHORT)) == answer,
            lambda: http.text("translate-pt-en", translation) == "The cat sleeps on the couch.",
        ][index % 5]()

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(ask, range(50)))


def test_a_common_beginning_is_computed_once(server, http):
    """What the second request finds of the first one changes no token."""

    def looked_up():
        return {what: server.metric(f"{PREFIX}prefix_cache_{what}_total", model="chat") for what in ("queries", "hits")}

    beginning = "Read these sentences. " + " ".join(places.sentences()[:30])
    questions = [f"{beginning} {question}" for question in ("Which one is the longest?", "Where is the cat?")]
    extras = {**SHORT, "return_num_input_tokens": True}

    first = http.infer_text("chat-whole", questions[0], **extras)
    http.text("chat", questions[0], **SHORT)
    before = looked_up()
    assert http.text("chat", questions[1], **SHORT) == http.text("chat-apart", questions[1], **SHORT)
    after = looked_up()
    common = first["num_input_tokens"][0] - 20
    assert common > 200, "the beginning is too short to tell anything"
    eventually(lambda: looked_up()["queries"] > before["queries"])
    assert common < after["hits"] - before["hits"] < after["queries"] - before["queries"]
    assert server.metric(PREFIX + "prefix_cache_hits_total", model="chat-apart") == 0
