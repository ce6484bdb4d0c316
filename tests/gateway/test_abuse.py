"""Requests that mean harm, or come from a broken client: headers, paths, slow ones; and what the log says of them."""

import socket
import uuid

import httpx
import pytest

from gateway.sockets import open_socket
from harness.server import eventually

SECRET = "xyzzy-plugh"
TRANSLATION = {"text": "The cat sleeps.", "tgt_lang": "pt"}


def raw(gateway, data, patience_s=30):
    """What is answered to these bytes, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=patience_s) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        return answer


@pytest.mark.parametrize("id", ["a", "A.b_c-9", "x" * 64])
def test_a_request_keeps_its_id(client, id):
    answer = client.get("/health/live", headers={"X-Request-Id": id})
    assert answer.headers["x-request-id"] == id
    answer = client.post("/translate", json={}, headers={"X-Request-Id": id})
    assert answer.json()["error"]["request_id"] == id


@pytest.mark.parametrize("id", [b"", b"x" * 65, b"a b", b"a\tb", b"caf\xc3\xa9", b"<script>", b'{"a":1}', b"a;b", b"../a"])
def test_an_odd_id_is_replaced(client, id):
    given = client.get("/health/live", headers=[(b"X-Request-Id", id)]).headers["x-request-id"]
    assert uuid.UUID(given)


def test_a_header_cannot_be_injected(demo):
    answer = raw(demo, b"GET /%0d%0aX-Evil:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: a\rX-Evil: 1\r\n\r\n")
    head = answer.split(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 4") and b"\nx-evil" not in head


@pytest.mark.parametrize(
    "method, path, status, code",
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/assets/nothing.js", 404, "not_found"),
        ("GET", "/assets/..%2f..%2fCargo.toml", 404, "not_found"),
        ("GET", "/assets/%ff", 404, "not_found"),
        ("GET", "/v1/models/%ff", 400, "invalid_argument"),
        ("GET", "/v1/models/%0a%1b[31m", 404, "not_found"),
        ("GET", "/translate", 405, "method_not_allowed"),
        ("DELETE", "/augment", 405, "method_not_allowed"),
        ("POST", "/health/live", 405, "method_not_allowed"),
        ("BREW", "/", 405, "method_not_allowed"),
    ],
)
def test_every_refusal_is_an_object(client, method, path, status, code):
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/json"
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % index for index in range(200)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    ],
    ids=["many headers", "long header", "long path", "no HTTP", "negative length", "two lengths"],
)
def test_a_head_that_is_none_is_refused(demo, request_head):
    answer = raw(demo, request_head)
    assert not answer or answer.split()[1].startswith(b"4"), answer[:200]
    assert demo.get("/health/live")[0] == 200


@pytest.mark.parametrize("body", [b"x" * 5_000_000, [b"x" * 50_000] * 100], ids=["with a length", "in chunks"])
def test_a_body_that_is_too_long(demo, body):
    """The answer arrives although the rest of the body is not read."""
    before = demo.rss_bytes()
    with httpx.Client(base_url=demo.url) as own:
        content = body if isinstance(body, bytes) else iter(body)
        answer = own.post("/translate", content=content)
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "too_large"
    assert demo.rss_bytes() - before < 64 << 20


def test_a_body_that_does_not_come(own_gateway):
    with own_gateway("--request-timeout-s", "1") as gateway:
        head = b"POST /translate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{"
        answer = raw(gateway, head)
        assert b" 504 " in answer.split(b"\r\n")[0] and b"deadline_exceeded" in answer


def test_made_up_methods_make_no_time_series(client):
    for number in range(5):
        client.request(f"BREW{number}", "/nothing")
    metrics = client.get("/metrics").text
    assert "BREW" not in metrics and 'method="other"' in metrics


def test_the_log_says_nothing_of_a_text(own_gateway):
    """Nor of a token, and whatever a client sends, a line is an object."""
    evil = f"{SECRET}\n{{\"level\":\"ERROR\"}}\r\n\x1b[31m"
    config = (
        '[augment]\nmodel = "paraphrase-en"\n[translate]\npairs = [{ src = "en", tgt = "pt", model = "translate-en-pt" }]\n'
        '[chat]\nmodels = ["chat"]\n'
    )
    with own_gateway("--log-level", "debug,h2=info,hyper=info", config=config) as gateway:
        with httpx.Client(base_url=gateway.url, timeout=60, headers={"Authorization": f"Bearer {SECRET}"}) as client:
            post = lambda path, body, **others: client.post(path, json=body, **others).status_code
            assert post("/translate", {"text": evil, "tgt_lang": "pt"}) == 200
            assert post("/augment", {"text": evil}) == 200
            assert post("/translate", {"text": "a", "tgt_lang": evil}) == 400
            assert post("/augment", {"text": "a", "task": evil}) == 400
            assert post("/augment", {"text": "a", evil: 1}) == 400
            assert post("/augment", {"text": "a", "top_k": evil}) == 400
            chat = {"model": "chat", "max_tokens": 3}
            assert post("/v1/chat/completions", {**chat, "messages": [{"role": "user", "content": evil}]}) == 200
            assert post("/v1/chat/completions", {**chat, "messages": [{"role": evil}]}) == 400
            assert post("/v1/chat/completions", {**chat, "messages": [{"role": "user", "content": [{"type": evil}]}]}) == 400
            assert post("/v1/chat/completions", {**chat, "model": evil}) == 404
            assert post("/translate", {**TRANSLATION}, headers=[(b"X-Request-Id", b"xyzzy-plugh\t{")]) == 200
            assert client.get("/nothing%0a%7b%22level%22%3a%22ERROR%22%7d").status_code == 404
        with open_socket(gateway.url) as ws:
            ws.tell(text=evil, tgt_lang=evil)
            assert ws.next_text().startswith("[ERROR]")
            ws.ask("a", evil)
            ws.all_of("a")
        eventually(lambda: sum(line["message"] == "work" for line in gateway.log_lines()) >= 6)
        assert SECRET not in gateway.log.read_text(encoding="utf-8")
        requests = [line for line in gateway.log_lines() if line["message"] == "request"]
        # Of its own errors there are those from before it was ready.
        assert all((line["level"] == "ERROR") == (line["status"] >= 500) and line["request_id"] for line in requests)
        assert any("nothing" in line["path"] for line in requests)


def test_the_page_loads_nothing_from_elsewhere(client):
    headers = client.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    again = client.get("/", headers={"If-None-Match": headers["etag"]})
    assert again.status_code == 304 and not again.content
