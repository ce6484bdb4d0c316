"""Triton is not there yet, goes away, comes back; models are unloaded and loaded anew."""

import json
from contextlib import contextmanager

import httpx
import pytest

from gateway.sockets import open_socket
from harness.gateway import Gateway
from harness.http_door import HttpDoor
from harness.repository import Repository, decoupled, parameters
from harness.server import TritonServer, eventually
from harness.texts import LONG

TRANSLATION = {"text": "The cat sleeps on the sofa.", "tgt_lang": "pt"}
PORTUGUESE = "O gato dorme no sofá."
CONFIG = """
[translate]
pairs = [{ src = "en", tgt = "pt", model = "good" }, { src = "en", tgt = "es", model = "lasting" }]
options = { temperature = 0 }
segments = "paragraph"

[chat]
models = ["absent", "good"]
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A repository, and a server for it that is not started yet."""
    folder = tmp_path_factory.mktemp("away")
    repository = Repository(folder / "repository")
    repository.add("good", decoupled(True))
    lasting = {"max_sequences": 1, "max_source_tokens": 1024, "max_target_tokens": 2048}
    options = json.dumps({"min_tokens": 1800, "max_tokens": 1800})
    repository.add("lasting", decoupled(True) + parameters(sampling_parameters=options, **lasting))
    arguments = ("--model-control-mode=explicit", "--load-model=good", "--load-model=lasting", "--exit-timeout-secs=5")
    return TritonServer(repository.path, folder / "server.log", arguments)


@pytest.fixture
def gateway(stage, tmp_path):
    (tmp_path / "gateway.toml").write_text(CONFIG, encoding="utf-8")
    with Gateway(stage.grpc_port, tmp_path / "gateway.log", config=tmp_path / "gateway.toml") as running:
        yield running


def translation(gateway, **change):
    return gateway.post("/translate", {**TRANSLATION, **change})


@contextmanager
def started(stage):
    with stage:
        door = HttpDoor(stage.http_port)
        try:
            yield door
        finally:
            door.close()


def serves(gateway):
    return eventually(lambda: translation(gateway)[0] == 200, 30)


def test_without_triton_and_when_it_comes_and_goes(stage, gateway):
    status, body = translation(gateway)
    assert (status, body["error"]["code"]) == (503, "unavailable") and "Triton" in body["error"]["message"]
    models = {"good": False, "lasting": False, "absent": False}
    assert gateway.get("/health/ready") == (503, {"ready": False, "triton": False, "models": models})
    assert gateway.get("/health/live")[0] == 200
    assert gateway.get("/services")[1]["translate"]["ready"] is False
    with open_socket(gateway.url) as ws:
        ws.ask("a", TRANSLATION["text"])
        assert ws.next()["error"]["code"] == "unavailable"

    with started(stage):
        assert serves(gateway)
        assert translation(gateway)[1]["translated_text"] == PORTUGUESE
        # A configured model that is not in the server is told, and the others serve.
        models = {"good": True, "lasting": True, "absent": False}
        assert gateway.get("/health/ready") == (503, {"ready": False, "triton": True, "models": models})
        chat = {"model": "absent", "messages": [{"role": "user", "content": "a"}]}
        status, body = gateway.post("/v1/chat/completions", chat)
        assert (status, body["error"]["code"]) == (503, "unavailable") and "absent" in body["error"]["message"]

        with open_socket(gateway.url) as ws, httpx.Client(timeout=30) as client:
            ws.ask("a", LONG * 4, tgt_lang="es")
            ws.until("delta")
            request = client.build_request(
                "POST", gateway.url + "/translate", json={"text": LONG * 4, "tgt_lang": "es", "stream": True}
            )
            answer = client.send(request, stream=True)
            stage.process.kill()
            stage.process.wait()
            assert ws.until("error", "done")["error"]["code"] == "unavailable"
            events = [json.loads(line[len("data: ") :]) for line in answer.iter_lines() if line.startswith("data: ")]
            assert (events[-1]["type"], events[-1]["error"]["code"]) == ("error", "unavailable")
            eventually(lambda: gateway.get("/health/ready")[1]["triton"] is False)
            assert translation(gateway)[0] == 503
        stage.process.returncode = 0

    with started(stage):
        assert serves(gateway), "it comes back without a restart of the gateway"


def test_models_that_are_unloaded_and_loaded(stage, gateway):
    with started(stage) as triton:
        assert serves(gateway)
        triton.unload("good")
        eventually(lambda: gateway.get("/health/ready")[1]["models"]["good"] is False)
        status, body = translation(gateway)
        assert (status, body["error"]["code"]) == (503, "unavailable") and "good" in body["error"]["message"]
        assert gateway.get("/services")[1]["translate"]["ready"] is False
        # Between two looks of the gateway, Triton refuses.
        triton.load("good")
        eventually(lambda: translation(gateway)[0] == 200)
        triton.unload("good")
        status, body = translation(gateway, text="Something else.")
        assert (status, body["error"]["code"]) == (503, "unavailable"), body


def test_what_triton_refuses_holds_no_model(stage, gateway):
    """Its request is gone with the answer: else the model could not be unloaded, nor the server end."""
    state = lambda triton: {row["name"]: row.get("reason") for row in triton.post("/v2/repository/index").json}["good"]
    with started(stage) as triton:
        assert serves(gateway)
        for _ in range(5):
            status, body = gateway.post("/v1/completions", {"model": "good", "prompt": "word " * 2000})
            assert (status, body["error"]["code"]) == (400, "invalid_argument")
        triton.unload("good")
        eventually(lambda: state(triton) == "unloaded")


def test_what_was_kept_for_an_earlier_load_is_not_given(stage, gateway):
    hits = lambda: gateway.metric("textgen_gateway_cache_lookups_total", result="hit")
    misses = lambda: gateway.metric("textgen_gateway_cache_lookups_total", result="miss")
    with started(stage) as triton:
        assert serves(gateway)
        assert translation(gateway)[0] == 200
        known, asked = hits(), misses()
        assert translation(gateway)[0] == 200 and (hits(), misses()) == (known + 1, asked)
        triton.unload("good")
        eventually(lambda: gateway.get("/health/ready")[1]["models"]["good"] is False)
        triton.load("good")
        eventually(lambda: translation(gateway)[0] == 200)
        assert (hits(), misses()) == (known + 1, asked + 1)
