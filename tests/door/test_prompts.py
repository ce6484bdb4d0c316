"""What a request's text becomes before the model sees it: prompt templates, languages, conversations, defaults."""

import json

import grpc
import pytest

from harness import places, program
from harness.grpc_door import error_code
from harness.http_door import tensor
from harness.repository import decoupled, parameters
from harness.texts import ENGLISH, OTHER_ENGLISH

HELLO = json.dumps([{"role": "user", "content": "Hello"}])
ENGLISH_TO_KLINGON = {"src_lang": "en", "tgt_lang": "tlh"}


def infer(http, model, text, **options):
    return http.infer_text(model, text, return_num_input_tokens=True, **options)


def refused(http, model, inputs, status=400):
    reply = http.infer(model, [tensor(name, value) for name, value in inputs.items()])
    assert reply.status == status, reply
    return reply.error


# Prompt templates and languages


@pytest.mark.parametrize(
    "options, prompt",
    [
        ({"src_lang": "en", "tgt_lang": "pt"}, "English > 葡萄牙语:\n"),
        ({"src_lang": "Português", "tgt_lang": "EN"}, "Portuguese > 英语:\n"),
        ({"src_lang": "pt_BR", "tgt_lang": "Klingon"}, "Portuguese > Klingon:\n"),
    ],
    ids=str,
)
def test_a_template_names_the_languages(http, options, prompt):
    texts = [ENGLISH, OTHER_ENGLISH]
    plain = infer(http, "whole", [prompt + text for text in texts])
    assert infer(http, "translating", texts, **options) == plain
    assert infer(http, "translating", texts, sampling_parameters=json.dumps(options)) == plain


def test_the_text_is_repeated_without_the_prompt(http):
    out = infer(http, "translating", ENGLISH, exclude_input_in_output=False, **ENGLISH_TO_KLINGON)["text_output"][0]
    assert out.startswith(ENGLISH)


@pytest.mark.parametrize("name", ["src_lang", "tgt_lang"])
@pytest.mark.parametrize("value", ["de", "xx", "english, portuguese", "x" * 10_000], ids=lambda value: value[:9])
def test_unknown_languages_are_refused_with_the_known_ones(http, name, value):
    error = refused(http, "translating", {"text_input": ENGLISH, **ENGLISH_TO_KLINGON, name: value})
    assert name in error and "en, pt, tlh" in error and len(error) < 500


def test_a_language_that_the_prompt_needs(http):
    error = refused(http, "translating", {"text_input": ENGLISH, "src_lang": "en"})
    assert "tgt_lang" in error and "en, pt, tlh" in error


@pytest.mark.parametrize("name", ["src_lang", "tgt_lang"])
def test_languages_without_a_template(http, name):
    error = refused(http, "whole", {"text_input": ENGLISH, name: "en"}, status=501)
    assert name in error and "prompt_template" in error


# Conversations


@pytest.mark.parametrize("model", ["whole", "translating"])
def test_conversations_need_a_chat_template(http, model):
    error = refused(http, model, {"messages": HELLO})
    assert "messages" in error and "chat template" in error and "text_input" in error
    error = refused(http, model, {"text_input": ENGLISH, "apply_chat_template": True})
    assert "apply_chat_template" in error and "chat template" in error


def test_no_chat_template_need_not_be_applied(http):
    assert infer(http, "whole", ENGLISH, apply_chat_template=False) == infer(http, "whole", ENGLISH)


@pytest.mark.parametrize("model", ["whole", "pieces"])
def test_a_text_or_a_conversation(http, model):
    reply = http.post(f"/v2/models/{model}/generate", {"text_input": ENGLISH, "messages": HELLO})
    assert reply.status == 400 and "text_input" in reply.error and "messages" in reply.error
    reply = http.post(f"/v2/models/{model}/generate", {"max_tokens": 3})
    assert reply.status == 400 and "text_input" in reply.error and "messages" in reply.error


@pytest.mark.parametrize(
    "messages, parts",
    [
        ("", ["JSON list"]),
        ("Hello", ["JSON list"]),
        ("[" * 2**19, ["JSON list"]),
        (json.dumps([[[[]]]]), ["message 0", "a list"]),
        ("{}", ["an object"]),
        ("[]", ["0 messages"]),
        (json.dumps([{"role": "user", "content": "a"}] * 1025), ["1025 messages"]),
        (json.dumps([{"role": "user", "content": "a"}, {"role": "user"}]), ["message 1", "content"]),
        (json.dumps([{"role": 7, "content": "a"}]), ["message 0", "role", "a number"]),
        (json.dumps([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]), ["part 0", "text"]),
        (json.dumps([{"role": "user", "content": "a", "tool_calls": []}]), ["tool_calls"]),
        ('[{"role": "user", "content": "\\ud800"}]', ["JSON list"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_conversation(http, messages, parts):
    error = refused(http, "whole", {"messages": [HELLO, messages]})
    assert "conversation 1" in error and len(error) < 500, error
    for part in parts:
        assert part in error, error


def test_a_conversation_of_a_megabyte(http):
    long = json.dumps([{"role": "user", "content": "a" * 2**20}])
    assert "max_input_bytes" in refused(http, "whole", {"messages": long})
    assert "chat template" in refused(http, "whole", {"messages": long[: 2**19] + '"}]'})


@pytest.mark.parametrize("raw", [b"\xff", b'[{"role": "user", "content": "\xc3"}]', b"[\x00]"], ids=str)
def test_a_conversation_of_noise(grpc_door, raw):
    request = grpc_door.request("whole", raw.decode("latin-1"))
    request.inputs[0].name = "messages"
    request.raw_input_contents[0] = len(raw).to_bytes(4, "little") + raw
    code, message = error_code(lambda: grpc_door.stub.ModelInfer(request, timeout=60))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "messages" in message


# Defaults of a model


def test_defaults_of_a_model_are_below_those_of_a_request(http):
    options = {"temperature": 2.0, "seed": 1, "max_tokens": 20}
    hot = infer(http, "hot", ENGLISH)
    assert hot == infer(http, "whole", ENGLISH, **options)
    assert hot != infer(http, "whole", ENGLISH)
    other = {"seed": 2, "max_length": 5}
    assert infer(http, "hot", ENGLISH, **other) == infer(http, "whole", ENGLISH, **{**options, "seed": 2, "max_tokens": 5})
    assert infer(http, "hot", ENGLISH, temperature=0.0) == infer(http, "whole", ENGLISH)


# The entries of model_repository


@pytest.mark.parametrize(
    "options, prompt",
    [
        ({"tgt_lang": "zh"}, "把下面的文本翻译成中文，不要额外解释。\n\n"),
        ({"tgt_lang": "zh-TW"}, "把下面的文本翻译成繁体中文，不要额外解释。\n\n"),
        ({"src_lang": "zh", "tgt_lang": "de"}, "把下面的文本翻译成德语，不要额外解释。\n\n"),
        ({"tgt_lang": "de"}, "Translate the following segment into German, without additional explanation.\n\n"),
        ({"src_lang": "en", "tgt_lang": "French"}, "Translate the following segment into French, without additional explanation.\n\n"),
    ],
    ids=str,
)
def test_the_prompts_of_hunyuan_mt(http, options, prompt):
    advised = {"temperature": 0.7, "top_k": 20, "top_p": 0.6, "repetition_penalty": 1.05}
    asked = {"seed": 5, "max_tokens": 20}
    expected = http.text("pieces", prompt + ENGLISH, **advised, **asked)
    assert http.text("hunyuan-mt", ENGLISH, **options, **asked) == expected


def test_hunyuan_mt_needs_a_language(http):
    reply = http.generate("hunyuan-mt", ENGLISH)
    assert reply.status == 400 and "tgt_lang" in reply.error


def test_mt5_augment_samples(http):
    sampled = {"temperature": 0.85, "top_p": 0.95, "top_k": 50, "max_tokens": 128}
    expected = http.text("pieces", ENGLISH, **sampled, seed=3)
    assert http.text("mt5-augment", ENGLISH, seed=3) == expected


# Configurations that cannot work


@pytest.mark.parametrize(
    "name, config, parts",
    [
        ("syntax", {"prompt_template": "a\n {{ text }"}, ["prompt_template", "line 2", "column"]),
        ("text", {"prompt_template": "a"}, ["prompt_template", "{{ text }}"]),
        ("list", {"prompt_template": "{{ tgt_lang.name }}{{ text }}", "languages": "en, klingon"}, ["languages", "klingon"]),
        ("tags", {"prompt_template": "<2{{ tgt_lang.code }}> {{ text }}", "languages": "pt"}, ["prompt_template", "<2pt>", "token"]),
        ("unused", {"languages": "en, de"}, ["languages", "prompt_template"]),
        ("json", {"sampling_parameters": "temperature=1"}, ["sampling_parameters", "JSON object"]),
        ("range", {"sampling_parameters": '{"top_p": 2}'}, ["sampling_parameters", "top_p", "2"]),
        ("unknown", {"sampling_parameters": '{"temprature": 1}'}, ["sampling_parameters", "temprature", "temperature"]),
        ("token", {"sampling_parameters": '{"end_id": 2000000000}'}, ["sampling_parameters", "end_id"]),
        ("language", {"sampling_parameters": '{"tgt_lang": "en"}'}, ["sampling_parameters", "tgt_lang"]),
        ("reuse", {"prefix_reuse": "maybe"}, ["prefix_reuse", "true or false"]),
    ],
    ids=str,
)
def test_a_bad_configuration_fails_its_load(explicit, name, config, parts):
    server, http, repository = explicit
    repository.add(name, decoupled(False) + parameters(**config))
    reply = http.load(name)
    server.assert_alive()
    assert reply.status >= 400 and not http.ready(name)
    for part in parts:
        assert part in reply.error, reply.error


def test_the_program_fills_an_entry_that_loads(explicit):
    server, http, repository = explicit
    entry = repository.path / "mine"
    (entry / "1").mkdir(parents=True)
    config = 'backend: "textgen"\n' + decoupled(False) + parameters(max_request_sequences=1)
    (entry / "config.pbtxt").write_text(config, encoding="utf-8")
    program.run("convert", places.checkpoint("en-pt"), "--repository", repository.path, "--name", "mine")
    assert http.load("mine").status == 200
    assert (entry / "config.pbtxt").read_text(encoding="utf-8") == config
    assert http.infer_text("mine", ENGLISH)["text_output"] == ["O gato dorme no sofá."]
    assert "max_request_sequences" in refused(http, "mine", {"text_input": [ENGLISH, ENGLISH]})
