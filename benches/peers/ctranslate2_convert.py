"""Writes a checkpoint of the T5 family as a CTranslate2 model: `python ctranslate2_convert.py SOURCE OUT PRECISION`.

The result is that of CTranslate2's own converter for Transformers, byte by byte but for the flag that scales
the output, which Transformers 5 sets for every mT5. It is done here because that converter needs PyTorch: some
gigabytes, for nothing but reading a file.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ctranslate2.specs import common_spec, transformer_spec


class Checkpoint:
    """The tensors of `model.safetensors`, in f32."""

    def __init__(self, folder: Path):
        self.path = folder / "model.safetensors"
        with open(self.path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self.header = json.loads(file.read(size))
        self.start = 8 + size

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.header[name]
        if entry["dtype"] != "F32":
            raise SystemExit(f"error: {self.path}: {name} is {entry['dtype']}, expected F32; make it without --bf16")
        begin, end = entry["data_offsets"]
        values = np.fromfile(self.path, "<f4", (end - begin) // 4, offset=self.start + begin)
        return values.reshape(entry["shape"])


def convert(source: Path, out: Path, precision: str) -> None:
    """Writes the checkpoint in `source` to the folder `out`."""
    config = json.loads((source / "config.json").read_text())
    tensors = Checkpoint(source)
    spec = transformer_spec.TransformerSpec.from_config(
        (config["num_layers"], config["num_decoder_layers"]),
        config["num_heads"],
        pre_norm=True,
        activation=common_spec.Activation.GELUTanh,
        ffn_glu=True,
        relative_attention_bias=True,
        rms_norm=True,
    )
    fill_stack(spec.encoder, spec.encoder.embeddings[0], tensors, "encoder", config)
    fill_stack(spec.decoder, spec.decoder.embeddings, tensors, "decoder", config)
    spec.decoder.projection.weight = tensors["lm_head.weight"]

    tokens = vocabulary(source, config["vocab_size"])
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token = tokens[config["pad_token_id"]]
    spec.config.eos_token = tokens[config["eos_token_id"]]
    spec.config.decoder_start_token = tokens[config["decoder_start_token_id"]]
    spec.validate()
    spec.optimize(quantization=precision)
    out.mkdir(parents=True)
    spec.save(str(out))


def vocabulary(source: Path, size: int) -> "list[str]":
    """Every id needs a name; the last ones have none in the tokenizer."""
    pieces = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    tokens = [piece for piece, _ in pieces]
    return tokens + [f"<extra_id_{number}>" for number in range(size - len(tokens))]


def fill_stack(spec, embeddings, tensors, stack, config):
    embeddings.weight = tensors["shared.weight"]
    spec.scale_embeddings = False
    spec.layer_norm.gamma = tensors[f"{stack}.final_layer_norm.weight"]
    # mT5 has one bias, in the first layer, for all of them.
    bias = tensors[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    distance = np.int32(config["relative_attention_max_distance"])
    for index, layer in enumerate(spec.layer):
        block = f"{stack}.block.{index}.layer"
        fill_attention(layer.self_attention, tensors, f"{block}.0", "SelfAttention", ["qkv"])
        layer.self_attention.relative_attention_bias = bias
        layer.self_attention.relative_attention_max_distance = distance
        part = 1
        if stack == "decoder":
            fill_attention(layer.attention, tensors, f"{block}.1", "EncDecAttention", ["q", "kv"])
            part = 2
        dense = f"{block}.{part}.DenseReluDense"
        layer.ffn.layer_norm.gamma = tensors[f"{block}.{part}.layer_norm.weight"]
        layer.ffn.linear_0.weight = tensors[f"{dense}.wi_0.weight"]
        layer.ffn.linear_0_noact.weight = tensors[f"{dense}.wi_1.weight"]
        layer.ffn.linear_1.weight = tensors[f"{dense}.wo.weight"]


def fill_attention(spec, tensors, layer, name, fused):
    """`fused` says which of queries, keys and values are one matrix."""
    spec.queries_scale = 1.0
    spec.layer_norm.gamma = tensors[f"{layer}.layer_norm.weight"]
    for linear, letters in zip(spec.linear, fused):
        linear.weight = np.concatenate([tensors[f"{layer}.{name}.{letter}.weight"] for letter in letters])
    spec.linear[-1].weight = tensors[f"{layer}.{name}.o.weight"]


convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
