"""The gRPC door, by the service's own messages: unary infer and streams."""

import struct
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Union

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

Text = Union[str, bytes]


class StreamReply(NamedTuple):
    """One response of a stream: outputs by name, or the message of an error."""

    outputs: Dict[str, List[Any]]
    final: bool
    error: str


def _encode(value: Any, name: str) -> "tuple[str, bytes, int]":
    values = value if isinstance(value, list) else [value]
    first = values[0] if values else ""
    if isinstance(first, (str, bytes)):
        items = [item.encode() if isinstance(item, str) else item for item in values]
        return "BYTES", b"".join(struct.pack("<I", len(item)) + item for item in items), len(values)
    kind, form = {bool: ("BOOL", "?"), int: ("INT32", "i"), float: ("FP32", "f")}[type(first)]
    if name in ("random_seed", "seed"):
        kind, form = "UINT64", "Q"
    return kind, struct.pack(f"<{len(values)}{form}", *values), len(values)


_FORMS = {"INT32": "i", "FP32": "f", "BOOL": "?", "UINT64": "Q", "INT64": "q", "UINT32": "I"}


def _decode(datatype: str, raw: bytes) -> List[Any]:
    if datatype != "BYTES":
        return [value for (value,) in struct.iter_unpack("<" + _FORMS[datatype], raw)]
    items, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        items.append(raw[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return items


def outputs(response: pb.ModelInferResponse) -> Dict[str, List[Any]]:
    """The output tensors by name."""
    return {
        output.name: _decode(output.datatype, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents)
    }


class GrpcDoor:
    """A client of one server; safe to share among threads."""

    def __init__(self, port: int):
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{port}",
            options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)],
        )
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def close(self) -> None:
        """Closes the channel: an open one keeps a server from ending."""
        self.channel.close()

    def request(
        self,
        model: str,
        text: "Union[Text, Sequence[Text], None]" = None,
        parameters: Optional[Dict[str, Any]] = None,
        batch: bool = False,
        request_id: str = "",
        **options: Any,
    ) -> pb.ModelInferRequest:
        """A request, without `text_input` when there is no text; `batch` puts a dimension of 1 before each shape."""
        request = pb.ModelInferRequest(model_name=model, id=request_id)
        texts = [] if text is None else [("text_input", text)]
        for name, value in texts + list(options.items()):
            datatype, raw, count = _encode(list(value) if isinstance(value, (list, tuple)) else value, name)
            shape = [1, count] if batch else [count]
            request.inputs.append(pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape))
            request.raw_input_contents.append(raw)
        for name, value in (parameters or {}).items():
            field = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
            setattr(request.parameters[name], field, value)
        return request

    def infer(self, model: str, text: "Union[Text, Sequence[Text], None]" = None, **options: Any) -> Dict[str, List[Any]]:
        """Unary infer; raises grpc.RpcError."""
        return outputs(self.stub.ModelInfer(self.request(model, text, **options), timeout=120))

    def open_stream(self, *requests: pb.ModelInferRequest, timeout_s: float = 120):
        """The call of a stream that has sent these requests and no more; it can be cancelled."""
        return self.stub.ModelStreamInfer(iter(requests), timeout=timeout_s)

    def stream(
        self, model: str, text: "Union[Text, Sequence[Text], None]" = None, stream: bool = True, **options: Any
    ) -> List[StreamReply]:
        """Every response of one streamed request."""
        return list(replies(self.open_stream(self.request(model, text, stream=stream, **options))))


def replies(call) -> Iterator[StreamReply]:
    """The responses of a stream as they come."""
    for response in call:
        final = response.infer_response.parameters["triton_final_response"].bool_param
        yield StreamReply(outputs(response.infer_response), final, response.error_message)


def joined(answers: "Iterable[StreamReply]") -> str:
    """The text of a stream of one sequence that must have come to its end."""
    pieces, ended = [], False
    for reply in answers:
        assert not reply.error, reply
        pieces += reply.outputs.get("text_output", [])
        ended = reply.final
    assert ended, "the stream broke off"
    return "".join(pieces)


def error_code(call) -> "tuple[grpc.StatusCode, str]":
    """Code and message of a call that must fail."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call succeeded")
