"""`/augment` and `/augment_batch`: what they answer, and what they refuse."""

import httpx
import pytest

TEXT = "The train was late because of the snow, and nobody at the station knew when the next one would leave."
OTHER = "The cat sleeps on the sofa while the children read a book about the history of the old city."
TOPICS = ["weather and travel", "cooking", "politics"]


def augment(client, **body):
    answer = client.post("/augment", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    return answer.json()


def batch(client, **body):
    answer = client.post("/augment_batch", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["augmented_texts"]


def test_three_variants_that_differ(client):
    variants = augment(client, text=TEXT, seed=1)["augmented_texts"]
    assert len(variants) == 3
    assert len({" ".join(variant.split()) for variant in variants} | {TEXT}) == 4


def test_twenty_variants_are_twenty(client):
    variants = augment(client, text=TEXT, num_return_sequences=20, temperature=1.2, seed=1)["augmented_texts"]
    assert len(variants) == 20 and len(set(variants)) > 15


def test_a_seed_gives_the_same_answer_again(client):
    first = augment(client, text=TEXT, seed=7)["augmented_texts"]
    assert augment(client, text=TEXT, seed=7)["augmented_texts"] == first
    assert augment(client, text=TEXT, seed=8)["augmented_texts"] != first
    assert augment(client, text=TEXT, seed=2**64 - 1)["augmented_texts"]


def test_without_a_seed_answers_are_drawn_anew(client):
    answers = {tuple(augment(client, text=TEXT)["augmented_texts"]) for _ in range(3)}
    assert len(answers) > 1


def test_a_seeded_batch_gives_its_first_text_what_it_gives_alone(client):
    alone = augment(client, text=TEXT, seed=7)["augmented_texts"]
    grouped = batch(client, texts=[TEXT, OTHER, TEXT], seed=7, grouped=True)
    assert grouped[0] == alone
    assert grouped[2] != alone, "every place of a batch has seeds of its own"
    assert batch(client, texts=[TEXT, OTHER, TEXT], seed=7, grouped=True) == grouped


def test_greedy_repeats(client):
    greedy = augment(client, text=TEXT, temperature=0, num_return_sequences=2)["augmented_texts"]
    assert len(set(greedy)) == 1
    assert augment(client, text=TEXT, temperature=0, num_return_sequences=1)["augmented_texts"] == greedy[:1]


def test_a_seed_draws_again_the_same(client):
    asked = {"text": "Good morning!", "num_return_sequences": 8, "seed": 3}
    first = augment(client, **asked)
    del first["request_id"]
    again = augment(client, **asked)
    del again["request_id"]
    assert first == again


def test_what_has_no_other_words_is_exhausted(client):
    answer = augment(client, text="12:30 🎉", num_return_sequences=2)
    assert answer["augmented_texts"] == [] and answer["exhausted"] is True
    one_way = augment(client, text=TEXT, top_k=1, num_return_sequences=3)
    assert len(one_way["augmented_texts"]) == 1 and one_way["exhausted"] is True
    asked = {"texts": [TEXT, "12:30 🎉"], "num_return_sequences": 2, "seed": 1}
    grouped = client.post("/augment_batch", json={**asked, "grouped": True}).json()
    assert grouped["exhausted"] == [False, True] and list(map(len, grouped["augmented_texts"])) == [2, 0]
    flat = client.post("/augment_batch", json=asked).json()
    assert flat["augmented_texts"] == grouped["augmented_texts"][0] and flat["counts"] == [2, 0]
    assert flat["exhausted"] == [False, True]


def test_greedy_answers_and_labels_may_repeat(client):
    greedy = augment(client, text="12:30", temperature=0)
    assert greedy["augmented_texts"] == ["12:30"] * 3 and "exhausted" not in greedy
    labels = augment(client, text=TEXT, task="sentiment", temperature=1, num_return_sequences=5)
    assert len(labels["augmented_texts"]) == 5 and "exhausted" not in labels


def test_every_variant_says_why_it_ends(client):
    assert augment(client, text=TEXT, seed=1)["finish_reasons"] == ["stop"] * 3
    assert set(augment(client, text=TEXT, seed=1, max_length=4)["finish_reasons"]) == {"length"}
    titles = augment(client, text=TEXT, task="title", max_length=2)
    assert titles["finish_reasons"] == ["length"]
    asked = {"texts": [TEXT, OTHER], "num_return_sequences": 2, "temperature": 0}
    assert client.post("/augment_batch", json=asked).json()["finish_reasons"] == ["stop"] * 4
    grouped = client.post("/augment_batch", json={**asked, "grouped": True}).json()
    assert grouped["finish_reasons"] == [["stop"] * 2] * 2


def test_what_the_first_model_of_an_ensemble_cuts_is_cut(client):
    """The Portuguese of this text is longer than its English: with room for the one and not for the other, the second model
    completes what the first has cut."""
    text = "She could have forgotten about it."
    reasons = []
    for max_length in range(4, 30):
        answer = augment(client, text=text, temperature=0, num_return_sequences=1, max_length=max_length)
        reasons += answer["finish_reasons"]
    assert reasons[0] == "length" and reasons[-1] == "stop"
    assert reasons == sorted(reasons), "what more room completes stays complete"


def test_partial_serves_what_it_can(client, refused):
    texts = [TEXT, " ", OTHER, "x" * 5001]
    asked = {"texts": texts, "num_return_sequences": 2, "seed": 1}
    refused(client.post("/augment_batch", json=asked), 400, "invalid_argument", "texts[1]")
    answer = client.post("/augment_batch", json={**asked, "partial": True, "grouped": True})
    assert answer.status_code == 200, answer.text
    id, answer = answer.headers["x-request-id"], answer.json()
    assert list(map(len, answer["augmented_texts"])) == list(map(len, answer["finish_reasons"])) == [2, 0, 2, 0]
    assert "exhausted" not in answer, "what failed is no text without other words"
    assert [(each["index"], each["error"]["code"]) for each in answer["errors"]] == [
        (1, "invalid_argument"),
        (3, "too_large"),
    ]
    for each in answer["errors"]:
        error = each["error"]
        assert set(error) == {"code", "type", "param", "message", "request_id"}
        assert error["param"] == f"texts[{each['index']}]" and error["message"].startswith(error["param"])
        assert error["request_id"] == id
    flat = client.post("/augment_batch", json={**asked, "partial": True}).json()
    assert flat["counts"] == [2, 0, 2, 0] and len(flat["augmented_texts"]) == 4
    whole = client.post("/augment_batch", json={**asked, "texts": [TEXT], "partial": True}).json()
    assert whole["errors"] == [] and len(whole["augmented_texts"]) == 2


def test_partial_with_probabilities(client):
    asked = {"texts": [TEXT, " "], "task": "sentiment", "return_probabilities": True, "partial": True}
    answer = client.post("/augment_batch", json=asked).json()
    assert len(answer["probabilities"][0]) == 2 and answer["probabilities"][1] is None


def test_what_is_wrong_with_a_whole_request_is_no_matter_of_a_text(client, refused):
    asked = {"texts": [TEXT], "partial": True}
    refused(client.post("/augment_batch", json={**asked, "top_p": 2}), 400, "invalid_argument", "top_p")
    refused(client.post("/augment_batch", json={**asked, "texts": ["a"] * 257}), 413, "too_large", "texts")


def test_what_the_model_cannot_read_is_told(client):
    (warning,) = augment(client, text="今天天气很好。")["warnings"]
    assert warning["code"] == "unreadable_script" and "English" in warning["message"] and "index" not in warning
    for text in (TEXT, "今天 is today", "12:30 🎉"):
        assert "warnings" not in augment(client, text=text, temperature=0)
    asked = {"texts": [TEXT, "Привет", " ", "今天"], "partial": True, "temperature": 0}
    answer = client.post("/augment_batch", json=asked).json()
    assert [warning["index"] for warning in answer["warnings"]] == [1, 3]
    # The languages are those of the service's model, not those of the tasks' other one.
    assert "warnings" not in augment(client, text="今天天气很好。", task="title", max_length=4)


def test_a_text_too_long_for_a_task_is_told_in_characters(own_gateway, refused):
    config = (
        '[augment]\nmodel = "paraphrase-en"\n'
        '[augment.tasks.portuguese]\nmodel = "translate-en-pt"\nprompt = "{{ text }}"\n'
    )
    text = "The museum near the river is old. " * 147
    with own_gateway(config=config) as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
        assert client.get("/services").json()["augment"]["languages"] is None, "nobody says them"
        error = refused(client.post("/augment", json={"text": text, "task": "portuguese"}), 413, "too_large", "text")
        assert str(len(text)) in error["message"] and "characters" in error["message"]
        assert "token" not in error["message"]
        # A rewriting of the same text is done piece by piece.
        asked = {"text": text, "temperature": 0, "num_return_sequences": 1, "max_length": 2}
        assert client.post("/augment", json=asked).status_code == 200


def test_top_k_of_one_is_greedy(client):
    greedy = augment(client, text=TEXT, temperature=0, num_return_sequences=1)["augmented_texts"]
    assert augment(client, text=TEXT, top_k=1, num_return_sequences=1)["augmented_texts"] == greedy
    assert augment(client, text=TEXT, top_p=1e-6, num_return_sequences=1)["augmented_texts"] == greedy


def test_max_length_cuts(client):
    long = augment(client, text=TEXT, temperature=0, num_return_sequences=1)["augmented_texts"][0]
    short = augment(client, text=TEXT, temperature=0, num_return_sequences=1, max_length=4)["augmented_texts"][0]
    assert len(short.split()) <= 4 < len(long.split())


def test_repetition_penalty_changes_the_answer(client):
    plain = augment(client, text=TEXT, temperature=0, num_return_sequences=1)["augmented_texts"]
    penalized = augment(client, text=TEXT, temperature=0, num_return_sequences=1, repetition_penalty=5)
    assert penalized["augmented_texts"] != plain


def test_flat_and_grouped_hold_the_same(client):
    asked = {"texts": [TEXT, OTHER], "num_return_sequences": 2, "seed": 3}
    grouped = batch(client, grouped=True, **asked)
    assert [len(group) for group in grouped] == [2, 2]
    assert batch(client, **asked) == grouped[0] + grouped[1]


def test_a_batch_of_many_keeps_its_order(client):
    texts = [f"The number of the house is {number}." for number in range(40)]
    answers = batch(client, texts=texts, temperature=0, num_return_sequences=1)
    assert len(answers) == 40
    assert all(str(number) in answer for number, answer in enumerate(answers)), answers


def test_a_label_is_the_answer(client):
    answer = augment(client, text=TEXT, task="classify", labels=TOPICS, return_probabilities=True)
    assert len(answer["augmented_texts"]) == 1 and answer["augmented_texts"][0] in TOPICS
    assert [row["label"] for row in answer["probabilities"]] == TOPICS
    assert sum(row["probability"] for row in answer["probabilities"]) == pytest.approx(1)


def test_labels_hold_however_hot(client):
    answer = augment(client, text=TEXT, task="classify", labels=TOPICS, temperature=2, num_return_sequences=8)
    assert len(answer["augmented_texts"]) == 8 and set(answer["augmented_texts"]) <= set(TOPICS)
    assert "probabilities" not in answer


def test_labels_of_any_script(client):
    labels = ["体育", "Política", "科学 & 技术", "🎉"]
    answer = augment(client, text="今天的比赛很精彩。", task="classify", labels=labels, return_probabilities=True)
    assert answer["augmented_texts"][0] in labels
    assert [row["label"] for row in answer["probabilities"]] == labels


def test_labels_of_the_configuration(client):
    answer = augment(client, text="What a wonderful day, I love it!", task="sentiment")
    assert answer["augmented_texts"][0] in ("positive", "negative")


def test_probabilities_of_a_batch(client):
    answer = client.post(
        "/augment_batch",
        json={"texts": [TEXT, OTHER], "task": "sentiment", "return_probabilities": True},
    ).json()
    assert len(answer["augmented_texts"]) == len(answer["probabilities"]) == 2
    for rows in answer["probabilities"]:
        assert [row["label"] for row in rows] == ["positive", "negative"]
        assert sum(row["probability"] for row in rows) == pytest.approx(1)


def test_a_task_is_greedy_and_gives_one_answer_unless_asked(client):
    first = augment(client, text=TEXT, task="title")["augmented_texts"]
    assert len(first) == 1 and augment(client, text=TEXT, task="title")["augmented_texts"] == first
    several = augment(client, text=TEXT, task="title", num_return_sequences=2, temperature=1.0)
    assert len(set(several["augmented_texts"])) == 2


@pytest.mark.parametrize("text", ["今天天气很好，我们去公园。", "😀👩‍👩‍👧‍👦 e\u0301", "a\u0000b", "\ufeffHello there."])
def test_any_text_is_taken(client, text):
    assert len(augment(client, text=text, temperature=0)["augmented_texts"]) == 3


@pytest.mark.parametrize(
    "change, param",
    [
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"num_return_sequences": 21}, "num_return_sequences"),
        ({"num_return_sequences": 1.5}, "num_return_sequences"),
        ({"num_return_sequences": "3"}, "num_return_sequences"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1001}, "top_k"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": 1025}, "max_length"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 11}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"task": "sing"}, "task"),
        ({"task": 3}, "task"),
        ({"text": ["a"]}, "text"),
        ({"text": ""}, "text"),
        ({"text": " \n\t"}, "text"),
        ({"texts": ["a"]}, "texts"),
        ({"grouped": True}, "grouped"),
        ({"partial": True}, "partial"),
        ({"labels": ["a"]}, "labels"),
        ({"answer": "a"}, "answer"),
        ({"tgt_lang": "pt"}, "tgt_lang"),
        ({"return_probabilities": True}, "return_probabilities"),
        ({"return_probabilities": "yes"}, "return_probabilities"),
        ({"temprature": 1}, "temprature"),
        ({"task": "classify"}, "labels"),
        ({"task": "classify", "labels": []}, "labels"),
        ({"task": "classify", "labels": ["a", "a"]}, "labels"),
        ({"task": "classify", "labels": ["a", " "]}, "labels"),
        ({"task": "classify", "labels": ["a", 1]}, "labels[1]"),
        ({"task": "classify", "labels": ["x" * 201]}, "labels"),
        ({"task": "classify", "labels": [str(index) for index in range(257)]}, "labels"),
        ({"task": "sentiment", "labels": ["a"]}, "labels"),
    ],
)
def test_what_is_wrong_is_refused_by_name(client, refused, change, param):
    answer = client.post("/augment", json={"text": TEXT, **change})
    error = refused(answer, 400, "invalid_argument", param)
    assert error["message"].startswith(f"{param}: ") and "\n" not in error["message"]


def test_an_unknown_task_is_told_the_known(client, refused):
    error = refused(client.post("/augment", json={"text": TEXT, "task": "sing"}), 400, "invalid_argument", "task")
    assert all(name in error["message"] for name in ("rewrite", "classify", "sentiment", "title", "summary"))


def test_no_text_at_all(client, refused):
    refused(client.post("/augment", json={}), 400, "invalid_argument", "text")
    refused(client.post("/augment_batch", json={}), 400, "invalid_argument", "texts")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"3", b'{"text": "a"} {}', b'{"text": "\xff"}', b'{"text": "\\ud800"}', b"\xff\xfe", b"[" * 5000],
)
def test_what_is_no_json_object_is_refused(client, refused, body):
    answer = client.post("/augment", content=body)
    refused(answer, 400, "invalid_argument", answer.json()["error"]["param"])


def test_the_byte_that_is_not_utf_8_is_named(client, refused):
    error = refused(client.post("/augment", content=b'{"text": "\xff"}'), 400, "invalid_argument")
    assert "byte 10" in error["message"]


def test_a_text_beyond_its_limit(client, refused):
    asked = {"text": "é" * 5000, "temperature": 0, "num_return_sequences": 1, "max_length": 1}
    assert client.post("/augment", json=asked).status_code == 200
    error = refused(client.post("/augment", json={"text": "é" * 5001}), 413, "too_large", "text")
    assert "5001" in error["message"] and "5000" in error["message"]


def test_a_body_beyond_its_limit(client, refused):
    error = refused(client.post("/augment", json={"text": "x" * (1 << 20)}), 413, "too_large")
    assert "1048576" in error["message"]


def test_too_many_texts_and_none(client, refused):
    error = refused(client.post("/augment_batch", json={"texts": ["a"] * 257}), 413, "too_large", "texts")
    assert "257" in error["message"] and "256" in error["message"]
    refused(client.post("/augment_batch", json={"texts": []}), 400, "invalid_argument", "texts")


@pytest.mark.parametrize("texts, status, code", [(["a", " "], 400, "invalid_argument"), (["a", "x" * 5001], 413, "too_large")])
def test_an_error_in_a_batch_names_the_text(client, refused, texts, status, code):
    refused(client.post("/augment_batch", json={"texts": texts}), status, code, "texts[1]")


def test_a_batch_takes_no_single_text(client, refused):
    refused(client.post("/augment_batch", json={"text": "a", "texts": ["a"]}), 400, "invalid_argument", "text")
    refused(client.post("/augment_batch", json={"texts": ["a", 3]}), 400, "invalid_argument", "texts[1]")


def test_the_content_type_does_not_matter(client):
    answer = client.post("/augment", content=b'{"text": "The cat sleeps."}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 200
