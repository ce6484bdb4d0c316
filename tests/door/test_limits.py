"""A full queue answers at once; limits of an entry hold."""

import grpc
import pytest

from harness.grpc_door import error_code, replies
from harness.http_door import tensor
from harness.metrics import outcomes, running, waiting
from harness.repository import parameters
from harness.server import eventually
from harness.texts import ENGLISH, LASTING, LONG


@pytest.fixture
def full(server, grpc_door):
    """The entry `narrow` with its one place taken and its queue of two full."""
    eventually(lambda: running(server, "narrow") == 0 and waiting(server, "narrow") == 0)
    calls = [grpc_door.open_stream(grpc_door.request("narrow", LONG, stream=True, **LASTING))]
    next(calls[0])
    for count in (1, 2):
        calls.append(grpc_door.open_stream(grpc_door.request("narrow", ENGLISH, stream=True)))
        eventually(lambda count=count: waiting(server, "narrow") == count)
    yield calls
    for call in calls:
        call.cancel()


def test_a_full_queue_answers_at_once(server, grpc_door, http, full):
    before = outcomes(server, "narrow")["rejected"]
    reply = http.generate("narrow", ENGLISH)
    assert reply.status == 400 and "queue is full" in reply.error
    (answer,) = grpc_door.stream("narrow", ENGLISH)
    assert "queue is full" in answer.error
    assert waiting(server, "narrow") == 2, "those that wait are not disturbed"
    assert outcomes(server, "narrow")["rejected"] == before + 2


def test_a_full_queue_has_its_code(server, grpc_door, http):
    """UNAVAILABLE, 503: the doors for one response say the code."""
    model = "narrow-whole"
    calls = [grpc_door.stub.ModelInfer.future(grpc_door.request(model, LONG, **LASTING))]
    try:
        eventually(lambda: running(server, model) == 1)
        for count in (1, 2):
            calls.append(grpc_door.stub.ModelInfer.future(grpc_door.request(model, ENGLISH)))
            eventually(lambda count=count: waiting(server, model) == count)
        code, message = error_code(lambda: grpc_door.infer(model, ENGLISH))
        assert code == grpc.StatusCode.UNAVAILABLE and "queue is full" in message
        assert http.infer(model, [tensor("text_input", ENGLISH)]).status == 503
    finally:
        for call in calls:
            call.cancel()


def test_those_that_wait_are_served_in_the_end(full):
    full[0].cancel()
    for call in full[1:]:
        assert "".join("".join(reply.outputs.get("text_output", [])) for reply in replies(call)) == "O gato dorme no sofá."


def test_sequences_of_one_request_are_bounded(http):
    """Texts times samples; the default of `max_request_sequences` is 1024."""
    reply = http.generate("whole", [ENGLISH] * 40, num_return_sequences=30, temperature=1.0)
    assert reply.status == 400 and "max_request_sequences" in reply.error


def test_max_tokens_beyond_the_entry_is_refused_or_bounded(http):
    reply = http.generate("lasting", ENGLISH, max_tokens=1_000_000)
    assert reply.status == 400 or reply.json["text_output"] == "O gato dorme no sofá."


@pytest.mark.parametrize(
    "key, value",
    [
        ("max_sequences", "0"),
        ("max_sequences", "many"),
        ("max_source_tokens", "-1"),
        ("max_target_tokens", "0"),
        ("intra_op_threads", "-2"),
        ("request_timeout_ms", "soon"),
        ("max_sequence", "8"),
    ],
)
def test_a_wrong_key_or_value_fails_the_load_and_is_named(own_server, key, value):
    """Also a misspelt one: a limit that is silently not there is worse than none."""
    def fill(repository):
        repository.add("good")
        repository.add("bad", parameters(**{key: value}))

    with own_server(fill, "--exit-on-error=false", "--strict-readiness=false") as (server, http, _):
        eventually(lambda: http.ready("good"), 60)
        assert not http.ready("bad")
        index = http.post("/v2/repository/index").json
        (reason,) = [entry["reason"] for entry in index if entry["name"] == "bad"]
        assert key in reason or value in reason, reason
        assert http.text("good", ENGLISH) == "O gato dorme no sofá."


def test_a_runtime_that_is_not_there_fails_the_load(own_server):
    """The process has one runtime, so no other model may have loaded it before."""

    def fill(repository):
        repository.add("bad", parameters(runtime_library="/nowhere/libonnxruntime.so"))

    with own_server(fill, "--model-control-mode=explicit") as (server, http, _):
        reply = http.load("bad")
        assert reply.status >= 400 and "/nowhere/libonnxruntime.so" in reply.error
        server.assert_alive()
