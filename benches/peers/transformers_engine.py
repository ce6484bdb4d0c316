"""Transformers on PyTorch, in fp32."""

import json
from pathlib import Path

import torch
import transformers
import turn


def load(settings):
    torch.set_num_threads(settings["threads"])
    config = json.loads((Path(settings["model"]) / "config.json").read_text())
    kind = transformers.AutoModelForCausalLM
    if config.get("is_encoder_decoder"):
        kind = transformers.AutoModelForSeq2SeqLM
    model = kind.from_pretrained(settings["model"], dtype=torch.float32).eval()

    def generate(inputs, tokens):
        ids = torch.tensor(inputs)
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=1,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
            )
        # What it gives begins with the prompt, or with the decoder's start.
        begun = 1 if config.get("is_encoder_decoder") else ids.shape[1]
        assert found.shape == (len(inputs), begun + tokens), found.shape

    return generate


turn.run(load)
