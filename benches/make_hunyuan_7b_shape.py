#!/usr/bin/env python3
"""Makes a random checkpoint of the shape of HunYuan-7B, to measure speed and memory with.

    python benches/make_hunyuan_7b_shape.py OUT

4096 wide, 32 layers, 32 heads of 128 with 8 for keys and values, feed-forward 14336, 128256 words, the head tied:
7.5 billion weights, 15 GB in bf16, in shards. Needs numpy. The same bytes every time, and few of them in memory at
once. Its text means nothing. Configuration and tokenizer are those of the family's test fixture, made as large.
"""

import argparse
import json
import shutil
from pathlib import Path

from checkpoint import write_safetensors

FIXTURE = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "decoder" / "hunyuan"

HIDDEN = 4096
FEED_FORWARD = 14336
LAYERS = 32
HEADS, KEY_HEADS, HEAD_DIM = 32, 8, 128
ROWS = 128256
#: Rows of the embedding that stand for a token.
TOKENS = 128167
LAYERS_PER_SHARD = 8

CONFIG = {
    "hidden_size": HIDDEN,
    "intermediate_size": FEED_FORWARD,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "head_dim": HEAD_DIM,
    "attention_head_dim": HEAD_DIM,
    "vocab_size": ROWS,
    "org_vocab_size": ROWS,
    "max_position_embeddings": 32768,
}


def layer(index):
    """Name, shape and standard deviation of each tensor of a layer; a deviation of 0 stands for ones."""
    prefix = f"model.layers.{index}"
    queries, keys = HEADS * HEAD_DIM, KEY_HEADS * HEAD_DIM
    yield f"{prefix}.input_layernorm.weight", (HIDDEN,), 0.0
    yield f"{prefix}.self_attn.q_proj.weight", (queries, HIDDEN), HIDDEN**-0.5
    yield f"{prefix}.self_attn.k_proj.weight", (keys, HIDDEN), HIDDEN**-0.5
    yield f"{prefix}.self_attn.v_proj.weight", (keys, HIDDEN), HIDDEN**-0.5
    yield f"{prefix}.self_attn.o_proj.weight", (HIDDEN, queries), queries**-0.5
    yield f"{prefix}.self_attn.query_layernorm.weight", (HEAD_DIM,), 0.0
    yield f"{prefix}.self_attn.key_layernorm.weight", (HEAD_DIM,), 0.0
    yield f"{prefix}.post_attention_layernorm.weight", (HIDDEN,), 0.0
    yield f"{prefix}.mlp.gate_proj.weight", (FEED_FORWARD, HIDDEN), HIDDEN**-0.5
    yield f"{prefix}.mlp.up_proj.weight", (FEED_FORWARD, HIDDEN), HIDDEN**-0.5
    yield f"{prefix}.mlp.down_proj.weight", (HIDDEN, FEED_FORWARD), FEED_FORWARD**-0.5


def shards():
    """The tensors of each file."""
    yield [("model.embed_tokens.weight", (ROWS, HIDDEN), HIDDEN**-0.5), ("model.norm.weight", (HIDDEN,), 0.0)]
    for first in range(0, LAYERS, LAYERS_PER_SHARD):
        yield [tensor for index in range(first, first + LAYERS_PER_SHARD) for tensor in layer(index)]


def tokenizer():
    """The fixture's, with pieces that no text is made of for all other ids."""
    parsed = json.loads((FIXTURE / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = parsed["model"]["vocab"]
    taken = {*vocabulary.values(), *(token["id"] for token in parsed["added_tokens"])}
    vocabulary.update({f"~{id}": id for id in range(TOKENS) if id not in taken})
    return parsed


def make(out):
    out.mkdir(parents=True, exist_ok=True)
    config = {**json.loads((FIXTURE / "config.json").read_text()), **CONFIG}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False) + "\n", encoding="utf-8")
    for name in ("tokenizer_config.json", "generation_config.json"):
        shutil.copy(FIXTURE / name, out / name)
    count = len(list(shards()))
    places = {}
    for index, tensors in enumerate(shards()):
        name = f"model-{index + 1:05}-of-{count:05}.safetensors"
        write_safetensors(out / name, tensors, bf16=True, seed=index)
        places.update({tensor: name for tensor, _, _ in tensors})
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}) + "\n")


def main():
    parser = argparse.ArgumentParser(description="Makes a random checkpoint of the shape of HunYuan-7B.")
    parser.add_argument("out", type=Path, help="folder to write")
    make(parser.parse_args().out)


if __name__ == "__main__":
    main()
