"""Builds model repositories out of the converted models."""

import os
import shutil
from pathlib import Path
from typing import Optional

from . import places


def parameters(**options) -> str:
    """`parameters` of a config.pbtxt; Triton knows strings only."""
    return "".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n' for key, value in options.items()
    )


def decoupled(value: bool) -> str:
    """The transaction policy of a config.pbtxt."""
    return f"model_transaction_policy {{ decoupled: {'true' if value else 'false'} }}\n"


class Repository:
    """A model repository in a folder of its own."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, config: str = "", direction: str = "en-pt", precision: str = "int8") -> Path:
        """An entry around a converted model, with `config` after the backend's name; returns its version folder.

        The artifact's files are links: a test that damages one replaces it first.
        """
        version = self._entry(name, f'backend: "textgen"\n{config}') / "1"
        for file in (places.model(direction, precision) / "1").iterdir():
            os.symlink(file, version / file.name)
        return version

    def add_converted(self, direction: str, precision: str = "int8", name: Optional[str] = None) -> None:
        """An entry exactly as the converter wrote it."""
        entry = self.path / (name or f"translate-{direction}")
        shutil.copytree(places.model(direction, precision), entry)

    def add_ensemble(self) -> None:
        """The demo's ensemble; its two members must be there too."""
        self._entry("paraphrase-en", places.ENSEMBLE_CONFIG.read_text(encoding="utf-8"))

    def _entry(self, name: str, config: str) -> Path:
        entry = self.path / name
        (entry / "1").mkdir(parents=True)
        (entry / "config.pbtxt").write_text(config, encoding="utf-8")
        return entry
