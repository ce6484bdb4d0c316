"""`/ws/translate`: the text mode and the JSON mode."""

import asyncio
import json
import socket as network
import struct
from contextlib import contextmanager

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed

from gateway.sockets import joined, open_socket
from harness import metrics
from harness.server import eventually
from harness.texts import LONG

#: What keeps the entry `lasting` at work.
LASTING = LONG * 20
#: Segments of a translation that are asked for at once; `lasting` works on one.
AHEAD = 4
ENGLISH = "The cat sleeps on the sofa."
PORTUGUESE = "O gato dorme no sofá."


HANDSHAKE = (
    b"GET /ws/translate HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@contextmanager
def raw_socket(gateway, text):
    """A connection below the protocol that has asked for a translation."""
    with network.socket() as raw:
        raw.setsockopt(network.SOL_SOCKET, network.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", gateway.port))
        raw.sendall(HANDSHAKE)
        assert b" 101 " in raw.recv(1024)
        message = json.dumps({"type": "translate", "id": "a", "text": text, "tgt_lang": "pt"}).encode()
        # A masked text frame; the mask is zero.
        raw.sendall(b"\x81\xff" + struct.pack(">Q", len(message)) + bytes(4) + message)
        yield raw


@pytest.fixture
def ws(demo):
    with open_socket(demo.url) as opened:
        yield opened


@pytest.fixture
def slow(lasting, idle):
    """A connection whose translations last, one at a time."""
    idle()
    with open_socket(lasting.url) as opened:
        yield opened
    idle()


def closing_code(socket):
    """The code that the gateway closes with, and the messages before."""
    messages = []
    with pytest.raises(ConnectionClosed) as error:
        while True:
            messages.append(socket.next())
    assert error.value.rcvd is not None, "the connection broke off"
    return error.value.rcvd.code, messages


# The text mode.


def test_text_mode(ws):
    ws.tell(text=ENGLISH, tgt_lang="pt")
    assert ws.text_answer() == PORTUGUESE


def test_text_mode_takes_one_after_the_other(ws):
    texts = ["The cat sleeps.", "Where is the station?", "The house is old.\nThe end."]
    for text in texts:
        ws.tell(text=text, src_lang="en", tgt_lang="pt")
    answers = [ws.text_answer() for _ in texts]
    for text, answer in zip(texts, answers):
        ws.tell(text=text, src_lang="en", tgt_lang="pt")
        assert ws.text_answer() == answer
    assert len(set(answers)) == 3


def test_text_mode_tells_errors_and_goes_on(ws):
    for message in ("no json", "[]", json.dumps({"text": ENGLISH}), json.dumps({"text": " ", "tgt_lang": "pt"})):
        ws.connection.send(message)
        assert ws.next_text().startswith("[ERROR] ")
    ws.tell(text=ENGLISH, tgt_lang="Klingon")
    assert ws.next_text().startswith("[ERROR] tgt_lang: ")
    ws.tell(text=ENGLISH, tgt_lang="pt")
    assert ws.text_answer() == PORTUGUESE


def test_text_mode_stops(slow, busy, idle):
    slow.tell(text=LASTING, tgt_lang="pt")
    slow.next_text()
    busy()
    slow.connection.send("[STOP]")
    while True:
        frame = slow.next_text()
        if frame == "[STOPPED]":
            break
        assert not frame.startswith("["), frame
    idle()
    slow.tell(type="ping")
    assert slow.next() == {"type": "pong"}, "nothing else is told"


def test_text_mode_tells_the_place_in_the_queue(lasting, slow):
    slow.ask("first", LASTING)
    assert slow.until("delta")
    with open_socket(lasting.url) as second, open_socket(lasting.url) as third:
        second.tell(text=LASTING, tgt_lang="pt")
        assert second.next_text() == "[QUEUED] 1"
        third.tell(text=LASTING, tgt_lang="pt")
        assert third.next_text() == "[QUEUED] 2"
        slow.tell(type="stop", id="first")
        slow.until("stopped")
        assert third.next_text() == "[QUEUED] 1"
        assert not second.next_text().startswith("["), "its turn has come"


def test_both_modes_on_one_connection(ws):
    ws.ask("a", ENGLISH)
    assert joined(ws.all_of("a")["a"]) == PORTUGUESE
    ws.tell(text=ENGLISH, tgt_lang="pt")
    assert ws.text_answer() == PORTUGUESE


# The JSON mode.


def test_json_mode(ws):
    ws.ask("a", ENGLISH)
    started, *deltas, done = ws.all_of("a")["a"]
    assert started == {"type": "started", "id": "a", "model": "translate-en-pt", "src_lang": "en", "tgt_lang": "pt"}
    assert [sorted(delta) for delta in deltas] == [["id", "text", "type"]] * len(deltas)
    assert "".join(delta["text"] for delta in deltas) == PORTUGUESE
    assert done["finish_reason"] == "stop" and done["usage"]["segments"] == 1


def test_several_at_once(ws):
    texts = {f"id-{index} ü": f"The number of house {index} is {index * 7}." for index in range(12)}
    for id, text in texts.items():
        ws.ask(id, text)
    answers = {id: joined(messages) for id, messages in ws.all_of(*texts).items()}
    for id, text in texts.items():
        ws.ask("again", text)
        assert joined(ws.all_of("again")["again"]) == answers[id]


def test_stop_ends_the_work_in_the_server(slow, busy, idle, triton):
    before = metrics.outcomes(triton, "lasting")["cancelled"]
    slow.ask("a", LASTING)
    slow.until("delta")
    busy()
    slow.tell(type="stop", id="a")
    stopped = slow.until("stopped")
    assert stopped["id"] == "a" and stopped["usage"]["output_tokens"] < 1800
    idle()
    eventually(lambda: metrics.outcomes(triton, "lasting")["cancelled"] > before)


def test_the_queue(lasting, slow):
    for id in "abc":
        slow.ask(id, LASTING)
    places = {}
    while set(places) < set("bc"):
        message = slow.next()
        if message["type"] == "queued":
            places[message["id"]] = message["position"]
    assert places == {"b": 1, "c": 2}
    slow.ask("d", LASTING)
    refused = slow.until("error")
    assert (refused["id"], refused["error"]["code"]) == ("d", "overloaded")
    assert lasting.metric("textgen_gateway_active") == 1 and lasting.metric("textgen_gateway_queued") == 2
    slow.tell(type="stop", id="b")
    assert slow.until("queued") == {"type": "queued", "id": "c", "position": 1}
    slow.tell(type="stop", id="a")
    assert slow.until("started")["id"] == "c"


@pytest.mark.parametrize(
    "message, id, param",
    [
        ({"type": "sing"}, None, "type"),
        ({"type": 3}, None, "type"),
        ({"type": "translate"}, None, "id"),
        ({"type": "translate", "id": 3}, None, "id"),
        ({"type": "translate", "id": ""}, None, "id"),
        ({"type": "translate", "id": "x" * 65, "text": "a", "tgt_lang": "pt"}, "x" * 65, "id"),
        ({"type": "translate", "id": "a", "tgt_lang": "pt"}, "a", "text"),
        ({"type": "translate", "id": "a", "text": "a", "tgt_lang": "pt", "extra": 1}, "a", "extra"),
        ({"type": "translate", "id": "a", "text": "a", "tgt_lang": "pt", "stream": True}, "a", "stream"),
        ({"type": "translate", "id": "a", "text": "", "tgt_lang": "pt"}, "a", "text"),
        ({"type": "translate", "id": "a", "text": ["a"], "tgt_lang": "pt"}, "a", "text"),
        ({"type": "stop", "id": "nobody"}, "nobody", "id"),
        ({"type": "stop"}, None, "id"),
        ({"type": "stop", "id": "a", "extra": 1}, "a", "extra"),
        ({"type": "ping", "extra": 1}, None, "extra"),
    ],
)
def test_what_is_wrong_is_told_at_once(ws, message, id, param):
    ws.tell(**message)
    answer = ws.next()
    assert (answer["type"], answer["id"]) == ("error", id), answer
    assert (answer["error"]["code"], answer["error"]["param"]) == ("invalid_argument", param), answer
    ws.tell(type="ping")
    assert ws.next() == {"type": "pong"}


def test_an_unknown_language_is_told_the_known(ws):
    ws.ask("a", ENGLISH, tgt_lang="Klingon")
    error = ws.next()["error"]
    assert error["param"] == "tgt_lang" and "Klingon" in error["message"]
    ws.ask("a", ENGLISH, tgt_lang="fr")
    assert "en → pt" in ws.next()["error"]["message"]


def test_a_text_beyond_its_limit(ws):
    ws.ask("a", "x" * 20_001)
    error = ws.next()["error"]
    assert error["code"] == "too_large" and "20001" in error["message"] and "20000" in error["message"]


def test_an_id_in_use(slow):
    slow.ask("a", LASTING)
    slow.until("delta")
    slow.ask("a", LASTING)
    answer = slow.until("error")
    assert (answer["id"], answer["error"]["param"]) == ("a", "id")
    slow.tell(type="stop", id="a")
    assert slow.until("stopped")["id"] == "a", "the first one was left alone"


def test_an_id_can_be_used_again(ws):
    for _ in range(3):
        ws.ask("a", ENGLISH)
        assert joined(ws.all_of("a")["a"]) == PORTUGUESE


def test_no_more_than_so_many_at_once(own_gateway, idle):
    with own_gateway("--max-active", "1") as gateway, open_socket(gateway.url) as ws:
        for index in range(17):
            ws.ask(str(index), LASTING)
        answer = ws.until("error")
        assert (answer["id"], answer["error"]["code"]) == ("16", "overloaded")
    idle()


# Frames and closing.


def test_a_binary_frame(ws):
    ws.connection.send(b"\x00")
    code, messages = closing_code(ws)
    assert code == 1003 and messages[-1]["type"] == "closing"


def test_a_message_that_is_too_long(ws):
    ws.connection.send("x" * (1_048_576 + 1))
    assert closing_code(ws)[0] == 1009


def test_a_message_that_is_too_long_in_fragments(ws):
    with pytest.raises(ConnectionClosed) as error:
        ws.connection.send("x" * 100_000 for _ in range(20))
        while True:
            ws.next()
    assert error.value.rcvd is not None and error.value.rcvd.code == 1009


def test_the_gateway_answers_pings_and_closing(ws):
    assert ws.connection.ping().wait(10)
    ws.connection.close()
    assert ws.connection.protocol.close_code == 1000


def test_the_gateway_pings(own_gateway):
    with own_gateway("--socket-ping-s", "1") as gateway:
        with open_socket(gateway.url, ping_interval=None) as ws:
            pings = []
            received = ws.connection.protocol.receive_data
            ws.connection.protocol.receive_data = lambda data: (pings.append(data), received(data))
            eventually(lambda: b"\x89\x00" in b"".join(pings))
            ws.tell(type="ping")
            assert ws.next() == {"type": "pong"}
        # Who does not answer has gone.
        with network.create_connection(("127.0.0.1", gateway.port)) as silent:
            silent.sendall(HANDSHAKE)
            eventually(lambda: gateway.metric("textgen_gateway_websockets") == 1)
            eventually(lambda: gateway.metric("textgen_gateway_websockets") == 0)


def test_an_idle_connection_is_closed(own_gateway):
    with own_gateway("--socket-idle-s", "1") as gateway, open_socket(gateway.url) as ws:
        code, messages = closing_code(ws)
        assert code == 1000 and [message["type"] for message in messages] == ["closing"]


def test_a_connection_at_work_is_not_idle(own_gateway, idle):
    with own_gateway("--socket-idle-s", "1") as gateway, open_socket(gateway.url) as ws:
        ws.ask("a", LONG * 4)
        assert ws.all_of("a")["a"][-1]["finish_reason"] == "length"
    idle()


def test_no_more_sockets_than_so_many(own_gateway):
    with own_gateway("--max-sockets", "1") as gateway:
        with open_socket(gateway.url):
            status, body = gateway.get(
                "/ws/translate",
                Connection="Upgrade",
                Upgrade="websocket",
                **{"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
            )
            assert (status, body["error"]["code"]) == (503, "overloaded")
        eventually(lambda: gateway.metric("textgen_gateway_websockets") == 0)
        with open_socket(gateway.url):
            pass


def test_no_handshake_no_socket(client, refused):
    refused(client.get("/ws/translate"), 400, "invalid_argument")


# Many clients, and bad ones.


def test_two_hundred_connections(demo):
    async def one(index):
        text = f"The number of house {index} is {index * 3}. It is old."
        async with connect_async(demo.url.replace("http", "ws") + "/ws/translate", proxy=None) as ws:
            await ws.send(json.dumps({"type": "translate", "id": "a", "text": text, "tgt_lang": "pt"}))
            messages = []
            while not messages or messages[-1]["type"] not in ("done", "error"):
                messages.append(json.loads(await ws.recv()))
            return joined(messages)

    async def all_of_them():
        return await asyncio.gather(*map(one, range(200)))

    answers = asyncio.run(all_of_them())
    assert all(str(index * 3) in answer for index, answer in enumerate(answers))
    eventually(lambda: demo.metric("textgen_gateway_websockets") == 0)
    assert demo.metric("textgen_gateway_active") == demo.metric("textgen_gateway_queued") == 0


def test_a_client_that_does_not_read(own_gateway):
    """Its connection fills; the others are served, and the gateway holds no more than it may."""
    config = '[translate]\npairs = [{ src = "en", tgt = "pt", model = "translate-en-pt" }]\noptions = { temperature = 0 }'
    # A million characters of what is kept after the first sentence, so that no one waits for the model.
    with own_gateway("--max-translation-chars", "1000000", config=config) as gateway, open_socket(gateway.url) as ws:
        before = gateway.rss_bytes()
        active = lambda: gateway.metric("textgen_gateway_active")
        with raw_socket(gateway, "The cat sleeps on the sofa. " * 35_000) as lazy:
            lazy.settimeout(30)
            assert b"started" in lazy.recv(1024)
            for index in range(30):
                ws.ask(str(index), f"House {index} is old.")
                joined(ws.all_of(str(index))[str(index)])
            assert active() == 1, "it was all sent, so that nothing was tried here"
            assert gateway.rss_bytes() - before < 100 << 20
        eventually(lambda: active() == 0)


def test_a_client_that_is_killed_ends_its_work(own_gateway, triton, idle, busy):
    """While its text comes, and before its first piece too."""
    idle()
    waiting = lambda: metrics.waiting(triton, "lasting")
    with own_gateway() as gateway, raw_socket(gateway, LASTING) as first:
        seen = b""
        while b"delta" not in seen:
            seen += first.recv(4096)
        eventually(lambda: waiting() == AHEAD - 1)
        with raw_socket(gateway, LASTING) as second:
            eventually(lambda: waiting() == 2 * AHEAD - 1)
            second.setsockopt(network.SOL_SOCKET, network.SO_LINGER, struct.pack("ii", 1, 0))
        # Reset, as when the process dies.
        eventually(lambda: waiting() == AHEAD - 1)
        busy()
        first.setsockopt(network.SOL_SOCKET, network.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        idle()
        eventually(lambda: gateway.metric("textgen_gateway_active") == 0)
