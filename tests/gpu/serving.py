"""The real server with models on the GPU: loads, instances, streams, cancellation, reloads, and what must be refused."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict

from checkpoints import BERGAMOT, LLAMA, SMOLLM2, Checkpoint
from place import Entry, Place, Served, parsed
from report import Needs, NotRun, Report

from harness import places, program
from harness.grpc_door import joined, replies
from harness.http_door import joined as joined_events
from harness.metrics import PREFIX, outcomes, running
from harness.repository import decoupled, parameters
from harness.server import eventually
from harness.texts import ENGLISH, LASTING, LONG, QUESTION

TRANSLATOR, PAIR, LASTING_ENTRY, CHAT = "translator", "pair", "lasting", "chat"
HUGE, NO_SUCH_GPU, SECOND_GPU = "huge", "no-such-gpu", "second-gpu"

SEQUENCES = 8
#: More than the 64 candidates that a step reads back, so that all logits of a row are fetched.
MANY = 1000
#: Whatever the model would do by itself.
GREEDY: Dict[str, Any] = {"temperature": 0.0, "max_tokens": 48}
CHOICES = ["a city", "a river", "a sea"]


def check(place: Place, report: Report) -> None:
    """One server for all."""
    report.section("Server")
    translator, chat = place.artifact(BERGAMOT, "fp16"), place.artifact(chatting(place), "fp16")
    sizes = parameters(max_sequences=SEQUENCES)
    entries = {
        TRANSLATOR: Entry(translator, decoupled(True) + sizes),
        PAIR: Entry(translator, decoupled(True) + sizes, instances=2),
        LASTING_ENTRY: Entry(
            translator, decoupled(True) + sizes + parameters(max_source_tokens=1024, max_target_tokens=2048)
        ),
        CHAT: Entry(chat, decoupled(True) + sizes + parameters(max_context_tokens=1024)),
        # A thousand times the largest GPU, whatever the model allows.
        HUGE: Entry(chat, parameters(max_sequences=4096, max_context_tokens=8192)),
        NO_SUCH_GPU: Entry(translator, gpus=(99,)),
        SECOND_GPU: Entry(translator, gpus=(1,)),
    }
    with place.serve(entries) as served:

        def about(name: str, body: Callable[..., str], needs: Needs = Needs.MODEL) -> None:
            report.check(name, lambda: body(place, served), needs)

        about(f"models load with {place.kind}", loads)
        about("the server's answers are the program's", agrees_with_the_program)
        about("two instances of one model", two_instances)
        about("streams of HTTP and gRPC", streams)
        about("a cancelled stream gives its slot back", cancels)
        about(f"{SEQUENCES} samples of one prompt, which share its cache", forks)
        about(f"all logits: top_k {MANY}, alone and in a batch", all_logits)
        about("all logits: probabilities of choices", choices)
        about("unload lets streams end, and a reload answers the same", reloads)
        about("too little memory for max_sequences is said", too_little_memory, Needs.GPU)
        about("gpus: [99] is refused", no_such_gpu, Needs.GPU)
        about("gpus: [1], of several GPUs", second_gpu, Needs.GPU)
        about("an artifact for the CPU is refused by KIND_GPU", artifact_for_the_cpu, Needs.GPU)


def chatting(place: Place) -> Checkpoint:
    """The decoder-only model."""
    return LLAMA if place.tiny else SMOLLM2


def loads(_: Place, served: Served) -> str:
    names = (TRANSLATOR, PAIR, LASTING_ENTRY, CHAT)
    return ", ".join(f"{name} {served.load(name):.1f} s" for name in names)


def agrees_with_the_program(place: Place, served: Served) -> str:
    sentences = places.sentences()[:16]
    lines = [{"text_input": sentence} for sentence in sentences]
    answers = [answer["text_output"] for answer in place.answers(place.artifact(BERGAMOT, "fp16"), lines)]
    got = [served.http.text(TRANSLATOR, sentence) for sentence in sentences]
    assert got == answers, first_difference(got, answers)
    return f"{len(got)} translations"


def two_instances(_: Place, served: Served) -> str:
    sentences = places.sentences()[:48]
    slots = served.server.metric(PREFIX + "sequence_slots", model=PAIR)
    assert slots == 2 * SEQUENCES, f"{slots:.0f} slots, expected {2 * SEQUENCES}"
    alone = [served.http.text(TRANSLATOR, sentence) for sentence in sentences]
    with ThreadPoolExecutor(24) as pool:
        got = list(pool.map(lambda sentence: served.http.text(PAIR, sentence), sentences))
    assert got == alone, first_difference(got, alone)
    return f"{len(got)} translations at once over {slots:.0f} slots"


def streams(_: Place, served: Served) -> str:
    # Long enough that it cannot come in one piece: what is ready at once is sent at once.
    length = {"max_tokens": 400, "min_tokens": 400}
    whole = served.http.text(LASTING_ENTRY, LONG, **length)
    events = served.http.stream(LASTING_ENTRY, LONG, **length)
    pieces = served.grpc.stream(LASTING_ENTRY, LONG, **length)
    assert joined_events(events) == joined(pieces) == whole, (whole, joined_events(events), joined(pieces))
    assert min(len(events), len(pieces)) > 1, "the stream came in one piece"
    return f"{len(events)} and {len(pieces)} pieces"


def cancels(_: Place, served: Served) -> str:
    before = outcomes(served.server, LASTING_ENTRY)["cancelled"]
    calls = [
        served.grpc.open_stream(served.grpc.request(LASTING_ENTRY, LONG, stream=True, **LASTING))
        for _ in range(SEQUENCES)
    ]
    for call in calls:
        next(call)
    assert eventually(lambda: running(served.server, LASTING_ENTRY) == SEQUENCES)
    for call in calls:
        call.cancel()
    eventually(lambda: running(served.server, LASTING_ENTRY) == 0)
    cancelled = outcomes(served.server, LASTING_ENTRY)["cancelled"] - before
    assert cancelled == SEQUENCES, f"{cancelled:.0f} requests were cancelled, expected {SEQUENCES}"
    served.http.text(LASTING_ENTRY, ENGLISH)
    return f"{SEQUENCES} streams"


def forks(_: Place, served: Served) -> str:
    options: Dict[str, Any] = {"temperature": 0.9, "max_tokens": 16}
    prompt = f"Tell me about rivers. {LONG[:600]}"
    singles = [served.http.text(CHAT, prompt, seed=70 + index, **options) for index in range(SEQUENCES)]
    metric = PREFIX + "prefix_cache_hits_total"
    hits = served.server.metric(metric, model=CHAT)
    texts = [""] * SEQUENCES
    for reply in served.grpc.stream(CHAT, prompt, seed=70, num_return_sequences=SEQUENCES, **options):
        assert not reply.error, reply
        for index, piece in zip(reply.outputs.get("sequence_index", []), reply.outputs.get("text_output", [])):
            texts[index] += piece
    assert texts == singles, first_difference(texts, singles)
    assert len(set(texts)) > 1, "all samples are the same"
    hits = served.server.metric(metric, model=CHAT) - hits
    assert hits > 0, "nothing of the prompt was shared"
    return f"{len(set(texts))} different texts, {hits:.0f} prompt tokens shared"


def all_logits(_: Place, served: Served) -> str:
    options: Dict[str, Any] = {"top_k": MANY, "temperature": 1.2, "max_tokens": 16}
    prompts = [f"{QUESTION} {sentence}" for sentence in places.sentences()[:SEQUENCES]]

    def ask(numbered) -> str:
        return served.http.text(CHAT, numbered[1], seed=numbered[0], **options)

    alone = [ask(each) for each in enumerate(prompts)]
    with ThreadPoolExecutor(SEQUENCES) as pool:
        together = list(pool.map(ask, enumerate(prompts)))
    assert together == alone, first_difference(together, alone)
    # Almost greedy: the fetched row must have its largest logit where the candidates have it.
    greedy = served.http.text(CHAT, QUESTION, temperature=0.0, max_tokens=16)
    near = served.http.text(CHAT, QUESTION, temperature=1e-4, top_k=MANY, seed=1, max_tokens=16)
    assert near == greedy, f"{near!r} from all logits, {greedy!r} from candidates"
    return f"{len(alone)} answers, and one that is almost greedy"


def choices(place: Place, served: Served) -> str:
    options = {
        "guided_decoding_guide_type": "choice",
        "guided_decoding_guide": json.dumps(CHOICES),
        "return_choice_probabilities": True,
    }
    (answer,) = parsed(
        program.run(
            "generate", place.reference(chatting(place)), "--jsonl", lines=[{"text_input": QUESTION, **options}]
        )
    )
    reply = served.http.generate(CHAT, QUESTION, **options)
    assert reply.status == 200, reply
    got, expected = (
        {each["choice"]: each["probability"] for each in listed}
        for listed in (json.loads(reply.json["choice_probabilities"]), answer["choice_probabilities"])
    )
    assert list(got) == list(expected) == CHOICES and abs(sum(got.values()) - 1) < 1e-3, got
    said = f"off by {max(abs(got[choice] - expected[choice]) for choice in CHOICES):.4f} from fp32 on the CPU"
    assert all(abs(got[choice] - expected[choice]) <= 0.03 for choice in CHOICES), f"{said}: {got}, {expected}"
    return said


def reloads(_: Place, served: Served) -> str:
    whole = served.http.text(CHAT, QUESTION, **GREEDY)
    call = served.grpc.open_stream(served.grpc.request(CHAT, QUESTION, stream=True, **GREEDY))
    answers = replies(call)
    first = next(answers)
    unloading = threading.Thread(target=served.unload, args=(CHAT,))
    unloading.start()
    text = joined([first, *answers])
    unloading.join(60)
    assert not unloading.is_alive(), "the unload has not ended"
    assert text == whole, f"{text!r} while it was unloaded, {whole!r} before"
    seconds = served.load(CHAT)
    again = served.http.text(CHAT, QUESTION, **GREEDY)
    assert again == whole, f"{again!r} after the reload, {whole!r} before"
    return f"reload in {seconds:.1f} s"


def too_little_memory(_: Place, served: Served) -> str:
    error = served.refusal(HUGE)
    assert "max_sequences" in error and re.search(r"\d+ MiB", error), error
    served.http.text(TRANSLATOR, ENGLISH)
    return error


def no_such_gpu(_: Place, served: Served) -> str:
    error = served.refusal(NO_SUCH_GPU)
    assert "99" in error, error
    return error


def second_gpu(place: Place, served: Served) -> str:
    if len(place.driver.gpus) < 2:
        raise NotRun("one GPU")
    seconds = served.load(SECOND_GPU)
    got, expected = (served.http.text(name, ENGLISH) for name in (SECOND_GPU, TRANSLATOR))
    assert got == expected, (got, expected)
    return f"loaded in {seconds:.1f} s"


def artifact_for_the_cpu(place: Place, _: Served) -> str:
    with place.serve({"cpu": Entry(place.reference(BERGAMOT))}) as served:
        error = served.refusal("cpu")
    assert "--device cuda" in error, error
    return error


def first_difference(got, expected) -> str:
    """Of two lists of texts."""
    others = [(a, b) for a, b in zip(got, expected) if a != b]
    return f"{len(others)} of {len(expected)} texts differ, the first: {others[0][0]!r}, expected {others[0][1]!r}"
