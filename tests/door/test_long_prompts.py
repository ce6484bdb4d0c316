"""Long prompts are taken in beside everybody else: they disturb no answer, and they can be given up midway."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import grpc_door as grpc_replies
from harness import http_door as http_events
from harness import places
from harness.grpc_door import GrpcDoor
from harness.http_door import tensor
from harness.metrics import PREFIX, outcomes, running, waiting
from harness.repository import decoupled, parameters
from harness.server import eventually
from harness.texts import QUESTION, long_prompt

SHORT = {"max_tokens": 16, "temperature": 0.0}
#: Takes some seconds to take in.
WORDS = 2500


def begun(server, door, text, **options):
    """A stream over gRPC whose prompt is being taken in."""
    call = door.open_stream(door.request("chat", text, stream=True, **{**SHORT, **options}))
    eventually(lambda: running(server, "chat") == 1)
    return call


@pytest.fixture
def idle(server):
    """The chat model once nothing is left of the test before."""
    eventually(lambda: running(server, "chat") == 0 and waiting(server, "chat") == 0)


def test_long_and_short_prompts_together_answer_as_alone(http, grpc_door):
    prompts = [long_prompt(words, seed=words) for words in (900, 3, 400, 30, 1200, 1, 80, 600)] + places.sentences()[:8]
    alone = [http.text("chat-apart", prompt, **SHORT) for prompt in prompts]
    assert len(set(alone)) > len(prompts) // 2

    def ask(index):
        if index % 2:
            return http_events.joined(http.stream("chat", prompts[index], **SHORT))
        return grpc_replies.joined(grpc_door.stream("chat", prompts[index], **SHORT))

    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(ask, range(len(prompts)))) == alone


def test_a_prompt_beyond_the_context_is_refused_and_disturbs_nobody(http, grpc_door):
    expected = http.text("chat-apart", QUESTION, **SHORT)
    running_call = grpc_door.open_stream(grpc_door.request("chat", QUESTION, stream=True, **SHORT))
    beyond = long_prompt(5000, seed=1)
    reply = http.infer("chat-whole", [tensor("text_input", beyond)])
    assert reply.status == 400
    assert "4096" in reply.error and "max_context_tokens" in reply.error
    (answer,) = grpc_door.stream("chat", beyond)
    assert "4096" in answer.error
    assert grpc_replies.joined(grpc_replies.replies(running_call)) == expected


def test_a_prompt_given_up_midway_frees_its_slot(server, grpc_door, http, idle):
    def generated():
        return server.metric(PREFIX + "generation_tokens_total", model="chat")

    before, tokens = outcomes(server, "chat")["cancelled"], generated()
    begun(server, grpc_door, long_prompt(WORDS, seed=2)).cancel()
    eventually(lambda: running(server, "chat") == 0)
    assert outcomes(server, "chat")["cancelled"] == before + 1
    assert generated() == tokens, "the prompt had been taken in before it was cancelled"
    assert http.text("chat", QUESTION, **SHORT) == http.text("chat-apart", QUESTION, **SHORT)


def test_what_a_prompt_given_up_has_left_is_used_again(server, grpc_door, http, idle):
    """Half a prompt in a cache is no worse than a whole one."""
    text = long_prompt(WORDS // 2, seed=3)
    begun(server, grpc_door, text).cancel()
    eventually(lambda: running(server, "chat") == 0)
    assert http.text("chat", text, **SHORT) == http.text("chat-apart", text, **SHORT)


@pytest.mark.parametrize("patient", [True, False])
def test_unload_while_a_prompt_is_taken_in(own_server, patient):
    """The request gets its answer when the drain is long enough, else a clean refusal."""
    config = decoupled(True) + parameters(drain_timeout_ms=60_000 if patient else 100, request_timeout_ms=0)

    with own_server(
        lambda repository: repository.add("chat", config, model="chat"),
        "--model-control-mode=explicit",
        "--load-model=*",
    ) as (server, http, _):
        door = GrpcDoor(server.grpc_port)
        # The prompt may be in before the unload is: then its long answer is cut.
        length = 16 if patient else 1200
        call = begun(server, door, long_prompt(WORDS, seed=4), max_tokens=length, min_tokens=length)
        assert http.unload("chat").status == 200
        answers = list(grpc_replies.replies(call))
        if patient:
            assert grpc_replies.joined(answers)
        else:
            *pieces, last = answers
            assert last.error and not any(piece.error for piece in pieces)
        door.close()
        eventually(lambda: "successfully unloaded 'chat'" in server.log_text(), 60)
