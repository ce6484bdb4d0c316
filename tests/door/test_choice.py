"""Answers among given ones: `guided_decoding_guide` of type `choice`, and how probable each is."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from harness import grpc_door as grpc_replies
from harness import http_door as http_events
from harness import places, program
from harness.grpc_door import error_code
from harness.http_door import tensor
from harness.texts import ENGLISH, OTHER_ENGLISH, QUESTION

CAPITALS = ["London", "Paris", "Paris and Rome", "Madrid"]
REVIEW = "Is this review good or bad? 'The film was a wonderful surprise, I loved every minute of it.'"
#: English, Portuguese and Chinese, some of which begin alike; spaces, punctuation, a line break, an emoji.
LABELS = ["positive", "positive, mostly", "negativo", "avaliação não é possível", "正面的", "正面", "负面。", "two\nlines", "👍🏽"]
PORTUGUESE = ["O gato dorme no sofá.", "O gato dorme.", "O cão dorme no sofá.", "Não há gato"]


def choice(choices, **options):
    """The options of a guide."""
    guide = json.dumps(choices, ensure_ascii=False)
    return {"guided_decoding_guide_type": "choice", "guided_decoding_guide": guide, **options}


def probabilities(out):
    """Choices and their probabilities of each sequence, which must sum to 1."""
    found = [[(each["choice"], each["probability"]) for each in json.loads(text)] for text in out["choice_probabilities"]]
    for pairs in found:
        assert math.isclose(sum(probability for _, probability in pairs), 1.0, abs_tol=1e-9)
        assert all(0.0 <= probability <= 1.0 for _, probability in pairs)
    return found


# What is answered


@pytest.mark.parametrize("model, text, choices", [
    ("chat-whole", QUESTION, CAPITALS),
    ("chat-whole", REVIEW, LABELS),
    ("whole", ENGLISH, PORTUGUESE),
], ids=["capitals", "labels", "translations"])
def test_the_answer_is_one_of_the_choices(http, model, text, choices):
    out = http.infer_text(model, text, **choice(choices, temperature=0.0, return_finish_reason=True))
    assert out["text_output"][0] in choices
    assert out["finish_reason"] == ["stop"]


def test_the_model_chooses_what_fits(http):
    assert http.text("chat-whole", QUESTION, **choice(CAPITALS, temperature=0.0)).startswith("Paris")
    assert http.text("whole", ENGLISH, **choice(PORTUGUESE)) == PORTUGUESE[0]


@pytest.mark.parametrize("label", LABELS)
def test_a_single_choice_is_said_byte_for_byte(http, label):
    assert http.text("chat-whole", REVIEW, **choice([label])) == label


@pytest.mark.parametrize("label", PORTUGUESE + ["Sim", "100%", "(a)"])
def test_a_single_choice_is_said_byte_for_byte_by_a_translator(http, label):
    assert http.text("whole", ENGLISH, **choice([label])) == label


def test_every_door_chooses_alike(http, grpc_door):
    options = choice(LABELS, temperature=0.0)
    expected = http.text("chat-whole", REVIEW, **options)
    assert http_events.joined(http.stream("chat", REVIEW, **options)) == expected
    assert grpc_door.infer("chat-whole", REVIEW, **options)["text_output"] == [expected]
    assert grpc_replies.joined(grpc_door.stream("chat", REVIEW, **options)) == expected
    as_parameter = json.dumps({**options, "guided_decoding_guide": LABELS})
    assert http.text("chat-whole", REVIEW, sampling_parameters=as_parameter) == expected
    (answer,) = program.answers(places.model("chat"), [{"text_input": REVIEW, **options, "guided_decoding_guide": LABELS}])
    assert answer["text_output"] == expected


#: Texts that the translator's tokenizer changes: full-width marks and letters, a ligature, blanks at the ends.
NORMALIZED = ["Sim！", "Não（talvez）", "Ｏ gato dorme no sofá.", "\ufb01m", " Sim", "Sim, "]


@pytest.mark.parametrize("label", NORMALIZED)
def test_a_choice_is_told_in_the_spelling_of_the_request(http, label):
    assert http.text("whole", ENGLISH, **choice([label])) == label


def test_every_door_spells_alike(http, grpc_door):
    options = choice(NORMALIZED, return_finish_reason=True, return_num_output_tokens=True, return_choice_probabilities=True)
    expected = http.infer_text("whole", ENGLISH, **options)
    assert expected["text_output"][0] == "Ｏ gato dorme no sofá." and expected["finish_reason"] == ["stop"]
    assert [each for each, _ in probabilities(expected)[0]] == NORMALIZED
    assert http_events.joined(http.stream("translate-en-pt", ENGLISH, **options)) == expected["text_output"][0]
    assert grpc_door.infer("whole", ENGLISH, **options)["text_output"] == expected["text_output"]
    assert grpc_replies.joined(grpc_door.stream("translate-en-pt", ENGLISH, **options)) == expected["text_output"][0]
    plain = http.infer_text("whole", ENGLISH, **choice(["O gato dorme no sofá."], return_num_output_tokens=True))
    assert expected["num_output_tokens"] == plain["num_output_tokens"]


def test_samples_differ_and_a_seed_repeats_them(http):
    options = choice(LABELS, temperature=5.0, top_k=0, num_return_sequences=16, seed=3)
    out = http.infer_text("chat-whole", REVIEW, **options)["text_output"]
    assert len(out) == 16 and set(out) <= set(LABELS) and len(set(out)) > 1
    assert http.infer_text("chat-whole", REVIEW, **options)["text_output"] == out
    alone = http.text("chat-whole", REVIEW, **choice(LABELS, temperature=5.0, top_k=0, seed=5))
    assert alone == out[2]


def test_truncation_counts_what_is_allowed(http):
    options = choice(LABELS, temperature=100.0, num_return_sequences=16, seed=1, top_k=0)
    assert len(set(http.infer_text("chat-whole", REVIEW, **options)["text_output"])) > 1
    greedy = http.text("chat-whole", REVIEW, **choice(LABELS, temperature=0.0))
    assert set(http.infer_text("chat-whole", REVIEW, **{**options, "top_p": 1e-6})["text_output"]) == {greedy}


def test_a_forced_beginning_goes_before_the_choice(http):
    forced = {"decoder_text_input": "O gato"}
    verbs = ["dorme no sofá.", "come na mesa."]
    assert http.text("whole", ENGLISH, **choice(verbs), **forced) == verbs[0]


def test_penalties_and_words_that_no_choice_holds(http):
    options = choice(LABELS, temperature=0.0, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5)
    assert http.text("chat-whole", REVIEW, **options, bad_words=["zebra"], stop_words=["zebra"], min_tokens=1) in LABELS


def test_a_choice_may_be_longer_than_a_translation_would(http):
    """The translator's own limit grows with the source; a choice is as long as it is."""
    words = ("palavra " * 60).strip()
    assert http.text("whole", "Hi.", **choice([words])) == words


def test_many_choices_in_company(http):
    """Each answer is the one that it is alone, beside guided and free requests alike."""
    numbers = [f"number {index}" for index in range(256)]
    requests = [
        choice(LABELS, temperature=0.0),
        choice(CAPITALS, temperature=3.0, seed=1),
        choice(numbers, temperature=3.0, seed=2),
        {"max_tokens": 12, "temperature": 0.0},
        choice(LABELS, temperature=0.0, return_choice_probabilities=True),
    ]
    alone = [http.infer_text("chat-whole", REVIEW, **options) for options in requests]
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(lambda index: http.infer_text("chat-whole", REVIEW, **requests[index % 5]), range(40)))
    assert all(out == alone[index % 5] for index, out in enumerate(together))


# How probable each is


@pytest.mark.parametrize("model, entry, text, choices", [
    ("chat-whole", "chat", QUESTION, CAPITALS),
    ("chat-whole", "chat", REVIEW, LABELS),
    ("whole", "translate-en-pt", ENGLISH, PORTUGUESE),
], ids=["capitals", "labels", "translations"])
def test_probabilities_are_those_of_the_whole_choices(http, model, entry, text, choices):
    """Each is what `textgen score` says of the choice with any of its ends; the choice alone has the most probable end in its
    cumulative_logprob."""
    out = http.infer_text(model, text, **choice(choices, temperature=0.0, return_choice_probabilities=True))
    (pairs,) = probabilities(out)
    assert [each for each, _ in pairs] == choices

    artifact = places.model(entry) / "1"

    def score(lines):
        return [json.loads(line) for line in program.run("score", artifact, "--jsonl", lines=lines).splitlines()]

    ends = json.loads((artifact / "manifest.json").read_text())["generation"]["eos_token_ids"]
    targets = [each["target_ids"][:-1] for each in score([{"text_input": text, "text_output": each} for each in choices])]
    with_ends = [{"text_input": text, "target_ids": [*target, end]} for target in targets for end in ends]
    sums = [each["sum"] for each in score(with_ends)]
    of_choices = [sums[first : first + len(ends)] for first in range(0, len(sums), len(ends))]
    alone = [http.infer_text(model, text, **choice([each], return_cumulative_logprob=True)) for each in choices]
    assert [each["cumulative_logprob"][0] for each in alone] == pytest.approx([max(each) for each in of_choices], rel=1e-5)
    largest = max(sums)
    weights = [sum(math.exp(each - largest) for each in group) for group in of_choices]
    expected = [weight / sum(weights) for weight in weights]
    assert [probability for _, probability in pairs] == pytest.approx(expected, rel=1e-4)


def test_asking_for_probabilities_changes_no_answer(http):
    for options in ({"temperature": 0.0}, {"temperature": 4.0, "seed": 9, "num_return_sequences": 4}):
        plain = http.infer_text("chat-whole", REVIEW, **choice(LABELS, **options))
        asked = http.infer_text("chat-whole", REVIEW, **choice(LABELS, return_choice_probabilities=True, **options))
        assert asked["text_output"] == plain["text_output"]


def test_probabilities_through_every_door(http, grpc_door):
    options = choice(LABELS, temperature=0.0, return_choice_probabilities=True, return_finish_reason=True)
    expected = http.infer_text("chat-whole", REVIEW, **options)
    *pieces, last = http.stream("chat", REVIEW, **options)
    assert http_events.joined([*pieces, last]) == expected["text_output"][0]
    assert [last["choice_probabilities"]] == expected["choice_probabilities"] and last["finish_reason"] == "stop"
    assert all("choice_probabilities" not in piece for piece in pieces)
    replies = grpc_door.stream("chat", REVIEW, **options)
    told = [reply.outputs["choice_probabilities"] for reply in replies if "choice_probabilities" in reply.outputs]
    assert told == [expected["choice_probabilities"]]
    line = {"text_input": REVIEW, **options}
    del line["return_finish_reason"]
    (answer,) = program.answers(places.model("chat"), [line])
    assert answer["choice_probabilities"] == json.loads(expected["choice_probabilities"][0])


def test_probabilities_of_several_texts_and_samples(http):
    """In as few slots as there are: a stream tells them with the last piece of each sequence."""
    options = choice(PORTUGUESE, temperature=2.0, seed=1, num_return_sequences=2, return_choice_probabilities=True)
    texts = [ENGLISH, OTHER_ENGLISH]
    out = http.infer_text("whole", texts, **options)
    found = probabilities(out)
    assert found[0] == found[1] and found[2] == found[3] and found[0] != found[2]
    alone = [http.infer_text("whole", text, **choice(PORTUGUESE, return_choice_probabilities=True)) for text in texts]
    assert [found[0], found[2]] == [probabilities(each)[0] for each in alone]


def test_probabilities_with_a_single_slot(http, grpc_door):
    options = choice(PORTUGUESE, return_choice_probabilities=True)
    expected = http.infer_text("whole", ENGLISH, **options)
    replies = grpc_door.stream("narrow", ENGLISH, **options)
    assert grpc_replies.joined(replies) == expected["text_output"][0]
    assert replies[-1].outputs["choice_probabilities"] == expected["choice_probabilities"]


def test_prompts_without_a_cache_of_beginnings(http):
    options = choice(CAPITALS, temperature=0.0, return_choice_probabilities=True)
    expected = http.infer_text("chat-whole", QUESTION, **options)
    (last,) = [event for event in http.stream("chat-apart", QUESTION, **options) if "choice_probabilities" in event]
    assert [last["choice_probabilities"]] == expected["choice_probabilities"]


def test_the_output_can_be_asked_for_by_its_name(http):
    inputs = [tensor(name, value) for name, value in {"text_input": ENGLISH, **choice(PORTUGUESE)}.items()]
    reply = http.infer("whole", inputs, outputs=[{"name": "choice_probabilities"}])
    assert reply.status == 200, reply
    (output,) = reply.json["outputs"]
    assert probabilities({output["name"]: output["data"]})
    reply = http.infer("whole", [tensor("text_input", ENGLISH)], outputs=[{"name": "choice_probabilities"}])
    assert reply.status == 400 and "choice_probabilities" in reply.error


# What is refused


@pytest.mark.parametrize("guide_type", ["json", "json_schema", "regex", "ebnf_grammar"])
def test_other_guides_are_declared_and_not_built(http, grpc_door, guide_type):
    options = {"guided_decoding_guide_type": guide_type, "guided_decoding_guide": "[a-z]+"}
    reply = http.infer("whole", [tensor("text_input", ENGLISH)] + [tensor(*each) for each in options.items()])
    assert reply.status == 501 and "guided_decoding_guide_type" in reply.error and guide_type in reply.error, reply
    code, message = error_code(lambda: grpc_door.infer("whole", ENGLISH, **options))
    assert code == grpc.StatusCode.UNIMPLEMENTED and guide_type in message


@pytest.mark.parametrize("options, parts", [
    ({"guided_decoding_guide": '["a"]'}, ["guided_decoding_guide", "guided_decoding_guide_type"]),
    ({"guided_decoding_guide_type": "choice"}, ["guided_decoding_guide_type", "guided_decoding_guide"]),
    ({"guided_decoding_guide_type": "choices", "guided_decoding_guide": '["a"]'}, ["choices", '"choice"']),
    ({"guided_decoding_guide_type": "choice", "guided_decoding_guide": "Paris"}, ["guided_decoding_guide", "JSON list"]),
    ({"return_choice_probabilities": True}, ["return_choice_probabilities", "guided_decoding_guide"]),
    (choice([]), ["guided_decoding_guide", "0 choices"]),
    (choice([""]), ["guided_decoding_guide", "0 bytes"]),
    (choice(["Sim", "Sim"]), ["Sim", "twice"]),
    (choice(["Sim"] + [str(number) for number in range(256)]), ["257", "256"]),
    (choice(["O gato dorme no sofá."], max_tokens=2), ["O gato", "max_tokens", "2"]),
    (choice(["Sim"], min_tokens=50), ["Sim", "min_tokens", "50"]),
    (choice(["O gato dorme"], bad_words=["gato"]), ["O gato dorme", "bad_words"]),
    (choice(["O gato dorme"], stop_words=["dor"]), ["O gato dorme", "stop_words", "dor"]),
    (choice(["</s>"]), ["</s>"]),
    (choice([" ".join("abcdefgh" * 50)]), ["401", "256", "max_target_tokens"]),
    (choice(["Sim", "Ｓim"]), ["Ｓim", '"Sim"']),
    (choice(["正面"]), ["正面"]),
    (choice(["Sim"], num_return_sequences=2), ["num_return_sequences", "temperature"]),
], ids=str)
def test_what_cannot_be_chosen_is_refused(http, options, parts):
    reply = http.infer("whole", [tensor("text_input", ENGLISH)] + [tensor(*each) for each in options.items()])
    assert reply.status == 400, reply
    assert all(part in reply.error for part in parts), reply.error


def test_choices_count_as_sequences(http):
    """A request may have 1024 of them."""
    options = choice([str(number) for number in range(256)], return_choice_probabilities=True)
    inputs = [tensor("text_input", [ENGLISH] * 4)] + [tensor(*each) for each in options.items()]
    reply = http.infer("whole", inputs)
    assert reply.status == 400 and "1028" in reply.error and "1024" in reply.error, reply
