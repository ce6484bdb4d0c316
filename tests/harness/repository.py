"""Builds model repositories out of the converted models."""

import json
import os
import shutil
from pathlib import Path
from typing import Optional

from . import places


def parameters(**options) -> str:
    """`parameters` of a config.pbtxt; Triton knows strings only, and escapes as JSON has them."""
    return "".join(
        f'parameters {{ key: "{key}" value: {{ string_value: {json.dumps(str(value), ensure_ascii=False)} }} }}\n'
        for key, value in options.items()
    )


def decoupled(value: bool) -> str:
    """The transaction policy of a config.pbtxt."""
    return f"model_transaction_policy {{ decoupled: {'true' if value else 'false'} }}\n"


class Repository:
    """A model repository in a folder of its own."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def add(
        self, name: str, config: str = "", model: str = "translate-en-pt", artifact: Optional[Path] = None
    ) -> Path:
        """An entry around `artifact`, by default that of a converted model, with `config` after the backend's name;
        returns its version folder.

        The artifact's files are links: a test that damages one replaces it first.
        """
        return self._linked(name, f'backend: "textgen"\n{config}', artifact or places.model(model) / "1")

    def add_committed(
        self, committed: str, name: Optional[str] = None, config: str = "", artifact: Optional[Path] = None
    ) -> Path:
        """An entry of the project's own `model_repository`, with `config` after it, around `artifact`, by default the
        en→pt model's."""
        artifact = artifact or places.model("translate-en-pt") / "1"
        return self._linked(name or committed, places.committed_config(committed) + config, artifact)

    def add_converted(self, model: str) -> None:
        """An entry exactly as the converter wrote it."""
        shutil.copytree(places.model(model), self.path / model)

    def add_ensemble(self) -> None:
        """The demo's ensemble; its two members must be there too."""
        self._entry("paraphrase-en", places.committed_config("paraphrase-en"))

    def add_demo(self) -> None:
        """What `make demo` serves."""
        for name in ("translate-en-pt", "translate-pt-en", "chat"):
            self.add_converted(name)
        self.add_ensemble()

    def _linked(self, name: str, config: str, artifact: Path) -> Path:
        version = self._entry(name, config) / "1"
        for file in artifact.iterdir():
            os.symlink(file, version / file.name)
        return version

    def _entry(self, name: str, config: str) -> Path:
        entry = self.path / name
        (entry / "1").mkdir(parents=True)
        (entry / "config.pbtxt").write_text(config, encoding="utf-8")
        return entry
