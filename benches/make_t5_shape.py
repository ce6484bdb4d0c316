#!/usr/bin/env python3
"""Makes a random checkpoint of the shape of mT5-base or Flan-T5-small, to measure speed with.

    python benches/make_t5_shape.py mt5-base OUT [--bf16]

mt5-base is 768 wide, with 12 + 12 layers, 12 heads of 64, feed-forward 2048 gated, 250112 words and a head of its own:
582 million weights, 2.3 GB in f32 (1.2 GB in bf16). flan-t5-small is 512 wide, with 8 + 8 layers, 6 heads of 64,
feed-forward 1024 gated and 32128 words. Needs numpy. The same bytes every time, and few of them in memory at once. Its
text means nothing: each printable ASCII character is a token, and the other tokens, of several scripts, never come out
of a text.
"""

import argparse
import json
from pathlib import Path

from checkpoint import write_safetensors

COMMON = {
    "d_kv": 64,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
}

SHAPES = {
    "mt5-base": {
        **COMMON,
        "architectures": ["MT5ForConditionalGeneration"],
        "d_ff": 2048,
        "d_model": 768,
        "model_type": "mt5",
        "num_decoder_layers": 12,
        "num_heads": 12,
        "num_layers": 12,
        "vocab_size": 250112,
    },
    "flan-t5-small": {
        **COMMON,
        "architectures": ["T5ForConditionalGeneration"],
        "d_ff": 1024,
        "d_model": 512,
        "model_type": "t5",
        "num_decoder_layers": 8,
        "num_heads": 6,
        "num_layers": 8,
        "vocab_size": 32128,
    },
}

#: Pieces of each script among a hundred of the vocabulary, and the first and the number of its characters. The authors
#: of bert4keras have counted which of mT5's 250100 pieces a large Chinese corpus uses
#: (github.com/bojone/t5_in_bert4keras, tokenizer/result.json): 81145 in Latin script and 16474 in none, which stay with
#: any, are 39 of a hundred, and 14556 Chinese ones 6. The other shares are an assumption.
SCRIPTS = [
    (39, ord("a"), 26),
    (6, 0x4E00, 20000),
    (20, ord("а"), 32),
    (10, 0x0627, 20),
    (10, 0x0915, 37),
    (10, 0x30A1, 80),
    (5, 0xAC00, 11000),
]
#: So improbable that a text is never split into such pieces.
NEVER = -1000.0

TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {
            "id": id,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for id, content in enumerate(["<pad>", "</s>", "<unk>"])
    ],
    "normalizer": None,
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
        ],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    },
    "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    "model": {
        "type": "Unigram",
        "unk_id": 2,
        "byte_fallback": False,
        "vocab": [],
    },
}


def pieces(size):
    """The vocabulary with its scores, without the last hundred words: they have no pieces in real ones either."""
    yield from [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0]]
    characters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    yield from ([character, -3.0] for character in characters)
    hundred = [script for share, *script in SCRIPTS for _ in range(share)]
    for number in range(size - 100 - 4 - len(characters)):
        first, count = hundred[number % 100]
        word, rest = "", number
        while rest or len(word) < 3:
            word += chr(first + rest % count)
            rest //= count
        yield [word, NEVER]


def tensors(config):
    """Name, shape and standard deviation of each tensor; a deviation of 0 stands for ones."""
    d, inner, ff = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    yield "shared.weight", (config["vocab_size"], d), 1.0
    yield "lm_head.weight", (config["vocab_size"], d), d**-0.5

    def attention(prefix):
        yield f"{prefix}.q.weight", (inner, d), (d * config["d_kv"]) ** -0.5
        yield f"{prefix}.k.weight", (inner, d), d**-0.5
        yield f"{prefix}.v.weight", (inner, d), d**-0.5
        yield f"{prefix}.o.weight", (d, inner), inner**-0.5

    for stack, layers in ("encoder", config["num_layers"]), ("decoder", config["num_decoder_layers"]):
        for i in range(layers):
            block = f"{stack}.block.{i}.layer"
            parts = ["SelfAttention"] + ["EncDecAttention"] * (stack == "decoder")
            for part, name in enumerate(parts):
                yield from attention(f"{block}.{part}.{name}")
                yield f"{block}.{part}.layer_norm.weight", (d,), 0.0
            if i == 0:
                shape = (config["relative_attention_num_buckets"], config["num_heads"])
                yield f"{block}.0.SelfAttention.relative_attention_bias.weight", shape, 0.5
            part = len(parts)
            yield f"{block}.{part}.DenseReluDense.wi_0.weight", (ff, d), d**-0.5
            yield f"{block}.{part}.DenseReluDense.wi_1.weight", (ff, d), d**-0.5
            yield f"{block}.{part}.DenseReluDense.wo.weight", (d, ff), ff**-0.5
            yield f"{block}.{part}.layer_norm.weight", (d,), 0.0
        yield f"{stack}.final_layer_norm.weight", (d,), 0.0


def make(shape, out, bf16=False):
    """Writes the checkpoint."""
    config = SHAPES[shape]
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    model = {**TOKENIZER["model"], "vocab": list(pieces(config["vocab_size"]))}
    tokenizer = json.dumps({**TOKENIZER, "model": model}, ensure_ascii=False)
    (out / "tokenizer.json").write_text(tokenizer + "\n", encoding="utf-8")
    write_safetensors(out / "model.safetensors", tensors(config), bf16)


def main():
    parser = argparse.ArgumentParser(description="Makes a random checkpoint of the shape of a T5 model.")
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 weights, half the size")
    options = parser.parse_args()
    make(options.shape, options.out, options.bf16)


if __name__ == "__main__":
    main()
