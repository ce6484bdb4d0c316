#!/usr/bin/env python3
"""What a decode step should take on a GPU, from bytes, multiplications and launches: the tables of docs/gpu.md.

Nothing here was measured. A step takes the longest of three times: reading the weights and caches at a share of the
memory's bandwidth, multiplying at a share of the peak, and launching the kernels one after the other.
"""

from dataclasses import dataclass

#: Share of the bandwidth and of the peak that good kernels reach.
READ_SHARE, PEAK_SHARE = 0.8, 0.6
#: Seconds from one kernel to the next: from ONNX Runtime's thread, and replayed from a CUDA graph.
LAUNCH_S, REPLAY_S = 5e-6, 1.5e-6
#: Bytes of a weight with its scales (one f16 for 32 weights of 4 or 8 bits), and of a cached number.
WEIGHT_BYTES = {"fp16": 2.0, "int8": 1.0 + 2 / 32, "int4": 0.5 + 2 / 32}
CACHE_BYTES = 2


@dataclass(frozen=True)
class Device:
    """Public figures of a device: bytes a second, and multiplications and additions a second in f16, dense."""

    name: str
    bandwidth: float
    peak: float


@dataclass(frozen=True)
class Model:
    """A decoder: weights that a step reads (its head among them), and what it caches."""

    name: str
    weights: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    #: Kernels of a layer, and of what stands before and after the layers.
    kernels: int
    other_kernels: int
    #: Whether it reads a source too.
    has_source: bool

    def cache_bytes(self, context: int, source: int) -> float:
        """What a row reads of its caches."""
        positions = context + (source if self.has_source else 0)
        return 2 * CACHE_BYTES * self.layers * self.kv_heads * self.head_dim * positions

    def operations(self, context: int, source: int) -> float:
        """Multiplications and additions of a row."""
        positions = context + (source if self.has_source else 0)
        return 2 * self.weights + 4 * self.layers * self.heads * self.head_dim * positions


DEVICES = [Device("L4", 300e9, 121e12), Device("H100 SXM", 3350e9, 989e12)]
MODELS = [
    # Nodes of the graphs that compute something, casts included; ONNX Runtime may join some of them.
    Model("mT5-base", 12 * 8.26e6 + 192.1e6, 12, 12, 12, 64, 21, 21, True),
    Model("SmolLM2-135M", 134.5e6, 30, 9, 3, 64, 14, 14, False),
    Model("HunYuan-7B", 32 * 218.1e6 + 525e6, 32, 32, 8, 128, 19, 14, False),
]
CONTEXT, SOURCE = 512, 256


def step(model: Model, device: Device, precision: str, rows: int, launch_s: float):
    """Seconds of a step, and which of the three bounds it."""
    read = model.weights * WEIGHT_BYTES[precision] + rows * model.cache_bytes(CONTEXT, SOURCE)
    launches = model.layers * model.kernels + model.other_kernels
    times = {
        "reading": read / (READ_SHARE * device.bandwidth),
        "multiplying": rows * model.operations(CONTEXT, SOURCE) / (PEAK_SHARE * device.peak),
        "launching": launches * launch_s,
    }
    bound = max(times, key=times.get)
    return times[bound], bound


def main():
    for device in DEVICES:
        print(f"\n{device.name}: ms a step (tokens a second), bound by\n")
        print("| model | rows | " + " | ".join(f"{p}, {way}" for p in WEIGHT_BYTES for way in ("launched", "graph")) + " |")
        print("| --- | --- |" + " --- |" * 2 * len(WEIGHT_BYTES))
        for model in MODELS:
            for rows in (1, 8, 32, 128):
                cells = []
                for precision in WEIGHT_BYTES:
                    for launch_s in (LAUNCH_S, REPLAY_S):
                        seconds, bound = step(model, device, precision, rows, launch_s)
                        cells.append(f"{seconds * 1e3:.2f} ({rows / seconds:,.0f}), {bound}")
                print(f"| {model.name} | {rows} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
