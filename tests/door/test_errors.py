"""Each class of error leaves with its code, over HTTP and gRPC, and the message says what to do."""

import grpc
import pytest

from harness.grpc_door import error_code, replies
from harness.http_door import tensor
from harness.texts import ENGLISH, LASTING, LONG

MODEL = "whole"
INVALID_UTF8 = [b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", b"\xf0\x9f\x98"]


def assert_serves(http):
    assert http.text(MODEL, ENGLISH) == "O gato dorme no sofá."


def test_bad_request_over_http(http):
    assert http.infer(MODEL, [tensor("text_input", ENGLISH), tensor("temperature", -1.0)]).status == 400
    assert http.generate(MODEL, ENGLISH, temperature=-1.0).status == 400
    answer = http.post("/v2/models/pieces/generate_stream", {"text_input": ENGLISH, "temperature": -1.0})
    assert answer.status == 400 and "temperature" in answer.error


def test_bad_request_over_grpc(grpc_door):
    code, message = error_code(lambda: grpc_door.infer(MODEL, ENGLISH, temperature=-1.0))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "temperature" in message


def test_bad_request_in_a_grpc_stream(grpc_door):
    (reply,) = grpc_door.stream("pieces", ENGLISH, temperature=-1.0)
    assert "temperature" in reply.error


def test_bad_request_in_a_grpc_stream_leaves_the_others(grpc_door):
    """One stream, three requests, the middle one bad."""
    good, bad = grpc_door.request("pieces", ENGLISH), grpc_door.request("pieces", ENGLISH, temperature=-1.0)
    answers = list(replies(grpc_door.open_stream(good, bad, good)))
    assert sorted(reply.outputs.get("text_output", [""])[0] for reply in answers if not reply.error) == ["O gato dorme no sofá."] * 2
    assert sum(bool(reply.error) for reply in answers) == 1


def test_unsupported(http, grpc_door):
    assert http.infer(MODEL, [tensor("text_input", ENGLISH), tensor("beam_width", 4)]).status == 501
    code, message = error_code(lambda: grpc_door.infer(MODEL, ENGLISH, beam_width=4))
    assert code == grpc.StatusCode.UNIMPLEMENTED and "beam_width" in message


def test_unknown_model(http, grpc_door):
    assert http.infer("nobody", [tensor("text_input", ENGLISH)]).status == 404
    code, _ = error_code(lambda: grpc_door.infer("nobody", ENGLISH))
    assert code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("text", INVALID_UTF8, ids=repr)
def test_invalid_utf8(http, grpc_door, text):
    assert http.infer_binary(MODEL, [text]).status == 400
    code, message = error_code(lambda: grpc_door.infer(MODEL, text))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "UTF-8" in message


@pytest.mark.parametrize("name", ["stop_words", "bad_words", "decoder_text_input", "sampling_parameters"])
def test_invalid_utf8_in_options(grpc_door, name):
    code, message = error_code(lambda: grpc_door.infer(MODEL, ENGLISH, **{name: b"\xff"}))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and name in message


def test_empty_text(http, grpc_door):
    """An empty text has an empty translation; it is no reason to fail a list of texts."""
    assert http.infer_text(MODEL, "")["text_output"] == [""]
    assert grpc_door.infer(MODEL, "")["text_output"] == [""]
    assert http.infer_text(MODEL, ["", ENGLISH])["text_output"] == ["", "O gato dorme no sofá."]


def test_zero_texts(http, grpc_door):
    reply = http.infer(MODEL, [{"name": "text_input", "datatype": "BYTES", "shape": [0], "data": []}])
    assert reply.status == 400, reply
    assert "text_input" in reply.error
    code, _ = error_code(lambda: grpc_door.infer(MODEL, []))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_no_text(http):
    """The server does not enforce required inputs once optional ones exist."""
    reply = http.infer(MODEL, [tensor("max_tokens", 3)])
    assert reply.status == 400 and "text_input" in reply.error
    reply = http.post(f"/v2/models/{MODEL}/generate", {"max_tokens": 3})
    assert reply.status == 400 and "text_input" in reply.error


def test_text_of_ten_megabytes(http, grpc_door):
    huge = "a cat " * 1_700_000
    reply = http.infer(MODEL, [tensor("text_input", huge)])
    assert reply.status == 400, reply.status
    assert "max_input_bytes" in reply.error
    code, message = error_code(lambda: grpc_door.infer(MODEL, huge))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "max_input_bytes" in message
    assert_serves(http)


def test_max_input_bytes_counts_all_texts(http):
    assert http.infer("short-input", [tensor("text_input", ["a cat"] * 100)]).status == 200
    reply = http.infer("short-input", [tensor("text_input", ["a cat"] * 1000)])
    assert reply.status == 400 and "max_input_bytes" in reply.error


def test_a_source_that_is_too_long_is_refused(http):
    """Never cut: a translation of half a text is a wrong one."""
    reply = http.infer(MODEL, [tensor("text_input", LONG * 20)])
    assert reply.status == 400, reply
    assert "token" in reply.error


def test_options_must_be_single(http):
    reply = http.infer(MODEL, [tensor("text_input", ENGLISH), tensor("max_tokens", [3, 4])])
    assert reply.status == 400, reply
    assert "max_tokens" in reply.error


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\xff\xff\xff\xff", b"\x05\x00\x00\x00cat", b"\x03\x00\x00\x00cat!"])
def test_tensors_that_are_cut_or_overlong(http, raw):
    assert http.infer_raw(MODEL, raw, [1]).status == 400


def test_a_deadline_that_passes(http, grpc_door):
    """The entry allows 50 ms; the request would take far longer."""
    reply = http.infer("hasty", [tensor("text_input", LONG)] + [tensor(name, value) for name, value in LASTING.items()])
    assert reply.status == 503, reply
    assert "deadline" in reply.error
    code, message = error_code(lambda: grpc_door.infer("hasty", LONG, **LASTING))
    assert code == grpc.StatusCode.UNAVAILABLE and "deadline" in message
    assert http.text("hasty", ENGLISH) == "O gato dorme no sofá."


def test_a_deadline_of_the_request(http, grpc_door):
    """`timeout` of the protocol, in microseconds."""
    inputs = [tensor("text_input", LONG)] + [tensor(name, value) for name, value in LASTING.items()]
    reply = http.infer("lasting-whole", inputs, parameters={"timeout": 50_000})
    assert reply.status == 503, reply
    assert http.infer("lasting-whole", [tensor("text_input", ENGLISH)], parameters={"timeout": 60_000_000}).status == 200


def test_errors_name_the_request_in_the_log(server, http):
    http.infer(MODEL, [tensor("text_input", ENGLISH), tensor("temperature", -1.0)], id="the-one-to-find")
    assert "panicked" not in server.log_text()
