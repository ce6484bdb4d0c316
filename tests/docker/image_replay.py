"""Replays docker/Dockerfile outside of a container: each stage becomes a folder, each of its scripts is run there."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, NamedTuple, Set, Tuple

from harness import places

DOCKER = places.ROOT / "docker"
DOCKERFILE = DOCKER / "Dockerfile"
#: Where Cargo has built what `make` has asked for.
TARGET = places.CLI.parents[1]
#: What a RUN may be: one script of the project's, so that nothing is done that only a container can do.
STEP = re.compile(r"docker/steps/[a-z-]+\.sh")
SETTINGS = ("USER", "EXPOSE", "HEALTHCHECK", "CMD", "ENTRYPOINT")


class Stage(NamedTuple):
    """`FROM base AS name`, and what follows it."""

    name: str
    base: str
    instructions: List[Tuple[str, str]]


def parse() -> "Tuple[Dict[str, str], Dict[str, Stage]]":
    """The arguments before the first FROM, and the stages by their names."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.M)
    arguments: Dict[str, str] = {}
    stages: Dict[str, Stage] = {}
    stage = None
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        keyword, value = line.split(None, 1)
        if keyword == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", value).groups()
            assert name not in stages, f"two stages are called {name}"
            stage = stages[name] = Stage(name, base, [])
        elif stage is None:
            assert keyword == "ARG", line
            arguments.update([value.split("=", 1)])
        else:
            stage.instructions.append((keyword, " ".join(value.split())))
    return arguments, stages


def step(run: str) -> List[str]:
    """The command of a RUN, its mounts left out."""
    words = shlex.split(run)
    while words[0].startswith("--mount="):
        words.pop(0)
    assert STEP.fullmatch(words[0]), f"RUN {run}: expected one script of docker/steps"
    assert not set(";|&<>`") & set("".join(words)), f"RUN {run}: expected no more than a script's name and arguments"
    return words


def context_sources(instruction: str) -> List[str]:
    """What a COPY takes out of the project; nothing when it takes from a stage."""
    words = instruction.split()
    return [] if any(word.startswith("--from=") for word in words) else words[:-1]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps this file of the project from the build. The last pattern that fits holds, and a
    pattern that fits a folder fits what is in it."""
    parts = path.split("/")
    folders = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    shut = False
    for line in (places.ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            depth = pattern.lstrip("!").count("/")
            if any(name.count("/") == depth and fnmatch.fnmatchcase(name, pattern.lstrip("!")) for name in folders):
                shut = not pattern.startswith("!")
    return shut


def context_files(source: str) -> List[Path]:
    """The files that a COPY of this takes out of the project."""
    path = places.ROOT / source
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return [file for file in files if not ignored(file.relative_to(places.ROOT).as_posix())]


class Replay:
    """The folders of the stages, each made when it is first asked for."""

    def __init__(self, folder: Path, environment: Dict[str, str], in_place: Tuple[str, ...], **arguments: str):
        """`in_place` are the stages whose scripts are run in the project's own folder, not in a copy of what the
        stage has of it; `arguments` are build arguments."""
        self.folder = folder
        self.environment = environment
        self.in_place = in_place
        declared, self.stages = parse()
        assert set(arguments) <= set(declared), arguments
        self.arguments = {**declared, **arguments}
        #: By stage: what SETTINGS say.
        self.settings: Dict[str, Dict[str, str]] = {}
        self.variables: Dict[str, Dict[str, str]] = {}
        self.ran: Set[str] = set()

    def root(self, name: str) -> Path:
        """The folder that stands for `/` in a stage; what its base image holds is not there."""
        root = self.folder / name
        if not root.exists():
            try:
                self._make(self.stages[name], root)
            except BaseException:
                # Half a stage must not pass for one.
                shutil.rmtree(root, ignore_errors=True)
                raise
        return root

    def command(self, name: str, keyword: str) -> List[str]:
        """CMD or ENTRYPOINT of a stage, or its HEALTHCHECK's CMD; a line of the shell becomes a call of it."""
        text = self.settings[name][keyword]
        if keyword == "HEALTHCHECK":
            text = text.partition("CMD ")[2]
        return json.loads(text) if text.startswith("[") else ["/bin/sh", "-c", text]

    def _make(self, stage: Stage, root: Path) -> None:
        name, base, instructions = stage
        if base in self.stages:
            shutil.copytree(self.root(base), root, copy_function=os.link)
        else:
            root.mkdir(parents=True)
        self.settings[name] = dict(self.settings.get(base, {}))
        self.variables[name] = dict(self.variables.get(base, {}))
        workdir = Path("textgen")
        known = dict(self.variables[name])
        for keyword, value in instructions:
            if keyword == "WORKDIR":
                workdir = Path(value.lstrip("/"))
                (root / workdir).mkdir(exist_ok=True)
            elif keyword == "ARG":
                known[value] = self.arguments[value]
            elif keyword == "ENV":
                self.variables[name].update([value.split("=", 1)])
            elif keyword == "COPY":
                self._copy(root, workdir, value)
            elif keyword == "RUN":
                words = step(re.sub(r"\$(\w+)", lambda found: known[found.group(1)], value))
                command = [str(root) + word if word.startswith("/") else word for word in words]
                where = places.ROOT if name in self.in_place else root / workdir
                subprocess.run(command, cwd=where, env=self.environment, check=True)
                self.ran.add(words[0])
            else:
                assert keyword in SETTINGS, f"{keyword} {value}: the replay does not know it"
                self.settings[name][keyword] = value

    def _copy(self, root: Path, workdir: Path, value: str) -> None:
        options = dict(word[2:].split("=", 1) for word in value.split() if word.startswith("--"))
        *sources, target = [word for word in value.split() if not word.startswith("--")]
        inside = root / (target.lstrip("/") if target.startswith("/") else workdir / target)
        for source in sources:
            if "from" in options:
                taken, copy = self.root(options["from"]) / source.lstrip("/"), os.link
                found = list(taken.rglob("*"))
                assert taken.is_dir(), f"COPY {value}: no such folder"
            else:
                taken, copy = places.ROOT / source, shutil.copy2
                found = context_files(source)
                assert found, f"COPY {value}: {source} is not there, or .dockerignore shuts it out"
            if taken.is_dir():
                inside.mkdir(parents=True, exist_ok=True)
                pairs = [(path, inside / path.relative_to(taken)) for path in found]
            else:
                pairs = [(taken, inside / taken.name if target.endswith("/") else inside)]
            for path, to in pairs:
                if path.is_dir():
                    to.mkdir(parents=True, exist_ok=True)
                else:
                    to.parent.mkdir(parents=True, exist_ok=True)
                    copy(path, to)
