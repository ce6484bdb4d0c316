"""Reads docker/compose*.yaml as Docker Compose does: variables filled in, later files laid over earlier ones."""

import re
from typing import Any, Dict, Set

import yaml

from image_replay import DOCKER

VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def variables() -> Set[str]:
    """Every variable that a file asks for."""
    texts = (file.read_text(encoding="utf-8") for file in DOCKER.glob("compose*.yaml"))
    return {found.group(1) for text in texts for found in VARIABLE.finditer(text)}


def load(*files: str, **values: str) -> Dict[str, Any]:
    """These files of docker/ as one; a variable that must be given and is not in `values` is an error."""

    def value(found: "re.Match") -> str:
        name, kind, text = found.groups()
        assert name in values or kind == "-", f"{name} is not given: {text}"
        return values.get(name, text)

    whole: Dict[str, Any] = {}
    for file in files:
        text = VARIABLE.sub(value, (DOCKER / file).read_text(encoding="utf-8"))
        whole = laid_over(whole, yaml.safe_load(text))
    return whole


def laid_over(below: Any, above: Any) -> Any:
    """Tables are merged, ports and volumes collected, all else is replaced."""
    if not isinstance(below, dict):
        return above
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if key in ("ports", "volumes") and isinstance(below[key], list):
            merged[key] = below[key] + above[key]
        else:
            merged[key] = laid_over(below[key], above[key])
    return merged
