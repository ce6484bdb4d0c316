"""The HTTP door: infer, generate, generate_stream, and the repository's control."""

import json
import struct
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Union

import urllib3

Body = Union[bytes, Dict[str, Any]]

#: Options by their datatype, for the tensors of infer.
DATATYPES = {bool: "BOOL", int: "INT32", float: "FP32", str: "BYTES"}
UINT64_OPTIONS = ("random_seed", "seed")


class Reply(NamedTuple):
    """Status and decoded JSON of an answer."""

    status: int
    json: Any

    @property
    def error(self) -> str:
        """The message of an error answer."""
        return self.json["error"]


def tensor(name: str, value: Any, shape: Optional[List[int]] = None) -> Dict[str, Any]:
    """One input of an infer request, in JSON."""
    values = value if isinstance(value, list) else [value]
    datatype = DATATYPES[type(values[0])] if values else "BYTES"
    if name in UINT64_OPTIONS:
        datatype = "UINT64"
    return {"name": name, "datatype": datatype, "shape": shape or [len(values)], "data": values}


def generate_body(text: Any, options: Dict[str, Any]) -> Dict[str, Any]:
    """The body of a generate request, without `text_input` when there is no text."""
    return options if text is None else {"text_input": text, **options}


class HttpDoor:
    """A client of one server; safe to share among threads."""

    def __init__(self, port: int, connections: int = 256, read_s: float = 120):
        self.pool = urllib3.HTTPConnectionPool(
            "127.0.0.1", port, maxsize=connections, retries=False, timeout=urllib3.Timeout(connect=10, read=read_s)
        )

    def close(self) -> None:
        """Closes idle connections: open ones keep a server from ending until its exit timeout."""
        self.pool.close()

    def post(self, path: str, body: Body = b"", headers: Optional[Dict[str, str]] = None) -> Reply:
        """Any request; a body that is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.pool.request("POST", path, body=data, headers=headers)
        # generate_stream wraps an early error as an event, for all that its status is 400.
        data = answer.data.removeprefix(b"data: ")
        return Reply(answer.status, json.loads(data) if data else None)

    def ready(self, model: str) -> bool:
        """True when the model is loaded."""
        return self.pool.request("GET", f"/v2/models/{model}/ready").status == 200

    def config(self, model: str) -> Dict[str, Any]:
        """The configuration that the server completed."""
        return json.loads(self.pool.request("GET", f"/v2/models/{model}/config").data)

    def load(self, model: str) -> Reply:
        """Explicit load."""
        return self.post(f"/v2/repository/models/{model}/load")

    def unload(self, model: str) -> Reply:
        """Explicit unload."""
        return self.post(f"/v2/repository/models/{model}/unload")

    def infer(self, model: str, inputs: List[Dict[str, Any]], **fields: Any) -> Reply:
        """POST infer, tensors in JSON."""
        return self.post(f"/v2/models/{model}/infer", {"inputs": inputs, **fields})

    def infer_text(self, model: str, text: Union[str, List[str], None] = None, **options: Any) -> Dict[str, List[Any]]:
        """Infer of texts with options as inputs; the outputs by name."""
        inputs = [tensor(name, value) for name, value in generate_body(text, options).items()]
        reply = self.infer(model, inputs)
        assert reply.status == 200, reply
        return {output["name"]: output["data"] for output in reply.json["outputs"]}

    def infer_binary(self, model: str, texts: List[bytes], shape: Optional[List[int]] = None) -> Reply:
        """Infer with the text as raw bytes, which JSON cannot carry when they are not UTF-8."""
        raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
        return self.infer_raw(model, raw, shape or [len(texts)])

    def infer_raw(self, model: str, raw: bytes, shape: List[int]) -> Reply:
        """Infer with the bytes of the tensor as they are, well-formed or not."""
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "text_input",
                        "datatype": "BYTES",
                        "shape": shape,
                        "parameters": {"binary_data_size": len(raw)},
                    }
                ],
                "parameters": {"binary_data_output": False},
            }
        ).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        return self.post(f"/v2/models/{model}/infer", head + raw, headers)

    def generate(self, model: str, text: Any = None, **options: Any) -> Reply:
        """POST generate."""
        return self.post(f"/v2/models/{model}/generate", generate_body(text, options))

    def text(self, model: str, text: Optional[str] = None, **options: Any) -> str:
        """The text of a generate that must succeed."""
        reply = self.generate(model, text, **options)
        assert reply.status == 200 and "error" not in reply.json, reply
        return reply.json["text_output"]

    def stream(self, model: str, text: Any = None, stream: bool = True, **options: Any) -> List[Dict[str, Any]]:
        """Every event of a generate_stream that must answer 200."""
        with self.open_stream(model, text, stream=stream, **options) as events:
            return list(events)

    @contextmanager
    def open_stream(self, model: str, text: Any = None, **options: Any) -> "Iterator[Iterator[Dict[str, Any]]]":
        """The events of a generate_stream as they come; leaving early drops the connection."""
        answer = self.pool.request(
            "POST",
            f"/v2/models/{model}/generate_stream",
            body=json.dumps(generate_body(text, options)).encode(),
            preload_content=False,
        )
        try:
            assert answer.status == 200, answer.read()
            yield server_sent_events(answer)
        finally:
            answer.close()


def joined(events: List[Dict[str, Any]]) -> str:
    """The text of a stream of one sequence."""
    return "".join(event["text_output"] for event in events)


def server_sent_events(answer: urllib3.BaseHTTPResponse) -> Iterator[Dict[str, Any]]:
    """Decodes `data: {json}\\n\\n` as it arrives; refuses anything else."""
    pending = b""
    for piece in answer.stream(65536, decode_content=False):
        pending += piece
        *events, pending = pending.split(b"\n\n")
        for event in events:
            assert event.startswith(b"data: "), event
            yield json.loads(event[len(b"data: ") :])
    assert not pending, f"the stream ended inside an event: {pending!r}"
