"""Memory of the GPU: a model takes what was reserved, a limit is kept, and an unload gives all back."""

from typing import Dict

from checkpoints import BERGAMOT, LLAMA, SMOLLM2
from place import Entry, Place, Served
from report import Needs, Report

from harness.repository import decoupled, parameters
from harness.texts import ENGLISH

MEBIBYTE = 1 << 20
#: Of all that one instance may take: SmolLM2's weights are a quarter of it.
LIMIT = 1024 * MEBIBYTE
#: Less than SmolLM2's weights.
TOO_SMALL = 65_536
#: What cuBLAS, the driver's pages and other processes may add between two looks.
SLACK = 128 * MEBIBYTE
CYCLES = 5
SEQUENCES, CONTEXT = 8, 1024

FIRST, MODEL, LIMITED, STARVED = "first", "model", "limited", "starved"

#: The backend's own account of what it holds.
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
        LIMITED: Entry(artifact, decoupled(True) + parameters(gpu_mem_limit=LIMIT)),
        STARVED: Entry(artifact, decoupled(True) + parameters(gpu_mem_limit=TOO_SMALL)),
    }
    with place.serve(entries) as served:
        report.check("an unload gives all back", lambda: given_back(place, served))
        report.check(
            f"gpu_mem_limit of {LIMIT // MEBIBYTE} MiB is kept",
            lambda: limit_is_kept(place, served),
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


def limit_is_kept(place: Place, served: Served) -> str:
    """As many sequences are decoded at once as fit, and no more is taken than was said."""
    before = used(place, served)
    served.load(LIMITED)
    served.http.text(LIMITED, ENGLISH, max_tokens=64)
    taken = used(place, served) - before
    told = sum(account(served, LIMITED).values())
    slots = served.server.metric("textgen_sequence_slots", model=LIMITED)
    served.unload(LIMITED)
    said = f"{taken / MEBIBYTE:.0f} MiB taken, {told / MEBIBYTE:.0f} MiB told, for {slots:.0f} sequences"
    assert taken <= LIMIT + SLACK and told <= LIMIT and slots > 1, said
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


def account(served: Served, model: str) -> Dict[str, float]:
    """What the backend says of a model's memory: bytes by their use."""
    gauge = served.server.metrics().get(GAUGE, {})
    return {dict(labels)["use"]: value for labels, value in gauge.items() if ("model", model) in labels}


def accounted(place: Place, served: Served) -> str:
    """What the backend says of its memory, against what the driver sees."""
    before = used(place, served)
    served.load(MODEL)
    served.http.text(MODEL, ENGLISH, max_tokens=8)
    taken = used(place, served) - before
    told = account(served, MODEL)
    served.unload(MODEL)
    said = ", ".join(f"{use} {value / MEBIBYTE:.0f}" for use, value in told.items())
    said = f"{said} MiB told, {taken / MEBIBYTE:.0f} MiB seen"
    assert told["weights"] > 0 and told["caches"] > 0, said
    assert not place.on_gpu or abs(sum(told.values()) - taken) <= SLACK, said
    return said
