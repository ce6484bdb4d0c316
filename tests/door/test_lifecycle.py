"""Load, unload, reload and the end of the server, while requests are in flight."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

from harness.grpc_door import GrpcDoor, replies
from harness.repository import decoupled, parameters
from harness.server import eventually
from harness.texts import ENGLISH, LASTING, LONG

TEXT = "O gato dorme no sofá."
ROOM = decoupled(True) + parameters(max_source_tokens=1024, max_target_tokens=2048)
EXPLICIT = ("--model-control-mode=explicit", "--load-model=*")


def test_unload_lets_a_stream_end(own_server):
    with own_server(lambda repository: repository.add("m", ROOM), *EXPLICIT) as (_, http, _repository):
        with http.open_stream("m", LONG, stream=True, return_finish_reason=True, **LASTING) as events:
            next(events)
            assert http.unload("m").status == 200
            rest = list(events)
        assert rest[-1]["finish_reason"] in ("length", "stop")
        eventually(lambda: not http.ready("m"))
        assert http.generate("m", ENGLISH).status in (400, 404, 503)
        assert http.load("m").status == 200
        assert http.text("m", ENGLISH) == TEXT


def test_unload_fails_what_outlasts_the_drain(own_server):
    config = ROOM + parameters(drain_timeout_ms=200, intra_op_threads=1)
    with own_server(lambda repository: repository.add("m", config), *EXPLICIT) as (server, http, _):
        lasting = {**LASTING, "num_return_sequences": 8, "temperature": 1.0}
        with http.open_stream("m", LONG, stream=True, **lasting) as events:
            next(events)
            assert http.unload("m").status == 200
            rest = list(events)
        assert "error" in rest[-1]
        eventually(lambda: "successfully unloaded 'm'" in server.log_text(), 20)


def test_reload_under_load(own_server):
    """Every answer is either right or a clean refusal."""

    def fill(repository):
        repository.add("m", decoupled(False))
        repository.add("other", decoupled(False))

    with own_server(fill, *EXPLICIT) as (server, http, _):
        stop = threading.Event()
        refused, served = [], []

        def ask():
            while not stop.is_set():
                reply = http.generate("m", ENGLISH)
                if reply.status == 200 and "error" not in reply.json:
                    assert reply.json["text_output"] == TEXT
                    served.append(1)
                else:
                    refused.append(reply)
                assert http.text("other", ENGLISH) == TEXT

        with ThreadPoolExecutor(4) as pool:
            askers = [pool.submit(ask) for _ in range(4)]
            try:
                for _ in range(5):
                    assert http.unload("m").status == 200
                    assert http.load("m").status == 200
                    eventually(lambda: http.ready("m"), 60)
                    count = len(served)
                    eventually(lambda count=count: len(served) > count, 60)
            finally:
                stop.set()
            for asker in askers:
                asker.result(60)
        assert all(reply.status in (400, 404, 503) for reply in refused), refused[:3]
        server.assert_alive()
        assert http.text("m", ENGLISH) == TEXT


def test_reload_reads_the_configuration_again(own_server):
    with own_server(lambda repository: repository.add("m", decoupled(False)), *EXPLICIT) as (_, http, repository):
        assert http.text("m", ENGLISH) == TEXT
        with open(repository.path / "m" / "config.pbtxt", "a", encoding="utf-8") as config:
            config.write(parameters(max_input_bytes=5))
        assert http.load("m").status == 200
        eventually(lambda: http.generate("m", ENGLISH).status == 400, 30)


def test_sigterm_lets_streams_end(own_server):
    with own_server(lambda repository: repository.add("m", ROOM)) as (server, http, _):
        with http.open_stream("m", LONG, stream=True, return_finish_reason=True, **LASTING) as events:
            next(events)
            server.process.send_signal(signal.SIGTERM)
            rest = list(events)
        http.close()
        assert rest[-1]["finish_reason"] in ("length", "stop")
        assert server.process.wait(30) == 0


def test_sigterm_while_grpc_streams_run(own_server):
    with own_server(lambda repository: repository.add("m", ROOM)) as (server, _, _repository):
        door = GrpcDoor(server.grpc_port)
        call = door.open_stream(door.request("m", LONG, stream=True, **LASTING))
        next(call)
        server.process.send_signal(signal.SIGTERM)
        assert list(replies(call))[-1].final
        door.close()
        assert server.process.wait(40) == 0


def test_two_instances_serve_together(http):
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: http.text("two-instances", ENGLISH), range(64))) == {TEXT}


def test_an_entry_without_a_configuration(own_server):
    """The folder's suffix names the backend then."""

    def fill(repository):
        repository.add("m.textgen")
        (repository.path / "m.textgen" / "config.pbtxt").unlink()

    with own_server(fill) as (_, http, _repository):
        assert http.text("m.textgen", ENGLISH) == TEXT
