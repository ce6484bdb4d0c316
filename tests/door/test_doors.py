"""Each door serves: infer, generate, generate_stream, gRPC unary and gRPC streams; in both transaction
policies, with and without a batch dimension, one text and several; and all say the same text."""

import grpc
import pytest
import tritonclient.grpc

from harness.grpc_door import error_code
from harness.http_door import tensor
from harness.texts import ENGLISH, OTHER_ENGLISH

TEXTS = [ENGLISH, OTHER_ENGLISH, "I forgot my umbrella at the office."]
WHOLE = ["whole", "whole-batched"]
PIECES = ["pieces", "pieces-batched"]


@pytest.fixture(scope="module")
def expected(http):
    """The translation of each text, asked for alone."""
    return [http.text("whole", text) for text in TEXTS]


def batched(model: str) -> bool:
    return model.endswith("-batched")


def texts_tensor(model: str, texts):
    """One text a row in a batch, all in one row elsewhere."""
    return tensor("text_input", texts, [len(texts), 1] if batched(model) else [len(texts)])


def test_the_translation_is_one(expected):
    assert expected[0] == "O gato dorme no sofá."
    assert len(set(expected)) == len(TEXTS)


@pytest.mark.parametrize("model", WHOLE)
def test_http_infer(http, expected, model):
    shape = [1, 1] if batched(model) else [1]
    reply = http.infer(model, [tensor("text_input", ENGLISH, shape)], id="first")
    assert reply.status == 200, reply
    assert reply.json["id"] == "first"
    (output,) = reply.json["outputs"]
    assert output["name"] == "text_output" and output["datatype"] == "BYTES"
    assert output["data"] == expected[:1]


@pytest.mark.parametrize("model", WHOLE)
def test_http_infer_of_several_texts(http, expected, model):
    reply = http.infer(model, [texts_tensor(model, TEXTS)])
    assert reply.status == 200, reply
    (output,) = reply.json["outputs"]
    assert output["data"] == expected


def test_http_infer_with_binary_tensors(http, expected):
    reply = http.infer_binary("whole", [text.encode() for text in TEXTS])
    assert reply.status == 200, reply
    assert reply.json["outputs"][0]["data"] == expected


@pytest.mark.parametrize("model", PIECES)
def test_http_infer_is_refused_by_a_decoupled_entry(http, model):
    shape = [1, 1] if batched(model) else [1]
    assert http.infer(model, [tensor("text_input", ENGLISH, shape)]).status == 501


@pytest.mark.parametrize("model", WHOLE + PIECES + ["minimal", "translate-en-pt", "two-instances", "warm", "whole-fp32"])
def test_http_generate(http, expected, model):
    reply = http.generate(model, ENGLISH)
    assert reply.status == 200, reply
    assert reply.json["text_output"] == expected[0]


@pytest.mark.parametrize("model", WHOLE + PIECES)
def test_http_generate_of_several_texts(http, expected, model):
    reply = http.generate(model, TEXTS)
    assert reply.status == 200, reply
    assert reply.json["text_output"] == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", PIECES + ["minimal", "translate-en-pt", "two-instances", "warm"])
def test_http_generate_stream(http, expected, model, stream):
    events = http.stream(model, ENGLISH, stream=stream)
    assert "".join(event["text_output"] for event in events) == expected[0]
    # Streamed pieces may be merged when the machine is slow; how many there are is no promise.
    assert stream or len(events) == 1


@pytest.mark.parametrize("model", WHOLE)
def test_http_generate_stream_of_a_whole_entry_is_one_event(http, expected, model):
    (event,) = http.stream(model, ENGLISH, stream=False)
    assert event["text_output"] == expected[0]


@pytest.mark.parametrize("model", WHOLE)
def test_grpc_unary(grpc_door, expected, model):
    assert grpc_door.infer(model, ENGLISH, batch=batched(model))["text_output"] == expected[:1]


def test_grpc_unary_of_several_texts(grpc_door, expected):
    assert grpc_door.infer("whole", TEXTS)["text_output"] == expected


def test_grpc_unary_is_refused_by_a_decoupled_entry(grpc_door):
    code, _ = error_code(lambda: grpc_door.infer("pieces", ENGLISH))
    assert code == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("model", PIECES + ["minimal", "two-instances"])
def test_grpc_stream(grpc_door, expected, model):
    replies = grpc_door.stream(model, ENGLISH, batch=batched(model))
    assert not any(reply.error for reply in replies)
    assert "".join("".join(reply.outputs.get("text_output", [])) for reply in replies) == expected[0]
    assert [reply.final for reply in replies] == [False] * (len(replies) - 1) + [True]


def test_grpc_stream_of_a_whole_entry(grpc_door, expected):
    (reply,) = grpc_door.stream("whole", ENGLISH, stream=False)
    assert reply.final and reply.outputs["text_output"] == expected[:1]


def test_one_grpc_stream_carries_many_requests(grpc_door, expected):
    requests = [
        grpc_door.request("pieces", text, request_id=str(index), stream=True) for index, text in enumerate(TEXTS)
    ]
    texts = {str(index): "" for index in range(len(TEXTS))}
    finals = 0
    call = grpc_door.open_stream(*requests)
    for response in call:
        assert not response.error_message
        reply = response.infer_response
        for output, raw in zip(reply.outputs, reply.raw_output_contents):
            if output.name == "text_output":
                texts[reply.id] += raw[4:].decode()
        finals += reply.parameters["triton_final_response"].bool_param
    assert list(texts.values()) == expected
    assert finals == len(TEXTS)


def test_the_usual_grpc_client(server, expected):
    """tritonclient as its users call it."""
    import numpy as np

    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        text = tritonclient.grpc.InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array([ENGLISH.encode()], dtype=np.object_))
        result = client.infer("whole", [text], parameters={"max_tokens": 100})
        assert [item.decode() for item in result.as_numpy("text_output")] == expected[:1]


def test_the_completed_configuration(http):
    config = http.config("minimal")
    inputs = {each["name"]: each for each in config["input"]}
    assert all(each["optional"] for each in inputs.values())
    documented = {
        "TYPE_INT32": ["max_tokens", "max_length", "min_length", "min_tokens", "top_k", "beam_width"]
        + ["num_return_sequences", "end_id", "pad_id"],
        "TYPE_FP32": ["temperature", "top_p", "min_p", "length_penalty", "repetition_penalty"]
        + ["presence_penalty", "frequency_penalty"],
        "TYPE_UINT64": ["random_seed", "seed"],
        "TYPE_STRING": ["text_input", "messages", "stop_words", "bad_words", "sampling_parameters", "decoder_text_input"]
        + ["guided_decoding_guide", "guided_decoding_guide_type", "src_lang", "tgt_lang"],
        "TYPE_BOOL": ["apply_chat_template", "stream", "exclude_input_in_output", "return_log_probs", "return_finish_reason"]
        + ["return_cumulative_logprob", "return_num_input_tokens", "return_num_output_tokens"]
        + ["return_choice_probabilities"],
    }
    for data_type, names in documented.items():
        for name in names:
            assert inputs[name]["data_type"] == data_type, name
    outputs = {each["name"]: each["data_type"] for each in config["output"]}
    assert outputs == {
        "text_output": "TYPE_STRING",
        "finish_reason": "TYPE_STRING",
        "cumulative_logprob": "TYPE_FP32",
        "logprobs": "TYPE_STRING",
        "num_input_tokens": "TYPE_INT32",
        "num_output_tokens": "TYPE_INT32",
        "sequence_index": "TYPE_INT32",
        "choice_probabilities": "TYPE_STRING",
    }


def test_all_doors_at_once_on_two_models(http, grpc_door, expected):
    """Models side by side do not disturb each other."""
    back = http.text("translate-pt-en", expected[0])
    assert http.text("translate-en-pt", ENGLISH) == expected[0]
    assert grpc_door.infer("whole", ENGLISH)["text_output"] == expected[:1]
    assert http.text("translate-pt-en", expected[0]) == back
    assert "cat" in back


def test_ensemble_goes_there_and_back(http, expected):
    back = http.text("translate-pt-en", expected[0])
    assert http.text("paraphrase-en", ENGLISH) == back


def test_ensemble_forwards_options(http):
    assert len(http.text("paraphrase-en", ENGLISH, max_tokens=2)) < len(http.text("paraphrase-en", ENGLISH))


def test_ensemble_says_what_either_member_cut(http):
    """With room for all of the English, the Portuguese may still be cut; what is made of that is not whole."""
    reasons = [
        http.generate("paraphrase-en", ENGLISH, max_tokens=max_tokens).json["finish_reason"] for max_tokens in range(1, 20)
    ]
    assert reasons[0] == "length" and reasons[-1] == "stop" and reasons == sorted(reasons)
    back = http.generate("translate-pt-en", "O gato", source_finish_reason="length", return_finish_reason=True).json
    assert back["finish_reason"] == "length"
    back = http.generate("translate-pt-en", "O gato", source_finish_reason="stop", return_finish_reason=True).json
    assert back["finish_reason"] == "stop"


@pytest.mark.parametrize("model", WHOLE)
def test_one_reason_for_each_source(http, model):
    reasons = ["stop", "length", "stop"]
    rows = [3, 1] if batched(model) else [3]
    inputs = [texts_tensor(model, TEXTS), tensor("source_finish_reason", reasons, rows)]
    named = [{"name": "finish_reason"}]
    reply = http.infer(model, inputs, outputs=named)
    assert reply.status == 200, reply
    assert reply.json["outputs"][0]["data"] == reasons


def test_a_reason_too_few_is_refused(http):
    reply = http.infer("whole", [texts_tensor("whole", TEXTS), tensor("source_finish_reason", ["stop"])])
    assert reply.status == 400 and "source_finish_reason" in reply.error


def test_the_committed_ensemble_is_the_one_served(http):
    assert http.config("paraphrase-en")["platform"] == "ensemble"
