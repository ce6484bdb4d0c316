"""The command-line program."""

import json
import subprocess
from pathlib import Path
from typing import Any, Dict, List

from . import places


def generate(model: Path, texts: List[str], **options: Any) -> List[Dict[str, Any]]:
    """`textgen generate --jsonl` over texts; the answers in their order."""
    lines = [json.dumps({"id": str(index), "text_input": text, **options}) for index, text in enumerate(texts)]
    run = subprocess.run(
        [str(places.CLI), "generate", str(model / "1"), "--jsonl"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"TEXTGEN_RUNTIME_LIBRARY": str(places.RUNTIME_LIBRARY), "PATH": "/usr/bin:/bin"},
    )
    assert run.returncode == 0, run.stderr
    answers = sorted(map(json.loads, run.stdout.splitlines()), key=lambda answer: int(answer["id"]))
    assert [answer["id"] for answer in answers] == [str(index) for index in range(len(texts))], "an answer is missing"
    failed = [answer for answer in answers if "error" in answer]
    assert not failed, failed[:3]
    return answers
