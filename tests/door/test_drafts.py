"""Drafts from the prompt change no answer; a model that cannot have them says so."""

import json
from concurrent.futures import ThreadPoolExecutor

from harness import http_door as http_events
from harness.metrics import PREFIX, outcomes
from harness.repository import decoupled, parameters
from harness.server import eventually
from harness.texts import ENGLISH, QUESTION

DRAFTED = PREFIX + "spec_decode_num_draft_tokens_total"
ACCEPTED = PREFIX + "spec_decode_num_accepted_tokens_total"
GENERATED = PREFIX + "generation_tokens_total"

COPY = (
    "Repeat this text word for word: Yesterday afternoon we visited the old museum near the river, and saw many "
    "paintings of ships. The guide told us that the oldest of them was painted in 1652."
)
COUNTS = {"return_num_output_tokens": True, "return_log_probs": True, "return_finish_reason": True}
REQUESTS = [
    (COPY, {"max_tokens": 80, "temperature": 0.0}),
    (COPY, {"max_tokens": 80, "temperature": 0.7, "seed": 5}),
    (COPY, {"max_tokens": 80, "temperature": 0.7, "seed": 6, "repetition_penalty": 1.1}),
    (COPY, {"max_tokens": 80, "temperature": 0.0, "stop_words": ["guide told"]}),
    (QUESTION, {"max_tokens": 60, "temperature": 0.0, "min_tokens": 50}),
]


def test_answers_are_those_without_drafts(server, http):
    before = {name: server.metric(name, model="chat-drafts") for name in (DRAFTED, ACCEPTED, GENERATED)}
    done = outcomes(server, "chat-drafts")["completed"]
    generated = 0
    for text, options in REQUESTS:
        plain = http.infer_text("chat-whole", text, **options, **COUNTS)
        events = http.stream("chat-drafts", text, **options, **COUNTS)
        assert http_events.joined(events) == plain["text_output"][0]
        assert events[-1]["finish_reason"] == plain["finish_reason"][0]
        assert sum(event["num_output_tokens"] for event in events) == plain["num_output_tokens"][0]
        logprobs = [entry for event in events for entry in json.loads(event["logprobs"])]
        assert logprobs == json.loads(plain["logprobs"][0])
        generated += plain["num_output_tokens"][0]
    eventually(lambda: outcomes(server, "chat-drafts")["completed"] == done + len(REQUESTS))
    drafted, accepted, total = (server.metric(name, model="chat-drafts") - value for name, value in before.items())
    assert total == generated
    assert 0 < accepted <= drafted
    assert accepted < generated
    assert server.metric(DRAFTED, model="chat-whole") == 0


def test_many_at_once_answer_as_alone(http):
    options = {"max_tokens": 40, "temperature": 0.0}
    texts = [f"{COPY} And so on, {number} times." for number in range(12)]
    alone = [http.text("chat-whole", text, **options) for text in texts]
    with ThreadPoolExecutor(len(texts)) as pool:
        got = list(pool.map(lambda text: http_events.joined(http.stream("chat-drafts", text, **options)), texts))
    assert got == alone


def test_a_recurrent_model_refuses_its_own_key(explicit):
    server, http, repository = explicit
    repository.add("drafting", decoupled(False) + parameters(prompt_lookup_num_tokens=7))
    reply = http.load("drafting")
    server.assert_alive()
    assert reply.status >= 400
    assert "prompt_lookup_num_tokens" in reply.error and "got 7" in reply.error and "recurrent" in reply.error
    assert http.text("good", ENGLISH)


def test_a_key_for_all_models_serves_those_that_cannot_without(own_server):
    def fill(repository):
        repository.add("translator", decoupled(False))
        repository.add("chat", decoupled(False), model="chat")

    with own_server(fill, "--backend-config=textgen,prompt_lookup_num_tokens=8") as (server, http, _):
        assert http.text("translator", ENGLISH) == "O gato dorme no sofá."
        http.text("chat", COPY, max_tokens=40, temperature=0.0)
        eventually(lambda: server.metric(ACCEPTED, model="chat") > 0)
        assert server.metric(DRAFTED, model="translator") == 0
        assert any("nothing is drafted" in line and "translator" in line for line in server.log_text().splitlines())
