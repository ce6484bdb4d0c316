"""One server with every kind of entry, shared by the tests; those that disturb a server start their own."""

from contextlib import contextmanager

import pytest

from harness import places, program
from harness.grpc_door import GrpcDoor
from harness.http_door import HttpDoor
from harness.repository import Repository, decoupled, parameters
from harness.server import TritonServer

#: Entry → what stands in its config.pbtxt after the backend's name. These hold the en→pt model.
ENTRIES = {
    "minimal": "",
    "whole": decoupled(False),
    "pieces": decoupled(True),
    "whole-batched": decoupled(False) + "max_batch_size: 8\n",
    "pieces-batched": decoupled(True) + "max_batch_size: 8\n",
    "two-instances": decoupled(True) + "instance_group [ { kind: KIND_CPU count: 2 } ]\n",
    # Room for requests that last: see `texts.LASTING`.
    "lasting": decoupled(True) + parameters(max_sequences=8, max_source_tokens=1024, max_target_tokens=2048),
    "lasting-whole": decoupled(False) + parameters(max_sequences=8, max_source_tokens=1024, max_target_tokens=2048),
    # One sequence at a time and two that wait.
    "narrow": decoupled(True)
    + parameters(max_sequences=1, max_queue_requests=2, max_source_tokens=1024, max_target_tokens=2048),
    "narrow-whole": decoupled(False)
    + parameters(max_sequences=1, max_queue_requests=2, max_source_tokens=1024, max_target_tokens=2048),
    "hasty": decoupled(False)
    + parameters(request_timeout_ms=50, max_sequences=1, max_source_tokens=1024, max_target_tokens=2048),
    "translating": decoupled(False)
    + parameters(prompt_template="{{ src_lang.name }} > {{ tgt_lang.chinese }}:\n{{ text }}", languages="en, pt, tlh=Klingon"),
    "hot": decoupled(False) + parameters(sampling_parameters='{"temperature": 2.0, "seed": 1, "max_tokens": 20}'),
    "short-input": decoupled(False) + parameters(max_input_bytes=1000),
    "warm": decoupled(True)
    + """
model_warmup [ {
  name: "one sentence"
  batch_size: 0
  inputs { key: "text_input" value: { data_type: TYPE_STRING dims: [ 1 ] zero_data: true } }
} ]
""",
}

#: The same for the chat model.
CHAT_ENTRIES = {
    "chat": decoupled(True),
    "chat-whole": decoupled(False),
    "chat-drafts": decoupled(True) + parameters(prompt_lookup_num_tokens=8),
    "chat-apart": decoupled(True) + parameters(prefix_reuse="false"),
}


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The shared server."""
    folder = tmp_path_factory.mktemp("shared")
    repository = Repository(folder / "repository")
    for name, config in ENTRIES.items():
        repository.add(name, config)
    for name, config in CHAT_ENTRIES.items():
        repository.add(name, config, model="chat")
    hunyuan = program.convert(places.FIXTURES / "decoder" / "hunyuan", folder / "hunyuan")
    for name, policy in {"translator": decoupled(True), "translator-whole": decoupled(False)}.items():
        repository.add_committed("hunyuan-mt", name, policy, hunyuan)
    repository.add("whole-fp32", decoupled(False), artifact=places.model("translate-en-pt", "fp32") / "1")
    repository.add_converted("translate-en-pt")
    repository.add_converted("translate-pt-en")
    repository.add_ensemble()
    repository.add_committed("hunyuan-mt")
    repository.add_committed("mt5-augment")
    with TritonServer(repository.path, folder / "server.log") as running:
        yield running


@pytest.fixture(autouse=True)
def survives(request):
    """Whatever a test did to the shared server, it is still there."""
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").assert_alive()


@pytest.fixture(scope="session")
def http(server):
    """HTTP client of the shared server."""
    door = HttpDoor(server.http_port)
    yield door
    door.close()


@pytest.fixture(scope="session")
def grpc_door(server):
    """gRPC client of the shared server."""
    door = GrpcDoor(server.grpc_port)
    yield door
    door.close()


@pytest.fixture(scope="module")
def explicit(tmp_path_factory):
    """A server that loads on demand, with one good model."""
    folder = tmp_path_factory.mktemp("explicit")
    repository = Repository(folder / "repository")
    repository.add("good")
    arguments = ("--model-control-mode=explicit", "--load-model=good")
    with TritonServer(repository.path, folder / "server.log", arguments) as server:
        door = HttpDoor(server.http_port)
        yield server, door, repository
        door.close()


@pytest.fixture
def own_server(tmp_path):
    """Starts servers of the test's own: `with own_server(fill, *arguments) as (server, http, repository)`."""

    @contextmanager
    def start(fill, *arguments):
        repository = Repository(tmp_path / "repository")
        fill(repository)
        with TritonServer(repository.path, tmp_path / "server.log", arguments) as running:
            door = HttpDoor(running.http_port)
            try:
                yield running, door, repository
            finally:
                door.close()

    return start
