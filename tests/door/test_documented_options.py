"""No option that the README lists is ignored: each one changes the answer, or has nothing but idle values, which are listed,
and refuses every other one."""

import json

import pytest

from harness import documents, places
from harness.http_door import tensor
from harness.texts import ENGLISH, QUESTION

REQUESTS = documents.section(places.ROOT / "README.md", "Requests")
OPTIONS = documents.table(REQUESTS, "option", "type", "meaning", "off or default")
IDLE_OPTIONS = documents.table(REQUESTS, "option", "type", "idle values")

HOT = {"temperature": 2.0, "seed": 1, "max_tokens": 12}
SHORT = {"temperature": 0.0, "max_tokens": 8}
CHOICES = {"guided_decoding_guide_type": "choice", "guided_decoding_guide": '["O gato dorme.", "Sim"]'}
LANGUAGES = {"src_lang": "en", "tgt_lang": "pt"}
REPEATS = "No, no, no, no, no, no."

#: For each option: the entry and the text that are asked, other options of the request, and a value that makes the answer
#: another one than without the option, or than the value among the others.
CHANGES = {
    "max_tokens": ("whole", ENGLISH, {}, 3),
    "max_length": ("whole", ENGLISH, {}, 3),
    "min_tokens": ("whole", ENGLISH, {}, 30),
    "min_length": ("whole", ENGLISH, {}, 30),
    "temperature": ("whole", ENGLISH, {"seed": 1}, 3.0),
    "top_k": ("whole", ENGLISH, HOT, 1),
    "top_p": ("whole", ENGLISH, HOT, 1e-6),
    "min_p": ("whole", ENGLISH, HOT, 1.0),
    "repetition_penalty": ("whole", REPEATS, {}, 5.0),
    "presence_penalty": ("whole", REPEATS, {}, 50.0),
    "frequency_penalty": ("whole", REPEATS, {}, 50.0),
    "random_seed": ("whole", ENGLISH, {"temperature": 2.0, "random_seed": 1}, 2),
    "seed": ("whole", ENGLISH, {"temperature": 2.0, "seed": 1}, 2),
    "num_return_sequences": ("whole", ENGLISH, HOT, 2),
    "stop_words": ("whole", ENGLISH, {}, ["dorme"]),
    "bad_words": ("whole", ENGLISH, {}, ["gato"]),
    "end_id": ("chat-whole", QUESTION, SHORT, "the second token"),
    "decoder_text_input": ("whole", ENGLISH, {}, "Um"),
    "apply_chat_template": ("chat-whole", QUESTION, SHORT, False),
    "chat_template_kwargs": ("chat-whole", QUESTION, SHORT, '{"add_generation_prompt": false}'),
    "src_lang": ("translating", ENGLISH, LANGUAGES, "tlh"),
    "tgt_lang": ("translating", ENGLISH, LANGUAGES, "tlh"),
    "stream": ("pieces", ENGLISH, {}, True),
    "exclude_input_in_output": ("whole", ENGLISH, {}, False),
    "guided_decoding_guide_type": ("whole", ENGLISH, CHOICES, "regex"),
    "guided_decoding_guide": ("whole", ENGLISH, CHOICES, '["Sim"]'),
    "return_choice_probabilities": ("whole", ENGLISH, CHOICES, True),
    "return_finish_reason": ("whole", ENGLISH, {}, True),
    "return_num_input_tokens": ("whole", ENGLISH, {}, True),
    "return_num_output_tokens": ("whole", ENGLISH, {}, True),
    "return_cumulative_logprob": ("whole", ENGLISH, {}, True),
    "return_log_probs": ("whole", ENGLISH, {}, True),
}

#: For each option that has idle values only: some of them, and values that are refused.
IDLE = {
    "beam_width": ([1], [2, 8]),
    "length_penalty": ([0.0, 1.0], [0.5, 2.0, -1.0]),
    "pad_id": ([0, -1, 7], []),
    "skip_special_tokens": ([True], [False]),
}


def asked(http, entry, text, options):
    """All that comes back: the outputs of each event of a stream, or the status of a refusal."""
    if entry == "pieces":
        return http.stream(entry, text, **{"stream": False, **options})
    inputs = [tensor(name, value) for name, value in {"text_input": text, **options}.items()]
    reply = http.infer(entry, inputs)
    return {output["name"]: output["data"] for output in reply.json["outputs"]} if reply.status == 200 else reply.status


def test_every_documented_option_is_tried():
    assert documents.names(*(row[0] for row in OPTIONS)) == set(CHANGES)
    assert documents.names(*(row[0] for row in IDLE_OPTIONS)) == set(IDLE)


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_changes_the_answer(http, name):
    entry, text, others, value = CHANGES[name]
    if name == "end_id":
        tokens = asked(http, entry, text, {**others, "return_log_probs": True})["logprobs"][0]
        value = json.loads(tokens)[1]["token_id"]
    before = asked(http, entry, text, others)
    assert asked(http, entry, text, others) == before, "the answer has to be the same each time"
    assert asked(http, entry, text, {**others, name: value}) != before


@pytest.mark.parametrize("name", IDLE)
def test_an_option_without_effect_takes_idle_values_only(http, name):
    idle, others = IDLE[name]
    plain = asked(http, "whole", ENGLISH, {})
    assert all(asked(http, "whole", ENGLISH, {name: value}) == plain for value in idle)
    assert all(asked(http, "whole", ENGLISH, {name: value}) in (400, 501) for value in others)
