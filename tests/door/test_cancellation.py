"""A client that gives up frees what it held: while it waits, while it decodes, and when it dies."""

import socket
import threading

import grpc
import pytest

from harness.metrics import running, waiting, outcomes
from harness.server import eventually
from harness.texts import ENGLISH, LASTING, LONG

TEXT = "O gato dorme no sofá."


@pytest.fixture
def idle(server):
    """Returns the number of cancelled requests of an entry, once nothing runs or waits in it."""

    def check(model):
        eventually(lambda: running(server, model) == 0 and waiting(server, model) == 0)
        return outcomes(server, model)["cancelled"]

    return check


def hold(door, model):
    """A stream that occupies the entry; its first piece has arrived."""
    call = door.open_stream(door.request(model, LONG, stream=True, **LASTING))
    next(call)
    return call


def test_while_it_decodes_over_grpc(grpc_door, idle, server):
    before = idle("lasting")
    call = hold(grpc_door, "lasting")
    assert running(server, "lasting") > 0 or eventually(lambda: running(server, "lasting") > 0)
    call.cancel()
    assert idle("lasting") == before + 1


def test_while_it_waits_over_grpc(grpc_door, idle, server, http):
    before = idle("narrow")
    first = hold(grpc_door, "narrow")
    waits = grpc_door.open_stream(grpc_door.request("narrow", ENGLISH, stream=True))
    eventually(lambda: waiting(server, "narrow") == 1)
    waits.cancel()
    eventually(lambda: waiting(server, "narrow") == 0)
    assert running(server, "narrow") == 1, "the running request is not the one that was cancelled"
    first.cancel()
    assert idle("narrow") == before + 2
    assert http.text("narrow", ENGLISH) == TEXT


def test_unary_grpc(grpc_door, idle, server):
    before = idle("lasting-whole")
    call = grpc_door.stub.ModelInfer.future(grpc_door.request("lasting-whole", LONG, **LASTING))
    eventually(lambda: running(server, "lasting-whole") > 0)
    call.cancel()
    assert idle("lasting-whole") == before + 1


def test_deadline_of_the_grpc_client(grpc_door, idle):
    before = idle("lasting-whole")
    with pytest.raises(grpc.RpcError) as error:
        grpc_door.stub.ModelInfer(grpc_door.request("lasting-whole", LONG, **LASTING), timeout=0.1)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert idle("lasting-whole") == before + 1


def test_http_client_that_leaves_midway(http, idle):
    before = idle("lasting")
    with http.open_stream("lasting", LONG, stream=True, **LASTING) as events:
        next(events)
    assert idle("lasting") == before + 1


def test_http_client_that_is_killed(server, idle):
    """The connection is reset, as when the client's process dies."""
    before = idle("lasting")
    options = ", ".join(f'"{key}": {value}' for key, value in LASTING.items())
    body = f'{{"text_input": "{LONG}", "stream": true, {options}}}'.encode()
    head = f"POST /v2/models/lasting/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    client = socket.create_connection(("127.0.0.1", server.http_port))
    client.sendall(head.encode() + body)
    received = b""
    while b"text_output" not in received:
        piece = client.recv(4096)
        assert piece, received
        received += piece
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.close()
    assert idle("lasting") == before + 1


def test_many_cancelled_at_once_leave_the_rest_alone(grpc_door, http, idle):
    before = idle("lasting")
    calls = [hold(grpc_door, "lasting") for _ in range(4)]
    results = []
    reader = threading.Thread(target=lambda: results.append(http.text("lasting", ENGLISH)))
    reader.start()
    for call in calls:
        call.cancel()
    reader.join(60)
    assert results == [TEXT]
    assert idle("lasting") == before + 4
