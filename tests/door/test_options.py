"""Every request option: what it does, each way of giving it, and what is refused."""

import json

import grpc
import pytest

from harness.grpc_door import error_code
from harness.http_door import tensor
from harness.texts import ENGLISH, OTHER_ENGLISH

MODEL = "whole"


def infer(http, **options):
    """Outputs of one sentence."""
    return http.infer_text(MODEL, ENGLISH, **options)


@pytest.fixture(scope="module")
def greedy(http):
    return infer(http)["text_output"][0]


# What an option does


@pytest.mark.parametrize("name", ["max_tokens", "max_length"])
def test_max_tokens(http, greedy, name):
    out = infer(http, **{name: 3}, return_finish_reason=True, return_num_output_tokens=True)
    assert out["num_output_tokens"] == [3] and out["finish_reason"] == ["length"]
    assert greedy.startswith(out["text_output"][0])


@pytest.mark.parametrize("name", ["min_tokens", "min_length"])
def test_min_tokens(http, greedy, name):
    natural = infer(http, return_num_output_tokens=True)["num_output_tokens"][0]
    out = infer(http, **{name: natural + 3}, return_num_output_tokens=True)
    assert out["num_output_tokens"][0] >= natural + 3


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_p": 1e-6},
        {"temperature": 1.0, "min_p": 1.0},
        {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
        {"beam_width": 1, "num_return_sequences": 1},
        {"length_penalty": 1.0},
        {"stop_words": ["zebra"], "bad_words": ["zebra"]},
    ],
    ids=str,
)
def test_options_that_leave_greedy_as_it_is(http, greedy, options):
    assert infer(http, **options)["text_output"] == [greedy]


def test_temperature_with_a_seed_is_reproducible(http):
    hot = {"temperature": 2.0, "max_tokens": 20}
    first = infer(http, **hot, random_seed=1)["text_output"]
    assert infer(http, **hot, random_seed=1)["text_output"] == first
    assert infer(http, **hot, seed=1)["text_output"] == first
    others = {infer(http, **hot, random_seed=seed)["text_output"][0] for seed in range(2, 8)}
    assert others != set(first)


def test_largest_seed(http):
    assert infer(http, temperature=1.0, seed=2**64 - 1)["text_output"]


@pytest.mark.parametrize("penalty", [{"repetition_penalty": 5.0}, {"presence_penalty": 50.0}, {"frequency_penalty": 50.0}])
def test_penalties_forbid_repeats(http, penalty):
    text = "No, no, no, no, no, no."
    plain = http.infer_text(MODEL, text)["text_output"][0]
    assert http.infer_text(MODEL, text, **penalty)["text_output"][0] != plain


def test_stop_words(http, greedy):
    out = infer(http, stop_words=["dorme", "never"], return_finish_reason=True)
    assert out["text_output"] == [greedy[: greedy.index("dorme")]]
    assert out["finish_reason"] == ["stop"]


def test_a_stop_word_across_tokens(http, greedy):
    middle = greedy[3:9]
    assert infer(http, stop_words=[middle])["text_output"] == [greedy[: greedy.index(middle)]]


def test_bad_words(http, greedy):
    word = greedy.split()[1]
    assert word not in infer(http, bad_words=[word])["text_output"][0]


def test_end_id_ends_the_sequence(http):
    text = infer(http, return_num_output_tokens=True)
    out = infer(http, end_id=0, return_num_output_tokens=True)
    assert out["num_output_tokens"][0] <= text["num_output_tokens"][0] or out["text_output"] == text["text_output"]


def test_num_return_sequences(http):
    out = infer(http, num_return_sequences=3, temperature=1.5, seed=5)
    assert len(out["text_output"]) == 3
    alone = [infer(http, temperature=1.5, seed=5 + index)["text_output"][0] for index in range(3)]
    assert out["text_output"] == alone


def test_num_return_sequences_of_several_texts(http):
    """Sequence `i · n + j` is sample `j` of text `i`, and has the seed of its place."""
    options = {"temperature": 1.5, "seed": 5, "return_num_input_tokens": True}
    out = http.infer_text(MODEL, [ENGLISH, OTHER_ENGLISH], num_return_sequences=2, **options)
    alone = [http.infer_text(MODEL, text, num_return_sequences=1, **options) for text in (ENGLISH, OTHER_ENGLISH)]
    (first,), (second,) = (each["num_input_tokens"] for each in alone)
    assert out["num_input_tokens"] == [first, first, second, second]
    assert out["text_output"][0] == alone[0]["text_output"][0]
    assert len(out["text_output"]) == 4


def test_greedy_samples_are_refused(http):
    """They would all be the same."""
    reply = http.infer(MODEL, [tensor("text_input", ENGLISH), tensor("num_return_sequences", 2)])
    assert reply.status == 400 and "num_return_sequences" in reply.error


def test_decoder_text_input(http, greedy):
    prefix = "O gato"
    out = infer(http, decoder_text_input=prefix)["text_output"][0]
    assert (prefix + out).replace(" ", "") == greedy.replace(" ", "") or out == greedy


def test_exclude_input_in_output(http, greedy):
    assert infer(http, exclude_input_in_output=True)["text_output"] == [greedy]
    whole = infer(http, exclude_input_in_output=False)["text_output"][0]
    assert whole.startswith(ENGLISH) and whole.endswith(greedy)


def test_extra_outputs_come_when_asked_for(http, greedy):
    out = infer(
        http,
        return_finish_reason=True,
        return_cumulative_logprob=True,
        return_log_probs=True,
        return_num_input_tokens=True,
        return_num_output_tokens=True,
    )
    assert out["text_output"] == [greedy]
    assert out["finish_reason"] == ["stop"]
    (tokens,) = map(json.loads, out["logprobs"])
    assert len(tokens) == out["num_output_tokens"][0] > 1
    assert out["num_input_tokens"][0] > 1
    logprobs = [token["logprob"] for token in tokens]
    assert all(logprob <= 0 for logprob in logprobs)
    assert out["cumulative_logprob"][0] == pytest.approx(sum(logprobs), rel=1e-4)


def test_only_the_text_comes_unasked(http):
    assert set(infer(http)) == {"text_output"}


def test_requested_outputs_are_honoured(http):
    request = {
        "inputs": [tensor("text_input", ENGLISH), tensor("return_finish_reason", True)],
        "outputs": [{"name": "finish_reason"}],
    }
    reply = http.post(f"/v2/models/{MODEL}/infer", request)
    assert reply.status == 200, reply
    assert [output["name"] for output in reply.json["outputs"]] == ["finish_reason"]


# Ways to give an option


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 3},
        {"parameters": {"max_tokens": 3}},
        {"sampling_parameters": '{"max_tokens": 3}'},
        {"sampling_parameters": '{"max_tokens": "3"}'},
    ],
    ids=str,
)
def test_ways_through_generate(http, options):
    short = infer(http, max_tokens=3)["text_output"][0]
    assert http.text(MODEL, ENGLISH, **options) == short


def test_ways_through_grpc(http, grpc_door):
    short = infer(http, max_tokens=3)["text_output"]
    assert grpc_door.infer(MODEL, ENGLISH, max_tokens=3)["text_output"] == short
    assert grpc_door.infer(MODEL, ENGLISH, parameters={"max_tokens": 3})["text_output"] == short
    assert grpc_door.infer(MODEL, ENGLISH, sampling_parameters='{"max_tokens":3}')["text_output"] == short


def test_ways_through_infer_parameters(http):
    short = infer(http, max_tokens=3)["text_output"]
    reply = http.infer(MODEL, [tensor("text_input", ENGLISH)], parameters={"max_tokens": 3})
    assert reply.json["outputs"][0]["data"] == short


@pytest.mark.parametrize(
    "parameters",
    [{"temperature": 1.5, "seed": 3}, {"top_p": 0.5, "temperature": 1.0, "random_seed": 3}, {"return_finish_reason": True}],
    ids=str,
)
def test_parameters_of_each_type(http, grpc_door, parameters):
    assert grpc_door.infer(MODEL, ENGLISH, parameters=parameters) == infer(http, **parameters)


def test_list_options_inside_sampling_parameters(http, greedy):
    inside = json.dumps({"stop_words": ["dorme"]})
    assert http.text(MODEL, ENGLISH, sampling_parameters=inside) == greedy[: greedy.index("dorme")]


@pytest.mark.parametrize(
    "options",
    [{"id": "a"}, {"sequence_id": 0}, {"priority": 1}, {"timeout": 60_000_000}, {"triton_enable_empty_final_response": True}],
    ids=str,
)
def test_keys_of_the_protocol_are_no_options(http, greedy, options):
    assert http.text(MODEL, ENGLISH, **options) == greedy


def test_what_known_load_generators_send(http, greedy):
    tensorrt = {"max_tokens": 50, "exclude_input_in_output": True, "stream": False, "min_length": 1}
    assert http.text(MODEL, ENGLISH, **tensorrt) == greedy
    vllm = {
        "exclude_input_in_output": True,
        "stream": False,
        "sampling_parameters": '{"max_tokens":"50","min_tokens":"1"}',
    }
    assert http.text(MODEL, ENGLISH, **vllm) == greedy


# What is refused


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("min_tokens", -1),
        ("temperature", -0.5),
        ("top_k", -2),
        ("top_p", -0.1),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("num_return_sequences", 0),
        ("num_return_sequences", -3),
        ("num_return_sequences", 1_000_000),
        ("beam_width", 0),
        ("end_id", -7),
        ("end_id", 2_000_000_000),
        ("stop_words", ["a", ""]),
        ("sampling_parameters", "not json"),
        ("sampling_parameters", "[1]"),
        ("sampling_parameters", '{"max_tokens":"many"}'),
        ("sampling_parameters", '{"unheard_of":1}'),
        ("sampling_parameters", '{"max_tokens":1e99}'),
    ],
)
def test_values_out_of_range(http, name, value):
    reply = http.infer(MODEL, [tensor("text_input", ENGLISH), tensor(name, value)])
    assert reply.status == 400, reply
    assert name in reply.error or "unheard_of" in reply.error or "max_tokens" in reply.error


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none(grpc_door, name, value):
    code, message = error_code(lambda: grpc_door.infer(MODEL, ENGLISH, **{name: value}))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and name in message


def test_options_that_contradict_each_other(http):
    reply = http.infer(MODEL, [tensor("text_input", ENGLISH), tensor("min_tokens", 9), tensor("max_tokens", 3)])
    assert reply.status == 400, reply


@pytest.mark.parametrize("way", ["top level", "parameters", "sampling_parameters"])
def test_unknown_options_are_refused_by_name(http, way):
    options = {
        "top level": {"temprature": 1},
        "parameters": {"parameters": {"temprature": 1}},
        "sampling_parameters": {"sampling_parameters": '{"temprature": 1}'},
    }[way]
    reply = http.generate(MODEL, ENGLISH, **options)
    assert reply.status == 400, reply
    assert "temprature" in reply.error


@pytest.mark.parametrize(
    "parameters",
    [{"max_tokens": "three"}, {"max_tokens": 2.5}, {"max_tokens": True}, {"stream": "perhaps"}, {"temperature": "warm"}],
    ids=str,
)
def test_parameters_of_the_wrong_type(http, parameters):
    reply = http.infer(MODEL, [tensor("text_input", ENGLISH)], parameters=parameters)
    assert reply.status == 400, reply
    assert next(iter(parameters)) in reply.error


@pytest.mark.parametrize(
    "name, value",
    [("beam_width", 4), ("guided_decoding_guide_type", "json")],
)
def test_what_is_declared_but_not_built_is_refused(http, name, value):
    reply = http.infer(MODEL, [tensor("text_input", ENGLISH), tensor(name, value)])
    assert reply.status == 501, reply
    assert name in reply.error


def test_streaming_needs_a_decoupled_entry(http):
    reply = http.generate(MODEL, ENGLISH, stream=True)
    assert reply.status == 400, reply
    assert "decoupled" in reply.error
