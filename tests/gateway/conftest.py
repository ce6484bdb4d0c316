"""One server and one gateway with the demo's configuration, shared by the tests; those that disturb one start their
own."""

from contextlib import contextmanager

import httpx
import pytest

from harness import metrics, places, program
from harness.gateway import DEMO, Gateway
from harness.repository import Repository, decoupled, parameters
from harness.server import TritonServer, eventually

#: A gateway whose translations of `LASTING` last: each segment is as long as its model's limits allow. No answer is kept,
#: since the same text is to last again.
LASTING_CONFIG = """
cache_entries = 0
max_translation_chars = 200000

[translate]
pairs = [{ src = "en", tgt = "pt", model = "lasting" }]
segments = "paragraph"
options = { temperature = 0, min_tokens = 1800, max_tokens = 1800 }
"""


@pytest.fixture(scope="session")
def triton(tmp_path_factory):
    """The shared server: the demo's models, one whose translations last, and one whose template asks whether to think."""
    folder = tmp_path_factory.mktemp("triton")
    repository = Repository(folder / "repository")
    for model in ("translate-en-pt", "translate-pt-en", "chat"):
        repository.add_converted(model)
    repository.add_ensemble()
    limits = parameters(max_sequences=1, max_source_tokens=1024, max_target_tokens=2048)
    repository.add("lasting", decoupled(True) + limits)
    thinker = program.convert(places.FIXTURES / "decoder" / "qwen3", folder / "thinker")
    repository.add("thinker", decoupled(True), artifact=thinker)
    with TritonServer(repository.path, folder / "server.log") as running:
        yield running


@pytest.fixture(scope="session")
def demo(triton, tmp_path_factory):
    """The shared gateway, with the demo's configuration."""
    with Gateway(triton.grpc_port, tmp_path_factory.mktemp("demo") / "gateway.log", config=DEMO) as gateway:
        gateway.until_ready()
        yield gateway


@pytest.fixture(scope="session")
def client(demo):
    """HTTP client of the shared gateway."""
    with httpx.Client(base_url=demo.url, timeout=60) as opened:
        yield opened


@pytest.fixture
def own_gateway(triton, tmp_path):
    """Starts gateways of the test's own: `with own_gateway("--max-active", "1") as gateway`."""

    @contextmanager
    def start(*arguments, config=LASTING_CONFIG, ready=True, **others):
        file = tmp_path / "gateway.toml"
        file.write_text(config, encoding="utf-8")
        with Gateway(triton.grpc_port, tmp_path / "gateway.log", *arguments, config=file, **others) as gateway:
            if ready:
                gateway.until_ready()
            yield gateway

    return start


@pytest.fixture(scope="module")
def lasting(triton, tmp_path_factory):
    """A gateway whose translations last: one at work, two that wait."""
    folder = tmp_path_factory.mktemp("lasting")
    (folder / "gateway.toml").write_text(LASTING_CONFIG, encoding="utf-8")
    limits = ("--max-active", "1", "--max-queue", "2")
    with Gateway(triton.grpc_port, folder / "gateway.log", *limits, config=folder / "gateway.toml") as gateway:
        gateway.until_ready()
        yield gateway


@pytest.fixture
def idle(triton):
    """Waits until the entry `lasting` has nothing at work."""

    def wait():
        eventually(lambda: metrics.running(triton, "lasting") == 0 and metrics.waiting(triton, "lasting") == 0)

    return wait


@pytest.fixture
def busy(triton):
    """Waits until the entry `lasting` is at work."""
    return lambda: eventually(lambda: metrics.running(triton, "lasting") > 0)


@pytest.fixture
def refused():
    """Checks an answer that must be an error as the contract has it; returns the error."""

    def check(answer, status, code, param=None):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param), answer.text
        assert error["request_id"] == answer.headers["x-request-id"]
        assert set(error) == {"code", "type", "param", "message", "request_id"}
        return error

    return check
