"""`mt5-augment` and `hunyuan-mt` serve both services by configuration alone. Their weights cannot be had here: other
models stand in the project's own entries, so that what is tested is how they are asked."""

import pytest

from harness import places, program
from harness.gateway import DEMO, Gateway
from harness.repository import Repository
from harness.server import TritonServer

CONFIG = DEMO.with_name("mt5-hunyuan.toml")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own-models")
    repository = Repository(folder / "repository")
    hunyuan = program.convert(places.FIXTURES / "decoder" / "hunyuan", folder / "hunyuan")
    repository.add_committed("hunyuan-mt", artifact=hunyuan)
    repository.add_committed("mt5-augment")
    with TritonServer(repository.path, folder / "server.log") as server:
        with Gateway(server.grpc_port, folder / "gateway.log", config=CONFIG) as running:
            running.until_ready()
            yield running


def test_every_language_goes_into_every_other(gateway):
    _, services = gateway.get("/services")
    translate = services["translate"]
    assert translate["pairs"] is None and translate["ready"]
    codes = [language["code"] for language in translate["languages"]]
    assert len(codes) == 38 and {"zh", "zh-Hant", "yue", "bo", "ug"} <= set(codes)


@pytest.mark.parametrize("languages", [{"tgt_lang": "中文"}, {"src_lang": "zh_CN", "tgt_lang": "en"}, {"tgt_lang": "de"}])
def test_a_translation_names_its_languages_to_the_model(gateway, languages):
    status, answer = gateway.post("/translate", {"text": "hello", "max_length": 4, "temperature": 0, **languages})
    assert status == 200, answer
    assert answer["model"] == "hunyuan-mt" and answer["usage"]["output_tokens"] == 4
    # The prompt is the authors', with the language in it: more than the text alone.
    assert answer["usage"]["input_tokens"] > 20


def test_an_unknown_language_names_the_known(gateway):
    status, answer = gateway.post("/translate", {"text": "hello", "tgt_lang": "tlh"})
    assert status == 400
    assert answer["error"]["param"] == "tgt_lang" and "yue" in answer["error"]["message"]


def test_variants_are_sampled_by_the_model_itself(gateway):
    text = "The train was late because of the snow, and we waited for an hour."
    status, answer = gateway.post("/augment", {"text": text, "num_return_sequences": 4, "temperature": 1.2, "seed": 5})
    assert status == 200, answer
    assert len(set(answer["augmented_texts"])) == 4


def test_every_task_of_the_model_is_there(gateway):
    _, services = gateway.get("/services")
    names = {task["name"] for task in services["augment"]["tasks"]}
    assert names == {
        "rewrite", "classify", "keywords", "title", "summary", "aspects", "sentiment", "question", "translate",
    }
    assert all("model" not in task for task in services["augment"]["tasks"]), "one model does them all"
    languages = services["augment"]["languages"]
    assert [(language["code"], language["scripts"]) for language in languages] == [("zh", ["Han"]), ("en", ["Latin"])]
    needs = {"classify": {"labels": ["sport", "news"]}, "question": {"answer": "the snow"}}
    for name in names:
        asked = {"text": "It snows, and the road is closed.", "task": name, "max_length": 8, "seed": 5, **needs.get(name, {})}
        status, answer = gateway.post("/augment", asked)
        assert status == 200, (name, answer)
        assert len(answer["augmented_texts"]) == (3 if name == "rewrite" else 1)


@pytest.mark.parametrize("task", ["rewrite", "title"])
def test_what_no_language_of_the_model_is_written_in_is_told(gateway, task):
    texts = ["下雪了。", "It snows.", "Идёт снег.", "눈이 와요."]
    asked = {"texts": texts, "task": task, "temperature": 0, "num_return_sequences": 1, "max_length": 4}
    status, answer = gateway.post("/augment_batch", asked)
    assert status == 200, answer
    assert [warning["index"] for warning in answer["warnings"]] == [2, 3]


def test_a_classification_answers_with_a_label(gateway):
    labels = ["sport", "politics", "weather"]
    asked = {"texts": ["It snows.", "We won."], "task": "classify", "labels": labels, "return_probabilities": True}
    status, answer = gateway.post("/augment_batch", asked)
    assert status == 200, answer
    assert set(answer["augmented_texts"]) <= set(labels)
    for probabilities in answer["probabilities"]:
        assert [each["label"] for each in probabilities] == labels
        assert sum(each["probability"] for each in probabilities) == pytest.approx(1)


def test_a_label_is_told_in_the_spelling_of_the_request(gateway):
    """The model's tokenizer makes other marks of the full-width ones."""
    labels = ["sport！", "politics（home）", "ｗeather"]
    asked = {"text": "It snows.", "task": "classify", "labels": labels, "return_probabilities": True}
    status, answer = gateway.post("/augment", asked)
    assert status == 200, answer
    assert answer["augmented_texts"][0] in labels
    assert [each["label"] for each in answer["probabilities"]] == labels
    status, answer = gateway.post("/augment", {**asked, "labels": ["sport！", "sport!"]})
    assert status == 400 and "sport！" in answer["error"]["message"], answer
