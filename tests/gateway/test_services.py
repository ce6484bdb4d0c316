"""`/services`, `/health` and `/metrics`."""

import re

import httpx
import pytest

from gateway.sockets import open_socket
from harness.server import eventually


def test_services(client):
    answer = client.get("/services").json()
    assert re.fullmatch(r"\d+\.\d+\.\d+", answer.pop("version"))
    augment, translate = answer.pop("augment"), answer.pop("translate")
    assert answer == {"auth": False, "models": ["chat"]}
    tasks = augment.pop("tasks")
    assert tasks[0] == {"name": "rewrite", "labels": False, "answer": False, "languages": False}
    assert {task["model"] for task in tasks[1:]} == {"chat"}, "the languages are not theirs"
    assert augment == {
        "model": "paraphrase-en",
        "ready": True,
        "defaults": {"num_return_sequences": 3, "temperature": 0.85, "top_p": 0.95, "top_k": 50, "max_length": 128},
        "limits": {"max_text_chars": 5000, "max_batch_texts": 256, "max_variants": 20},
        "languages": [{"code": "en", "name": "English", "chinese": "英语", "native": "English", "scripts": ["Latin"]}],
    }
    assert translate["ready"] is True and translate["limits"] == {"max_text_chars": 20000}
    assert translate["pairs"] == [{"src": "en", "tgt": "pt"}, {"src": "pt", "tgt": "en"}]
    assert [language["code"] for language in translate["languages"]] == ["en", "pt"]
    assert translate["languages"][0] == {"code": "en", "name": "English", "chinese": "英语", "native": "English"}


def test_what_is_not_configured_is_not_there(own_gateway, refused):
    config = '[translate]\npairs = [{ src = "en", tgt = "pt", model = "translate-en-pt" }]'
    with own_gateway(config=config) as gateway, httpx.Client(base_url=gateway.url) as client:
        services = client.get("/services").json()
        assert services["augment"] is None and services["models"] == []
        refused(client.post("/augment", json={"text": "a"}), 404, "not_found")
        assert client.get("/v1/models").json()["data"] == []
    with own_gateway(config="", ready=False) as gateway, httpx.Client(base_url=gateway.url) as client:
        assert client.get("/services").json()["translate"] is None
        refused(client.post("/translate", json={"text": "a", "tgt_lang": "pt"}), 404, "not_found")


def test_health(client):
    assert client.get("/health/live").status_code == 200
    ready = client.get("/health/ready").json()
    assert ready["ready"] and ready["triton"]
    assert ready["models"] == dict.fromkeys(["chat", "paraphrase-en", "translate-en-pt", "translate-pt-en"], True)


@pytest.mark.parametrize(
    "service, model, path, body",
    [
        ("augment", "paraphrase-en", "/augment", {"text": "The cat sleeps."}),
        ("augment", "chat", "/augment", {"text": "The cat sleeps.", "task": "title"}),
        ("translate", "translate-en-pt", "/translate", {"text": "The cat sleeps.", "tgt_lang": "pt", "seed": 1, "temperature": 1}),
        ("openai", "chat", "/v1/completions", {"model": "chat", "prompt": "a", "max_tokens": 3}),
    ],
)
def test_work_is_counted_and_logged(demo, client, service, model, path, body):
    counted = lambda: demo.metric(
        "textgen_gateway_work_total", service=service, model=model, outcome="completed"
    )
    requests = lambda: demo.metric("textgen_gateway_http_requests_total", route=path, method="POST", status="200")
    before = counted(), requests()
    id = f"{service}-{model}-counted"
    assert client.post(path, json=body, headers={"X-Request-Id": id}).status_code == 200
    eventually(lambda: (counted(), requests()) == (before[0] + 1, before[1] + 1))
    (work,) = [line for line in demo.log_lines() if line["message"] == "work" and line["request_id"] == id]
    assert (work["service"], work["model"], work["outcome"]) == (service, model, "completed")
    assert work["elapsed_ms"] > 0
    if model != "paraphrase-en":
        assert work["output_tokens"] > 0, "an ensemble alone does not say"


def test_metrics(client, demo):
    client.post("/augment", json={"text": " "})
    client.post("/translate", json={"text": "The dog runs.", "tgt_lang": "pt"})
    with open_socket(demo.url):
        assert demo.metric("textgen_gateway_websockets") == 1
        text = client.get("/metrics").text
    for name in (
        "http_requests_total", "http_request_duration_seconds_bucket", "work_total", "time_to_first_piece_seconds_bucket",
        "output_tokens_total", "active", "queued", "websockets", "cache_lookups_total",
    ):  # fmt: skip
        assert re.search(rf"^textgen_gateway_{name}(\{{| )", text, re.M), name
    assert demo.metric("textgen_gateway_http_requests_total", route="/augment", method="POST", status="400") > 0
