"""A damaged artifact fails its own load, with a message that names the file; nothing else suffers."""

import json

import pytest

from harness import places
from harness.texts import ENGLISH

FILES = ["manifest.json", "encoder.onnx", "decoder.onnx", "weights.bin", "tokenizer.json", "normalizer.json"]
CUTS = {
    "missing": None,
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "noise": lambda data: bytes((7 * index + 13) % 256 for index in range(4096)),
}
# Losing its last newline does not damage a JSON file.
CASES = [(file, cut) for file in FILES for cut in CUTS if not (file == "manifest.json" and cut == "without its last byte")]


def replace(version, file, data):
    """A file of its own instead of the link to the converted one."""
    (version / file).unlink()
    if data is not None:
        (version / file).write_bytes(data)


def refuse(explicit, name):
    """Loads an entry that must fail; the reason."""
    server, http, _ = explicit
    reply = http.load(name)
    server.assert_alive()
    assert reply.status >= 400, reply
    assert not http.ready(name)
    assert http.text("good", ENGLISH) == "O gato dorme no sofá."
    return reply.error


def test_the_artifact_is_these_files():
    assert sorted(file.name for file in (places.model("translate-en-pt") / "1").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("file, cut", CASES, ids=lambda value: value.replace(" ", "-"))
def test_a_file_that_is_cut(explicit, file, cut):
    name = f"{file}-{cut}".replace(".", "-").replace(" ", "-")
    version = explicit[2].add(name)
    data = (version / file).read_bytes()
    replace(version, file, CUTS[cut](data) if CUTS[cut] else None)
    assert file in refuse(explicit, name)


@pytest.mark.parametrize(
    "key, value",
    [("format_version", 999), ("ops_version", 999), ("family", 7), ("tensors", [])],
)
def test_a_manifest_that_does_not_fit(explicit, key, value):
    name = f"manifest-{key}"
    version = explicit[2].add(name)
    manifest = json.loads((version / "manifest.json").read_text(encoding="utf-8"))
    manifest[key] = value
    replace(version, "manifest.json", json.dumps(manifest).encode())
    assert "manifest.json" in refuse(explicit, name) or key == "tensors"


def lying_entry(explicit, path, value):
    """An entry whose manifest says `value` at `path`; its name."""
    name = "lies-" + "-".join(map(str, path)) + f"-{str(value)[:12]}".replace("[", "").replace(" ", "")
    version = explicit[2].add(name)
    manifest = json.loads((version / "manifest.json").read_text(encoding="utf-8"))
    place = manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    replace(version, "manifest.json", json.dumps(manifest).encode())
    return name


@pytest.mark.parametrize(
    "path, value",
    [
        (["geometry", "d_model"], 0),
        (["geometry", "d_model"], 1 << 40),
        (["geometry", "decoder_layers"], 1000),
        (["geometry", "vocab_size"], 70_000),
        (["geometry", "self_kv_heads"], 4),
        (["geometry", "head_dim"], 3),
        (["geometry", "head_dim"], 64),
        (["geometry", "cross_kv_heads"], 1),
        (["geometry", "vocab_size"], 7),
        (["geometry", "state_width"], 1),
        (["geometry", "state_width"], 100_000),
        (["generation", "eos_token_ids"], [4_000_000_000]),
        (["tensors", 0, "offset"], 1 << 62),
        (["tensors", 0, "shape"], [1 << 40, 1 << 40]),
        (["generation", "decoder_start_token_id"], 4_000_000_000),
        (["embeddings", "encoder", "table"], "nowhere"),
    ],
    ids=str,
)
def test_a_manifest_that_lies(explicit, path, value):
    """Numbers that contradict the graphs or the weights never reach memory."""
    assert refuse(explicit, lying_entry(explicit, path, value))


def test_an_empty_version_folder(explicit):
    version = explicit[2].add("nothing")
    for file in version.iterdir():
        file.unlink()
    assert "manifest.json" in refuse(explicit, "nothing")
