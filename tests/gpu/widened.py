"""Tiny checkpoints with wider heads: those of the tests have odd sizes, which attention on CUDA does not take."""

import json
import shutil
import struct
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

import numpy

NORMS = ("q_norm", "k_norm", "query_layernorm", "key_layernorm")


class Tensor(NamedTuple):
    """A tensor as safetensors have it."""

    dtype: str
    shape: List[int]
    raw: bytes

    @classmethod
    def of(cls, values: numpy.ndarray) -> "Tensor":
        """In f32."""
        return cls("F32", list(values.shape), values.astype(numpy.float32).tobytes())


def widened(folder: Path, head_dim: int, out: Path) -> Path:
    """A copy whose heads have `head_dim` elements, their weights drawn anew; what the model says means nothing, and
    both devices must say it."""
    shutil.copytree(folder, out, dirs_exist_ok=True)
    file = out / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    is_t5 = "d_kv" in config
    heads = config["num_heads" if is_t5 else "num_attention_heads"]
    key_heads = config.get("num_key_value_heads", heads)
    config["d_kv" if is_t5 else "head_dim"] = head_dim
    file.write_text(json.dumps(config), encoding="utf-8")
    generator = numpy.random.Generator(numpy.random.PCG64(1))
    for weights in sorted(out.glob("*.safetensors")):
        tensors = dict(sorted(read_safetensors(weights)))
        for name, tensor in tensors.items():
            shape = list(tensor.shape)
            if any(part in name for part in NORMS):
                tensors[name] = Tensor.of(generator.uniform(0.1, 0.5, head_dim))
                continue
            if "q_proj" in name or ".q.weight" in name or (is_t5 and (".k.weight" in name or ".v.weight" in name)):
                shape[0] = heads * head_dim
            elif "k_proj" in name or "v_proj" in name:
                shape[0] = key_heads * head_dim
            elif "o_proj.weight" in name or ".o.weight" in name:
                shape[1] = heads * head_dim
            else:
                continue
            tensors[name] = Tensor.of(generator.uniform(-0.15, 0.15, shape))
        write_safetensors(weights, tensors)
    return out


def read_safetensors(file: Path) -> "Iterator[Tuple[str, Tensor]]":
    """The tensors of a file."""
    raw = file.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    for name, tensor in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__":
            first, last = (8 + length + offset for offset in tensor["data_offsets"])
            yield name, Tensor(tensor["dtype"], tensor["shape"], raw[first:last])


def write_safetensors(file: Path, tensors: "Dict[str, Tensor]") -> None:
    """Writes them."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        offsets = [len(data), len(data) + len(tensor.raw)]
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        data += tensor.raw
    head = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + data)
