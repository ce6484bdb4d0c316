"""SIGTERM: what runs completes, nothing new is taken, and then it ends."""

import json
import signal

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from gateway.sockets import joined, open_socket
from harness.server import eventually
from harness.texts import LONG

LASTING = LONG * 2


def stream(client, url):
    body = {"text": LASTING, "tgt_lang": "pt", "stream": True}
    answer = client.send(client.build_request("POST", url + "/translate", json=body), stream=True)
    return (json.loads(line[len("data: ") :]) for line in answer.iter_lines() if line.startswith("data: "))


def test_what_runs_completes_and_nothing_new_is_taken(own_gateway):
    with own_gateway() as gateway, httpx.Client(timeout=60) as client, open_socket(gateway.url) as ws:
        with open_socket(gateway.url) as idle:
            events = stream(client, gateway.url)
            assert next(events)["type"] == "started"
            ws.ask("a", LASTING)
            ws.until("started")
            gateway.process.send_signal(signal.SIGTERM)
            # Who has nothing at work is told at once.
            assert idle.next()["type"] == "closing"
            with pytest.raises(ConnectionClosed) as error:
                idle.next()
            assert error.value.rcvd.code == 1001
        status, body = gateway.get("/health/ready")
        assert status == 503 and body["ready"] is False
        status, body = gateway.post("/translate", {"text": "The cat sleeps.", "tgt_lang": "pt"})
        assert (status, body["error"]["code"]) == (503, "overloaded")
        ws.ask("b", "The cat sleeps.")
        assert ws.until("error", "done")["error"]["code"] == "overloaded"
        assert list(events)[-1]["type"] == "done"
        assert ws.until("done", "error")["type"] == "done"
        assert ws.next()["type"] == "closing"
        with pytest.raises(ConnectionClosed) as error:
            ws.next()
        assert error.value.rcvd.code == 1001
        assert gateway.process.wait(20) == 0


def test_what_does_not_complete_in_time_is_ended(own_gateway, idle):
    with own_gateway("--drain-s", "1") as gateway, open_socket(gateway.url) as ws:
        ws.ask("a", LASTING * 10)
        ws.until("delta")
        gateway.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            while True:
                ws.next()
        assert gateway.process.wait(20) == 0
    idle()


def test_an_idle_gateway_ends_at_once_by_ctrl_c_too(own_gateway):
    with own_gateway() as gateway:
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.process.wait(20) == 0
