"""Writes the tensors of random checkpoints, a piece in memory at a time, and the same bytes every time. Needs numpy."""

import json
import struct
from pathlib import Path
from typing import Iterable, Tuple

import numpy as np

#: Name, shape and standard deviation; a deviation of 0 stands for ones.
Tensor = Tuple[str, Tuple[int, ...], float]
#: Numbers drawn at once.
PIECE = 1 << 22


def write_safetensors(path: Path, tensors: "Iterable[Tensor]", bf16: bool = False, seed: int = 0) -> None:
    """Writes one safetensors file, in f32 or bf16."""
    tensors = list(tensors)
    size = 2 if bf16 else 4
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        end = offset + size * int(np.prod(shape))
        header[name] = {"dtype": "BF16" if bf16 else "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.Generator(np.random.PCG64(seed))
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape, deviation in tensors:
            count = int(np.prod(shape))
            for start in range(0, count, PIECE):
                values(rng, min(PIECE, count - start), deviation, bf16).tofile(file)


def values(rng, count, deviation, bf16):
    if deviation == 0.0:
        array = np.ones(count, np.float32)
    else:
        array = rng.standard_normal(count, np.float32)
        array *= np.float32(deviation)
    if bf16:
        # The upper half of an f32, cut off.
        return (array.view(np.uint32) >> 16).astype("<u2")
    return array.astype("<f4", copy=False)
