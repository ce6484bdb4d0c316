"""Ten thousand malformed and boundary requests, after which the server still answers correctly.

Each kind of request says whether it must be refused, must be served, or may be either; the numbers in it are
drawn from a fixed seed.
"""

import json
import random
import struct

from harness.grpc_door import error_code
from harness.texts import ENGLISH, FOREIGN

COUNT = 10_000
REFUSED, SERVED, EITHER = "refused", "served", "either"
GENERATE = "/v2/models/{}/generate"
STREAM = "/v2/models/{}/generate_stream"
INFER = "/v2/models/{}/infer"

OPTIONS = ["max_tokens", "min_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"]
OPTIONS += ["stop_words", "bad_words", "num_return_sequences", "stream", "sampling_parameters", "decoder_text_input"]
OPTIONS += ["beam_width", "end_id", "pad_id", "length_penalty", "exclude_input_in_output", "return_finish_reason"]
VALUES = [0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, 0.0, -0.0, 1e-30, 1e38, -1e38, True, False, "", "a", "\x00", None]
VALUES += [[], [1], ["a"], [""], [[]], {}, {"a": 1}, "{}", "[", "1", "\ufeff", "\U0001f600", ["a"] * 50]


def short_text(draw):
    alphabet = ENGLISH + FOREIGN + "\n\t\r\x00\x7f\"\\{}<>&%"
    return "".join(draw.choice(alphabet) for _ in range(draw.randrange(1, 12)))


def body(text, **options):
    return json.dumps({"text_input": text, **options}).encode()


def truncated_json(draw):
    whole = body(ENGLISH, max_tokens=2)
    return GENERATE, whole[: draw.randrange(0, len(whole) - 1)], REFUSED


def flipped_bytes(draw):
    data = bytearray(body(ENGLISH, max_tokens=2))
    for _ in range(draw.randrange(1, 4)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return draw.choice([GENERATE, STREAM]), bytes(data), EITHER


def noise(draw):
    return draw.choice([GENERATE, STREAM, INFER]), draw.randbytes(draw.randrange(0, 200)), REFUSED


def any_option_any_value(draw):
    options = {draw.choice(OPTIONS): draw.choice(VALUES) for _ in range(draw.randrange(1, 3))}
    options.setdefault("max_tokens", 2)
    return draw.choice([GENERATE, STREAM]), body("a", **options), EITHER


def unknown_option(draw):
    name = "x_" + "".join(draw.choice("abcdefgh_-. ") for _ in range(draw.randrange(1, 20)))
    return draw.choice([GENERATE, STREAM]), body(ENGLISH, **{name: draw.choice([1, "a", True, 0.5])}), REFUSED


def out_of_range(draw):
    name, value = draw.choice(
        [("max_tokens", 0), ("max_tokens", -5), ("temperature", -1), ("top_p", 1.5), ("top_p", -1), ("min_p", 2)]
        + [("repetition_penalty", 0), ("num_return_sequences", 0), ("min_tokens", -1), ("top_k", -9)]
    )
    return draw.choice([GENERATE, STREAM]), body(ENGLISH, **{name: value}), REFUSED


def text_of_another_type(draw):
    return GENERATE, body(draw.choice([1, 1.5, True, None, {}, {"a": 1}, [[]], [1, 2], [None]])), REFUSED


def no_text(draw):
    return draw.choice([GENERATE, STREAM]), json.dumps({"max_tokens": draw.randrange(1, 9)}).encode(), REFUSED


def odd_messages(draw):
    user = {"role": "user", "content": ENGLISH}
    messages = draw.choice(["", "[", "[]", "{}", "null", "7", "[7]", "[[]]", [], [user], user, 7, None, "[" * 9999])
    return draw.choice([GENERATE, STREAM]), json.dumps({"messages": messages}).encode(), REFUSED


def text_and_messages(draw):
    messages = json.dumps([{"role": "user", "content": short_text(draw)}])
    return draw.choice([GENERATE, STREAM]), body(ENGLISH, messages=messages), REFUSED


def odd_text(draw):
    return draw.choice([GENERATE, STREAM]), body(short_text(draw), max_tokens=draw.randrange(1, 4)), SERVED


def blank_text(draw):
    return GENERATE, body(draw.choice(["", " ", "\n", "\t\t", "\u3000", "\u200b", "\x00"])), SERVED


def many_texts(draw):
    return GENERATE, body([short_text(draw) for _ in range(draw.randrange(1, 20))], max_tokens=1), SERVED


def invalid_utf8_in_json(draw):
    data = b'{"text_input": "a' + draw.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"]) + b'"}'
    return GENERATE, data, EITHER


def surrogates(draw):
    return GENERATE, b'{"text_input": "\\ud83d", "max_tokens": 1}', EITHER


def wrong_shape(draw):
    shape = draw.choice([[0], [2], [-1], [1, 1], [], [2**40], [2**62, 4], ["a"], None, 1])
    request = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": shape, "data": ["a"]}]}
    return INFER, json.dumps(request).encode(), REFUSED


def wrong_datatype(draw):
    datatype = draw.choice(["INT32", "FP32", "BOOL", "bytes", "", "STRING", 1, None])
    request = {"inputs": [{"name": "text_input", "datatype": datatype, "shape": [1], "data": ["a"]}]}
    return INFER, json.dumps(request).encode(), REFUSED


def unknown_tensor(draw):
    text = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    other = {"name": draw.choice(["", "text", "TEXT_INPUT", "x"]), "datatype": "INT32", "shape": [1], "data": [1]}
    return INFER, json.dumps({"inputs": [text, other]}).encode(), REFUSED


def unknown_output(draw):
    text = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    return INFER, json.dumps({"inputs": [text], "outputs": [{"name": draw.choice(["", "x"])}]}).encode(), REFUSED


def deep_json(draw):
    depth = draw.randrange(10, 200)
    return GENERATE, b'{"text_input": ' + b"[" * depth + b"]" * depth + b"}", REFUSED


KINDS = [
    (truncated_json, 10),
    (flipped_bytes, 20),
    (noise, 10),
    (any_option_any_value, 25),
    (unknown_option, 10),
    (out_of_range, 15),
    (text_of_another_type, 5),
    (no_text, 5),
    (odd_messages, 5),
    (text_and_messages, 2),
    (odd_text, 15),
    (blank_text, 3),
    (many_texts, 3),
    (invalid_utf8_in_json, 4),
    (surrogates, 1),
    (wrong_shape, 8),
    (wrong_datatype, 5),
    (unknown_tensor, 5),
    (unknown_output, 3),
    (deep_json, 3),
]


def is_error(path, status, data):
    """Errors under 200: generate and generate_stream carry them in the body."""
    if status != 200:
        return True
    if path is STREAM:
        return any("error" in json.loads(event[6:]) for event in data.split(b"\n\n") if event)
    return "error" in json.loads(data)


def test_ten_thousand(server, http, grpc_door):
    draw = random.Random(2024)
    kinds = [kind for kind, weight in KINDS for _ in range(weight)]
    before = http.text("whole", ENGLISH)
    seen = {REFUSED: 0, SERVED: 0}
    for _ in range(COUNT):
        kind = draw.choice(kinds)
        path, data, expected = kind(draw)
        model = draw.choice(["pieces", "whole"]) if path is GENERATE else "pieces" if path is STREAM else "whole"
        answer = http.pool.request("POST", path.format(model), body=data)
        found = REFUSED if is_error(path, answer.status, answer.data) else SERVED
        assert expected in (found, EITHER), (kind.__name__, data[:300], answer.status, answer.data[:300])
        assert answer.status < 500 or answer.status in (500, 501, 503), (data[:300], answer.status)
        seen[found] += 1
    server.assert_alive()
    assert min(seen.values()) > COUNT // 10, seen
    assert http.text("whole", ENGLISH) == before
    assert "panicked" not in server.log_text()


def test_five_hundred_broken_tensors(http):
    draw = random.Random(7)
    before = http.text("whole", ENGLISH)
    for _ in range(500):
        items = [draw.randbytes(draw.randrange(0, 20)) for _ in range(draw.randrange(0, 4))]
        raw = bytearray(b"".join(struct.pack("<I", len(item)) + item for item in items))
        if raw and draw.random() < 0.7:
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        reply = http.infer_raw("whole", bytes(raw), [draw.randrange(0, 5)])
        assert reply.status in (200, 400), reply
    assert http.text("whole", ENGLISH) == before


def test_broken_tensors_over_grpc(grpc_door):
    draw = random.Random(9)
    for _ in range(300):
        request = grpc_door.request("whole", ENGLISH, max_tokens=2)
        which = draw.randrange(2)
        raw = bytearray(request.raw_input_contents[which])
        if draw.random() < 0.5:
            raw = raw[: draw.randrange(len(raw))]
        else:
            raw += draw.randbytes(draw.randrange(1, 9))
        request.raw_input_contents[which] = bytes(raw)
        code, _ = error_code(lambda request=request: grpc_door.stub.ModelInfer(request, timeout=60))
        assert code.name == "INVALID_ARGUMENT", code
    assert grpc_door.infer("whole", ENGLISH)["text_output"] == ["O gato dorme no sofá."]
