#!/usr/bin/env python3
"""Makes a random checkpoint of the shape of mT5-base, to measure speed with.

    python benches/make_mt5_base_shape.py OUT [--bf16]

768 wide, 12 + 12 layers, 12 heads of 64, feed-forward 2048 gated, 250112 words, a head of its own: 582 million
weights, 2.3 GB in f32 (1.2 GB in bf16). Needs numpy. The same bytes every time, and few of them in memory at
once. Its text means nothing. Its tokenizer has as many pieces of each script as mT5's, so that it can be trimmed to a
size that is real; they are no words, so give token ids.
"""

import argparse
import itertools
import json
from pathlib import Path

from checkpoint import write_safetensors

CONFIG = {
    "architectures": ["MT5ForConditionalGeneration"],
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 768,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "mt5",
    "num_decoder_layers": 12,
    "num_heads": 12,
    "num_layers": 12,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "vocab_size": 250112,
}

# Pieces of mT5's 250100 by script. Those of Han, of Latin and of no script are as many as a large Chinese corpus uses,
# counted by the authors of bert4keras (github.com/bojone/t5_in_bert4keras, tokenizer/result.json), thus at least so many;
# the rest counts as of other scripts.
SPECIAL = ["<pad>", "</s>", "<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]
HAN, LATIN, COMMON = 14556, 81145, 16474
SENTINELS = [f"▁<extra_id_{n}>" for n in reversed(range(100))]
OTHERS = 250100 - len(SPECIAL) - HAN - LATIN - COMMON - len(SENTINELS)


def words(alphabet, count):
    """The first so many of all texts in an alphabet, the shortest first."""
    lengths = (itertools.product(alphabet, repeat=length) for length in itertools.count(1))
    return ["".join(word) for word in itertools.islice(itertools.chain.from_iterable(lengths), count)]


def letters(first, last):
    return [chr(c) for c in range(ord(first), ord(last) + 1)]


def vocabulary():
    text = words(["▁"] + letters("!", "@"), COMMON)
    text += words(letters("a", "z") + letters("A", "Z"), LATIN) + words(letters("一", "龥"), HAN)
    text += words(letters("а", "я"), OTHERS)
    # A piece of more characters is less probable, as in a real one.
    scored = [[piece, -3.0 - 2.0 * len(piece)] for piece in text]
    return [[piece, 0.0] for piece in SPECIAL] + scored + [[piece, 0.0] for piece in SENTINELS]


def tokenizer():
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": content, **flags} for id, content in enumerate(SPECIAL[:3])],
        "normalizer": None,
        "pre_tokenizer": spaces,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence, end],
            "pair": [sequence, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spaces]},
        "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": True, "vocab": vocabulary()},
    }


def tensors():
    """Name, shape and standard deviation of each tensor; a deviation of 0 stands for ones."""
    d, inner, ff = CONFIG["d_model"], CONFIG["num_heads"] * CONFIG["d_kv"], CONFIG["d_ff"]
    yield "shared.weight", (CONFIG["vocab_size"], d), 1.0
    yield "lm_head.weight", (CONFIG["vocab_size"], d), d**-0.5

    def attention(prefix):
        yield f"{prefix}.q.weight", (inner, d), (d * CONFIG["d_kv"]) ** -0.5
        yield f"{prefix}.k.weight", (inner, d), d**-0.5
        yield f"{prefix}.v.weight", (inner, d), d**-0.5
        yield f"{prefix}.o.weight", (d, inner), inner**-0.5

    for stack, layers in ("encoder", CONFIG["num_layers"]), ("decoder", CONFIG["num_decoder_layers"]):
        for i in range(layers):
            block = f"{stack}.block.{i}.layer"
            parts = ["SelfAttention"] + ["EncDecAttention"] * (stack == "decoder")
            for part, name in enumerate(parts):
                yield from attention(f"{block}.{part}.{name}")
                yield f"{block}.{part}.layer_norm.weight", (d,), 0.0
            if i == 0:
                shape = (CONFIG["relative_attention_num_buckets"], CONFIG["num_heads"])
                yield f"{block}.0.SelfAttention.relative_attention_bias.weight", shape, 0.5
            part = len(parts)
            yield f"{block}.{part}.DenseReluDense.wi_0.weight", (ff, d), d**-0.5
            yield f"{block}.{part}.DenseReluDense.wi_1.weight", (ff, d), d**-0.5
            yield f"{block}.{part}.DenseReluDense.wo.weight", (d, ff), ff**-0.5
            yield f"{block}.{part}.layer_norm.weight", (d,), 0.0
        yield f"{stack}.final_layer_norm.weight", (d,), 0.0


def make(out, bf16=False):
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (out / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False) + "\n", encoding="utf-8")
    write_safetensors(out / "model.safetensors", tensors(), bf16)


def main():
    parser = argparse.ArgumentParser(description="Makes a random checkpoint of the shape of mT5-base.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 weights, half the size")
    options = parser.parse_args()
    make(options.out, options.bf16)


if __name__ == "__main__":
    main()
