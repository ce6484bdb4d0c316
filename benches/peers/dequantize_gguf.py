"""Writes a GGUF file of a Llama as a checkpoint in f32: `python dequantize_gguf.py FILE OUT`."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

file, out = Path(sys.argv[1]), Path(sys.argv[2])
read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
# A model that was read from a GGUF file refuses to be saved; another with its weights does not.
config = read.config
if hasattr(config, "quantization_config"):
    del config.quantization_config
model = type(read)(config).float()
model.load_state_dict(read.state_dict())
model.tie_weights()
model.save_pretrained(out)
AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(out)
