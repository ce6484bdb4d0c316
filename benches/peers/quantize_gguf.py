"""Writes a GGUF file with its matrices in Q8_0, by llama.cpp: `python quantize_gguf.py FILE OUT`."""

import sys

import llama_cpp

options = llama_cpp.llama_model_quantize_default_params()
options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
# What it quantizes is quantized already, in 4 bits.
options.allow_requantize = True
code = llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), options)
sys.exit(f"llama_model_quantize says {code}" if code else 0)
