"""The command-line program."""

import json
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Optional

from . import places


def run(
    command: str,
    *arguments: object,
    lines: "List[Dict[str, Any]]" = (),
    variables: "Optional[Dict[str, str]]" = None,
    timeout_s: Optional[float] = None,
) -> str:
    """What `textgen COMMAND` prints, given these objects on its standard input and these variables; it must succeed."""
    done = subprocess.run(
        [str(places.CLI), command, *map(str, arguments)],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"TEXTGEN_RUNTIME_LIBRARY": str(places.RUNTIME_LIBRARY), "PATH": "/usr/bin:/bin", **(variables or {})},
        timeout=timeout_s,
    )
    assert done.returncode == 0, (done.stderr, done.stdout[-2000:])
    return done.stdout


def convert(source: Path, out: Path) -> Path:
    """`textgen convert` of every weight as it is; the folder of the artifact."""
    run("convert", source, "--out", out, "--precision", "fp32")
    return out


def generate(model: Path, lines: List[Dict[str, Any]], *arguments: object) -> str:
    """`textgen generate --jsonl` over requests, as it prints."""
    return run("generate", model / "1", "--jsonl", *arguments, lines=lines)


def answers(model: Path, lines: List[Dict[str, Any]], *arguments: object) -> List[Dict[str, Any]]:
    """The answers to requests of one sequence each, in their order."""
    numbered = [{"id": index, **line} for index, line in enumerate(lines)]
    found = [json.loads(line) for line in generate(model, numbered, *arguments).splitlines()]
    assert [answer["id"] for answer in found] == list(range(len(lines))), "an answer is missing"
    return found


def texts(model: Path, sources: List[str]) -> List[str]:
    """The text for each of these texts."""
    return [answer["text_output"] for answer in answers(model, [{"text_input": source} for source in sources])]
