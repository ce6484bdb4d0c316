"""Memory of the GPU: a model takes what was reserved, a limit is kept, and an unload gives all back."""

import json
from pathlib import Path

from checkpoints import BERGAMOT, LLAMA, SMOLLM2
from place import Entry, Place, Served
from report import Needs, NotRun, Report

from harness.repository import decoupled, parameters
from harness.texts import ENGLISH

MEBIBYTE = 1 << 20
#: Of what each of a model's sessions may take beside weights and caches.
LIMIT = 256 * MEBIBYTE
#: Less than one row of SmolLM2's logits.
TOO_SMALL = 65_536
#: What the driver's pages and other processes may add between two looks.
SLACK = 64 * MEBIBYTE
CYCLES = 5
SEQUENCES, CONTEXT = 8, 1024

FIRST, MODEL, LIMITED, STARVED = "first", "model", "limited", "starved"

#: The backend's own account of what it has reserved, if it keeps one.
GAUGE = "textgen_memory_bytes"


def check(place: Place, report: Report) -> None:
    """One server for all; its first model brings CUDA's context, which stays."""
    report.section("Memory")
    model = LLAMA if place.tiny else SMOLLM2
    artifact = place.artifact(model, "fp16")
    config = decoupled(True) + parameters(max_sequences=SEQUENCES, max_context_tokens=CONTEXT)
    entries = {
        FIRST: Entry(place.artifact(LLAMA if place.tiny else BERGAMOT, "fp16"), decoupled(True)),
        MODEL: Entry(artifact, config),
        LIMITED: Entry(artifact, config + parameters(gpu_mem_limit=LIMIT)),
        STARVED: Entry(artifact, config + parameters(gpu_mem_limit=TOO_SMALL)),
    }
    with place.serve(entries) as served:
        report.check("an unload gives all back", lambda: given_back(place, served))
        report.check(
            f"gpu_mem_limit of {LIMIT // MEBIBYTE} MiB is kept",
            lambda: limit_is_kept(place, served, artifact),
            Needs.GPU,
        )
        report.check("a gpu_mem_limit that is too small is said", lambda: too_small(served), Needs.GPU)
        report.check(f"the backend's own account, {GAUGE}", lambda: accounted(place, served))


def used(place: Place, served: Served) -> int:
    """Bytes of the GPU's memory that are taken, by whoever; on the CPU those of the server."""
    if not place.on_gpu:
        return served.server.rss_bytes()
    return place.driver.gpus[0].total_bytes - place.driver.free_bytes(0)


def given_back(place: Place, served: Served) -> str:
    """Loads, asks and unloads a model again and again."""
    served.load(FIRST)
    served.http.text(FIRST, ENGLISH, max_tokens=4)
    before, loaded, after = used(place, served), [], []
    for _ in range(CYCLES):
        served.load(MODEL)
        served.http.text(MODEL, ENGLISH, max_tokens=8)
        loaded.append(used(place, served))
        served.unload(MODEL)
        after.append(used(place, served))
    served.http.text(FIRST, ENGLISH, max_tokens=4)
    taken, kept, growth = loaded[-1] - before, after[-1] - before, after[-1] - after[1]
    said = (
        f"{taken / MEBIBYTE:.0f} MiB loaded, {kept / MEBIBYTE:.0f} MiB kept after {CYCLES} unloads, of which "
        f"{growth / MEBIBYTE:.0f} MiB since the second"
    )
    # On the CPU the allocator keeps pages for the next load; on a GPU there is none between.
    allowed = SLACK if place.on_gpu else max(SLACK, taken // 2)
    assert kept <= allowed and growth <= allowed, f"{said}; allowed {allowed / MEBIBYTE:.0f} MiB"
    return said


def limit_is_kept(place: Place, served: Served, artifact: Path) -> str:
    """Weights, caches and the limit bound what is taken."""
    weights = (artifact / "weights.bin").stat().st_size
    geometry = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["geometry"]
    # f16 keys and values of every position and one behind, and f32 logits: of slots, holes and drafts.
    positions = SEQUENCES * (CONTEXT + 1) * geometry["self_kv_heads"] * geometry["head_dim"]
    caches = 2 * geometry["decoder_layers"] * positions * 2 + (2 * SEQUENCES + 64) * geometry["vocab_size"] * 4
    before = used(place, served)
    served.load(LIMITED)
    served.http.text(LIMITED, ENGLISH, max_tokens=64)
    taken = used(place, served) - before
    served.unload(LIMITED)
    said = (
        f"{taken / MEBIBYTE:.0f} MiB taken: weights {weights / MEBIBYTE:.0f}, caches {caches / MEBIBYTE:.0f}, "
        f"at most {LIMIT / MEBIBYTE:.0f} beside"
    )
    assert taken <= weights + caches + LIMIT + SLACK, said
    return said


def too_small(served: Served) -> str:
    """Refused when it loads or when it is asked; nobody else notices."""
    reply = served.http.load(STARVED)
    if reply.status == 200:
        reply = served.http.generate(STARVED, ENGLISH, max_tokens=4)
        served.unload(STARVED)
    served.server.assert_alive()
    assert reply.status >= 400, f"it works with {TOO_SMALL} bytes: {reply}"
    served.http.text(FIRST, ENGLISH, max_tokens=4)
    return reply.error


def accounted(place: Place, served: Served) -> str:
    """The place for what the backend itself says of its memory, against what the driver sees."""
    before = used(place, served)
    served.load(MODEL)
    served.http.text(MODEL, ENGLISH, max_tokens=8)
    taken = used(place, served) - before
    gauge = served.server.metrics().get(GAUGE, {})
    samples = {dict(labels).get("use", ""): value for labels, value in gauge.items() if ("model", MODEL) in labels}
    served.unload(MODEL)
    if not samples:
        raise NotRun(f"this backend has no metric {GAUGE}")
    told = ", ".join(f"{use} {value / MEBIBYTE:.0f}" for use, value in samples.items())
    said = f"{told} MiB told, {taken / MEBIBYTE:.0f} MiB seen"
    assert not place.on_gpu or abs(sum(samples.values()) - taken) <= LIMIT, said
    return said
