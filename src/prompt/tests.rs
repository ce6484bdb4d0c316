//! Templates, conversations and languages.

use std::{borrow::Cow, collections::BTreeMap, fs, path::Path, sync::Arc};

use serde_json::{Map, Value, json};
use textgen_languages::Languages;

use super::*;
use crate::{
    error::{Error, ErrorKind},
    tokenizer::{MARK, without_marks},
};

fn chat(source: &str) -> ChatTemplate {
    ChatTemplate::compile(source.to_owned(), BTreeMap::new()).unwrap()
}

fn conversation(messages: Value) -> Conversation {
    Conversation::from_json(messages).unwrap()
}

fn hello() -> Conversation {
    conversation(json!([{"role": "user", "content": "Hello"}]))
}

fn rendered(source: &str) -> String {
    chat(source).render(&hello()).unwrap()
}

fn template(source: &str) -> PromptTemplate {
    PromptTemplate::compile(source, Languages::default()).unwrap()
}

fn between(src_lang: Option<&str>, tgt_lang: Option<&str>) -> PromptOptions {
    PromptOptions {
        apply_chat_template: None,
        src_lang: src_lang.map(str::to_owned),
        tgt_lang: tgt_lang.map(str::to_owned),
        chat_template_kwargs: Map::new(),
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, parts: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
    for part in parts {
        assert!(error.message.contains(part), "{part:?} is not in: {error}");
    }
    assert!(error.message.len() < 600, "{error}");
}

// Chat templates

/// The template of SmolLM2, as it is published.
const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
     {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
     {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

#[test]
fn smollm2_asks_as_it_was_trained() {
    assert_eq!(
        rendered(SMOLLM2),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn blocks_and_blanks_are_as_in_transformers() {
    assert_eq!(rendered("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
    assert_eq!(rendered("{{ bos_token }}x{{ nothing }}"), "x");
    assert_eq!(
        rendered("{{ tools is none }} {{ tools is defined }} {{ documents is none }}"),
        "True True True"
    );
    assert_eq!(rendered("{{ messages[0].content }} {{ messages[-1]['role'].upper() }}"), "Hello USER");
    assert_eq!(rendered("{% for m in messages %}{% break %}{% endfor %}{{ '<b>&' }}"), "<b>&");
}

#[test]
fn marks_of_training_data_change_nothing() {
    let template = |begin: &str, end: &str| format!("a \n{begin}\n b {{{{ 1 }}}} {{{{ '{{%' }}}}\n{end}\n c");
    for (begin, end, begin_if, end_if) in [
        ("{% generation %}", "{% endgeneration %}", "{% if true %}", "{% endif %}"),
        ("{%- generation -%}", "{%- endgeneration -%}", "{%- if true -%}", "{%- endif -%}"),
        ("{%-generation%}", "{%endgeneration -%}", "{%- if true %}", "{% endif -%}"),
    ] {
        assert_eq!(rendered(&template(begin, end)), rendered(&template(begin_if, end_if)), "{begin}");
    }
}

#[test]
fn special_tokens_have_their_names() {
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    let template = ChatTemplate::compile("{{ bos_token }}{{ eos_token }}".to_owned(), tokens).unwrap();
    assert_eq!(template.render(&hello()).unwrap(), "<s>");
}

#[test]
fn json_is_written_as_python_writes_it() {
    for (expression, json) in [
        (
            "{'b': [1, 'é中\\n\"', none, true], 'a': {}} | tojson",
            "{\"b\": [1, \"é中\\n\\\"\", null, true], \"a\": {}}",
        ),
        ("messages | tojson", r#"[{"role": "user", "content": "Hello"}]"#),
        ("'<&>' | tojson(ensure_ascii=false)", "\"<&>\""),
        ("{'a': [1, 2], 'b': []} | tojson(indent=2)", "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": []\n}"),
    ] {
        assert_eq!(rendered(&format!("{{{{ {expression} }}}}")), json, "{expression}");
    }
    refused(chat("{{ 1 | tojson(sorted=true) }}").render(&hello()), &["sorted"]);
}

/// `tests/fixtures/jinja/make.py` asked Jinja itself, set up as transformers sets it up.
#[test]
fn templates_are_read_as_jinja_reads_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jinja/expressions.json");
    let cases: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.len() > 60);
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let got = ChatTemplate::compile(source.to_owned(), BTreeMap::new())
            .and_then(|template| template.render(&hello()))
            .map_err(|error| error.message);
        match case["expected"].as_str() {
            Some(expected) => assert_eq!(got.as_deref(), Ok(expected), "{source}"),
            None => assert!(got.is_err(), "{source}: got {got:?}, expected {}", case["error"]),
        }
    }
}

#[test]
fn what_is_written_otherwise_for_the_compiler_keeps_its_lines() {
    let source = "{% macro f(a) %}\n{{ varargs }}\n{% endmacro %}\n{{ 5 % 3 }}\n{{ 'a' % b }}{{ c[ }}";
    refused(ChatTemplate::compile(source.to_owned(), BTreeMap::new()), &["line 5"]);
    refused(chat("a\r\nb\rc {{ 'x' % 5 }}").render(&hello()), &["line 3", "%"]);
    refused(chat("{{ '%99999999999d' % 1 }}").render(&hello()), &[]);
    refused(chat("{{ 'x'.zfill(99999999999) }}").render(&hello()), &["too long"]);
    for expression in [
        "'x'.center(99999999999)",
        "'\\t\\t'.expandtabs(9223372036854775807)",
        "'\\t'.expandtabs(99999999999)",
        "'x' | indent(99999999999)",
        "'%*d' % (99999999999, 1)",
        "'x' * 99999999999",
        "'{:>99999999999}'.format('x')",
        "'{:.99999999999f}'.format(1.5)",
        "'{:{>99999999999}{:}>99999999999}'.format('x', 'y')",
        "'{a:>99999999999}'.format_map({'a': 1})",
    ] {
        refused(chat(&format!("{{{{ {expression} }}}}")).render(&hello()), &["too long"]);
    }
    assert_eq!(rendered("{{ '{:>3} 99999999999'.format('x') }}"), "  x 99999999999");
    // One of these costs little, all of them do not.
    let maps = "{% for a in range(9999) %}{% set b = '{a:>99999}'.format_map({'a': 1}) %}{% endfor %}";
    refused(chat(maps).render(&hello()), &["too long"]);
    assert_eq!(rendered("{{ '%*d|%-*s|%.*f' % (5, 3, 3, 'a', 1, 0.25) }}"), "    3|a  |0.2");
    assert_eq!(rendered("{{ '%*s%r' % (3, 'a', 'b') }}"), "  a'b'");
    refused(chat("{{ '%*d' % (5, 3, 1) }}").render(&hello()), &["3 values for 2 places"]);
}

#[test]
fn the_date_is_written_as_python_writes_it() {
    let year: i32 = rendered("{{ strftime_now('%Y') }}").parse().unwrap();
    assert!(year >= 2024, "{year}");
    assert_eq!(rendered("{{ strftime_now('%d %b %Y') }}").len(), "26 Jul 2024".len());
    assert_eq!(rendered("{{ strftime_now('100%%') }}"), "100%");
    refused(chat("{{ strftime_now('%!') }}").render(&hello()), &["strftime_now"]);
}

#[test]
fn a_template_that_raises_says_why() {
    let template = chat("{{ raise_exception('Roles must alternate') }}");
    refused(template.render(&hello()), &["refuses the conversation: Roles must alternate"]);
    let whole = chat("{{ raise_exception(messages[0].content) }}");
    refused(whole.render(&Conversation::of_user("x".repeat(1 << 20))), &["refuses", "xxx…"]);
}

#[test]
fn a_damaged_template_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat_template.jinja");
    fs::write(&file, "first\n{% if messages %}\n  {{ messages[ }}\n{% endif %}").unwrap();
    refused(ChatTemplate::load(&file, BTreeMap::new()), &["chat_template.jinja", "line 3", "column"]);
    fs::write(&file, b"\xff").unwrap();
    refused(ChatTemplate::load(&file, BTreeMap::new()), &["chat_template.jinja"]);
    let missing = ChatTemplate::load(&folder.path().join("nothing"), BTreeMap::new()).unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
}

#[test]
fn a_template_that_does_too_much_is_stopped() {
    let loops = "{% for a in range(9999) %}".repeat(3) + "x" + &"{% endfor %}".repeat(3);
    refused(chat(&loops).render(&hello()), &["too long"]);
    let doubles = format!(
        "{{% set ns = namespace(s='x') %}}{}{{{{ ns.s }}}}",
        "{% set ns.s = ns.s + ns.s %}".repeat(40)
    );
    refused(chat(&doubles).render(&hello()), &["too long"]);
    refused(chat("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").render(&hello()), &["recursion"]);
}

#[test]
fn a_long_conversation_is_no_excess() {
    let text = "word ".repeat(200);
    let messages: Vec<Value> = (0..1024)
        .map(|index| json!({"role": if index % 2 == 0 { "user" } else { "assistant" }, "content": text}))
        .collect();
    let prompt = chat(SMOLLM2).render(&conversation(Value::Array(messages))).unwrap();
    assert!(prompt.len() > 1 << 20);
}

// Conversations

#[test]
fn parts_of_text_are_one_text() {
    let parts = json!([{"role": "user", "content": [
        {"type": "text", "text": "a "}, {"text": "b", "type": "text"},
    ]}]);
    let whole = json!([{"role": "user", "content": "a b"}]);
    assert_eq!(conversation(parts), conversation(whole));
    assert_eq!(
        conversation(json!([{"role": "user", "content": []}])),
        conversation(json!([{"role": "user", "content": ""}]))
    );
}

#[test]
fn what_is_no_conversation_is_refused_with_its_place() {
    let user = json!({"role": "user", "content": "a"});
    for (messages, parts) in [
        (json!({}), &["an object", "JSON list"][..]),
        (json!("text"), &["another string", "JSON list"]),
        (json!([]), &["0 messages", "1 to 1024"]),
        (json!(vec![user.clone(); 1025]), &["1025 messages"]),
        (json!([user, 7]), &["message 1", "a number", "role"]),
        (json!([user, {"content": "a"}]), &["message 1", "`role`", "nothing"]),
        (json!([{"role": 1, "content": "a"}]), &["message 0", "`role`", "a number"]),
        (json!([{"role": "user"}]), &["`content`", "nothing"]),
        (json!([{"role": "user", "content": null}]), &["`content`", "null"]),
        (json!([{"role": "user", "content": {"text": "a"}}]), &["`content`", "an object"]),
        (json!([{"role": "user", "content": ["a"]}]), &["`content`", "part 0", "another string", "text"]),
        (json!([{"role": "user", "content": [{"type": "image", "url": "x"}]}]), &["part 0", "only text"]),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), &["part 0", "`text`", "nothing"]),
        (json!([{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]), &["`x`"]),
        (json!([{"role": "user", "content": "a", "tool_calls": []}]), &["message 0", "`tool_calls`"]),
    ] {
        refused(Conversation::from_json(messages), parts);
    }
    for json in ["", "[", "[{\"role\": \"user\", \"content\": \"\\ud83d\"}]", &"[".repeat(1 << 20)] {
        refused(Conversation::parse(json), &["JSON list of messages"]);
    }
}

// Prompt templates

#[test]
fn a_prompt_names_the_languages() {
    let template =
        template("{{ src_lang.name }} to {{ tgt_lang.chinese }} ({{ tgt_lang.code }}):\n{{ text }}\n");
    let prompt = template.render("  Hello ", &between(Some("EN"), Some("german"))).unwrap();
    assert_eq!(prompt, "English to 德语 (de):\n  Hello \n");
    assert!(template.uses_languages());
}

#[test]
fn a_language_may_be_optional() {
    let template = template(
        "{% if src_lang is defined %}{{ src_lang.code }} {% endif %}{{ tgt_lang.code }}: {{ text }}",
    );
    assert_eq!(template.render("a", &between(None, Some("de"))).unwrap(), "de: a");
    assert_eq!(template.render("a", &between(Some("en"), Some("de"))).unwrap(), "en de: a");
    refused(template.render("a", &between(Some("en"), None)), &["tgt_lang", "known languages are zh, en"]);
    refused(template.render("a", &between(Some("xx"), Some("de"))), &["src_lang", "\"xx\"", "zh, en"]);
}

#[test]
fn a_language_without_a_place_is_refused() {
    let error =
        template("{{ tgt_lang.name }}{{ text }}").render("a", &between(Some("en"), Some("de"))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("src_lang") && error.message.contains("prompt_template"), "{error}");
}

#[test]
fn a_language_whose_tag_is_no_token_is_refused() {
    let is_token = |tag: &str| ["<2pt>", "<2zh_Hant>"].contains(&tag);
    let limited = |source: &str| template(source).with_known_tags(is_token);
    let to = |language: &str| PromptOptions { tgt_lang: Some(language.into()), ..PromptOptions::default() };
    let madlad = limited("<2{{ tgt_lang.code }}> {{ text }}").unwrap();
    assert_eq!(madlad.render("Hello <2en>", &to("pt_BR")).unwrap(), "<2pt> Hello <2en>");
    for language in ["en", "zh-TW"] {
        let error = madlad.render("Hello", &to(language)).unwrap_err();
        assert!(error.message.ends_with("expected a language of this model: pt"), "{error}");
    }
    let spelled = limited("<2{{ tgt_lang.code | replace('-', '_') }}> {{ text }}").unwrap();
    assert_eq!(spelled.render("Hello", &to("zh-TW")).unwrap(), "<2zh_Hant> Hello");
    refused(limited("<2{{ tgt_lang.name }}> {{ text }}"), &["prompt_template", "<2Chinese>"]);
    for other in ["{{ text }} <2", "{{ tgt_lang.code }}: 1 <2 > {{ text }}", "{{ text }}"] {
        assert!(limited(other).is_ok(), "{other}");
    }
}

#[test]
fn a_prompt_template_is_checked() {
    for (source, parts) in [
        ("{{ text }", &["line 1", "column"][..]),
        ("\n\n{% if text %}", &["line 3"]),
        ("no place for it", &["text"]),
    ] {
        refused(PromptTemplate::compile(source, Languages::default()), parts);
    }
    refused(
        template("{{ text }}{{ txet }}").render("a", &PromptOptions::default()),
        &["line 1", "undefined"],
    );
}

// Arguments of chat templates

/// As Qwen3's template asks whether to think.
const THINKS: &str = "{{ messages[0].content }}{% if add_generation_prompt %}|{% if enable_thinking is defined and \
     enable_thinking is false %}<think></think>{% endif %}{% endif %}";

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn arguments_are_variables_of_the_template() {
    let template = chat(THINKS);
    let render = |arguments| template.render_with(&hello(), &object(arguments)).unwrap();
    assert_eq!(render(json!({})), "Hello|");
    assert_eq!(render(json!({"enable_thinking": true})), "Hello|");
    assert_eq!(render(json!({"enable_thinking": false})), "Hello|<think></think>");
    assert_eq!(render(json!({"add_generation_prompt": false})), "Hello");
    let defaults = chat("{% set date = date | default('today') %}{{ date }} {{ more.a[0] }}");
    let arguments = object(json!({"date": "1 May", "more": {"a": ["x"]}}));
    defaults.check(&arguments).unwrap();
    assert_eq!(defaults.render_with(&hello(), &arguments).unwrap(), "1 May x");
}

#[test]
fn arguments_that_would_change_nothing_are_refused_by_name() {
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    let source = format!(
        "{{{{ bos_token }}}}{{% set mine = 1 %}}{{{{ mine }}}}{{{{ tools }}}}{{{{ range(2) }}}}{THINKS}"
    );
    let template = ChatTemplate::compile(source, tokens).unwrap();
    for (name, value) in [
        ("enable_thonking", json!(false)),
        ("mine", json!(2)),
        ("messages", json!([])),
        ("tools", json!([])),
        ("documents", json!([])),
        ("bos_token", json!("x")),
        ("range", json!(1)),
        ("raise_exception", json!(1)),
        ("add_generation_prompt", json!("no")),
        ("add_generation_prompt", json!(null)),
    ] {
        let name_of = format!("chat_template_kwargs.{name}: ");
        refused(template.check(&object(json!({name: value}))), &[&name_of]);
    }
    template.check(&object(json!({"enable_thinking": null, "add_generation_prompt": true}))).unwrap();
    let asks = chat(
        "{% if not a is defined %}{% set a = 1 %}{% endif %}{% set b = b or 2 %}{% for c in c %}{{ c }}{% endfor %}\
         {% macro m(d, e=f) %}{{ d }}{{ h is defined }}{% endmacro %}{{ dict(g=i) | default(j) }}{{ x.k }}",
    );
    for name in ["a", "b", "c", "f", "h", "i", "j", "x"] {
        asks.check(&object(json!({name: 1}))).unwrap();
    }
    for name in ["d", "e", "g", "k", "m", "defined", "default", "set"] {
        refused(asks.check(&object(json!({name: 1}))), &[name]);
    }
    let own = chat(
        "{% for x in y if x and z %}{{ loop.index }}{% endfor %}{{ true and False or none == None }}{{ self }}\
         {% with p = a, q = b %}{{ p }}{{ q }}{% endwith %}\
         {% macro m(t, u=1) %}{{ t }}{{ u }}{{ caller(1) }}{% endmacro %}{% call(v, w=c) m(d) %}{{ v }}{{ w }}{% endcall %}\
         {% filter upper %}{% endfilter %}{% set g, h = 1, 2 %}{{ g }}{{ h }}{{ e is defined }}",
    );
    for name in ["y", "z", "a", "b", "c", "d", "e"] {
        own.check(&object(json!({name: 1}))).unwrap();
    }
    for name in [
        "x", "loop", "true", "True", "false", "False", "none", "None", "self", "p", "q", "m", "t", "u",
        "caller", "v", "w", "upper", "g", "h", "is", "defined",
    ] {
        refused(own.check(&object(json!({name: 1}))), &[name]);
    }
    let always = chat("{{ messages[0].content }}|");
    always.check(&object(json!({"add_generation_prompt": true}))).unwrap();
    refused(always.check(&object(json!({"add_generation_prompt": false}))), &["add_generation_prompt"]);
}

// All together

fn text(text: &str) -> PromptInput {
    PromptInput::Text(text.to_owned())
}

/// Shows what went through it.
fn shown(text: &str) -> Result<Cow<'_, str>, Error> {
    Ok(Cow::Owned(format!("`{text}`")))
}

/// Every text has a mark behind its first character.
fn marked(text: &str) -> Result<Cow<'_, str>, Error> {
    Ok(Cow::Owned(format!("{}{MARK}{}", &text[..1], &text[1..])))
}

fn unchanged(text: &str) -> Result<Cow<'_, str>, Error> {
    Ok(Cow::Borrowed(text))
}

fn prompt(prompts: &Prompts, input: &PromptInput, options: &PromptOptions) -> (String, bool) {
    let prompt = prompts.build(input, options, &unchanged).unwrap();
    (prompt.text, prompt.has_special_tokens)
}

fn prompts(chat: Option<ChatTemplate>, template: Option<Arc<PromptTemplate>>) -> Prompts {
    Prompts::new(chat, PromptSettings { template, ..PromptSettings::default() }).unwrap()
}

#[test]
fn a_chat_model_takes_texts_for_turns_unless_told_otherwise() {
    let around = Some(Arc::new(template("{{ tgt_lang.code }} {{ text }}")));
    let prompts = prompts(Some(chat("[{{ messages[0].content }}]")), around);
    let mut options = between(None, Some("de"));
    assert_eq!(prompt(&prompts, &text("a"), &options), ("[de a]".into(), true));
    options.apply_chat_template = Some(false);
    assert_eq!(prompt(&prompts, &text("a"), &options), ("de a".into(), false));
    let conversation = PromptInput::Conversation(hello());
    assert_eq!(prompt(&prompts, &conversation, &PromptOptions::default()), ("[Hello]".into(), true));
    refused(prompts.build(&conversation, &options, &unchanged), &["apply_chat_template"]);
    refused(prompts.build(&conversation, &between(Some("en"), None), &unchanged), &["src_lang"]);
}

#[test]
fn a_plain_model_takes_texts_as_they_are() {
    let prompts = Prompts::default();
    assert_eq!(prompt(&prompts, &text(" a"), &PromptOptions::default()), (" a".into(), false));
    let told = |apply| PromptOptions { apply_chat_template: Some(apply), ..PromptOptions::default() };
    assert_eq!(prompt(&prompts, &text(" a"), &told(false)), (" a".into(), false));
    refused(prompts.build(&text("a"), &told(true), &unchanged), &["apply_chat_template", "no chat template"]);
    refused(
        prompts.build(&PromptInput::Conversation(hello()), &PromptOptions::default(), &unchanged),
        &["messages", "no chat template", "text_input"],
    );
    let error = prompts.build(&text("a"), &between(Some("en"), None), &unchanged).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("src_lang") && error.message.contains("prompt_template"), "{error}");
}

#[test]
fn a_request_s_arguments_win_over_the_entry_s_key_by_key() {
    let source = "{{ messages[0].content }} {{ a }} {{ b }}";
    let settings =
        PromptSettings { chat_template_kwargs: object(json!({"a": 1, "b": 1})), ..PromptSettings::default() };
    let prompts = Prompts::new(Some(chat(source)), settings.clone()).unwrap();
    let asked =
        |arguments| PromptOptions { chat_template_kwargs: object(arguments), ..PromptOptions::default() };
    for input in [text("Hello"), PromptInput::Conversation(hello())] {
        assert_eq!(prompt(&prompts, &input, &asked(json!({}))).0, "Hello 1 1");
        assert_eq!(prompt(&prompts, &input, &asked(json!({"b": 2}))).0, "Hello 1 2");
        refused(prompts.build(&input, &asked(json!({"c": 2})), &unchanged), &["chat_template_kwargs.c"]);
    }
    let mut raw = asked(json!({"a": 2}));
    raw.apply_chat_template = Some(false);
    refused(prompts.build(&text("a"), &raw, &unchanged), &["chat_template_kwargs", "apply_chat_template"]);
    let refuses = prompts.build(&text("Hello"), &asked(json!({"a": ["x"]})), &|text| match text {
        "x" => Err(Error::invalid_argument("the text is refused")),
        _ => Ok(Cow::Borrowed(text)),
    });
    refused(refuses, &["chat_template_kwargs.a: the text is refused"]);
    raw.chat_template_kwargs.clear();
    assert_eq!(prompt(&prompts, &text("a"), &raw).0, "a");

    refused(
        Prompts::new(Some(chat("{{ a }}")), settings.clone()),
        &["configuration key", "chat_template_kwargs.b"],
    );
    refused(Prompts::new(None, settings), &["configuration key `chat_template_kwargs`", "no chat template"]);
    refused(Prompts::default().build(&text("a"), &asked(json!({"a": 1})), &unchanged), &["no chat template"]);
}

#[test]
fn what_a_client_writes_is_guarded_and_what_a_template_writes_is_not() {
    let conversation = PromptInput::Conversation(hello());
    let around = || Some(Arc::new(template("<s>{{ text }}")));
    let speaks = || Some(chat("[{{ messages[0].role }} {{ messages[0].content }}{{ a | tojson }}]"));
    let options = PromptOptions {
        chat_template_kwargs: object(json!({"a": {"k": ["v", 1]}})),
        ..PromptOptions::default()
    };
    let raw = PromptOptions { apply_chat_template: Some(false), ..PromptOptions::default() };
    let plain = PromptOptions::default();
    for (prompts, input, options, expected) in [
        (prompts(speaks(), None), &conversation, &options, "[`user` `Hello`{\"`k`\": [\"`v`\", 1]}]"),
        (prompts(speaks(), around()), &text("a"), &options, "[user <s>`a`{\"`k`\": [\"`v`\", 1]}]"),
        (prompts(speaks(), around()), &text("a"), &raw, "<s>`a`"),
        (prompts(None, around()), &text("a"), &plain, "<s>`a`"),
        (prompts(speaks(), None), &text("a"), &raw, "a"),
        (prompts(None, None), &text("a"), &plain, "a"),
    ] {
        let prompt = prompts.build(input, options, &shown).unwrap();
        assert_eq!((&*prompt.text, prompt.is_guarded), (expected, expected.contains('`')));
    }
    // However a template writes a text, its marks stay marks.
    let written =
        "{{ m | tojson }}{{ m | tojson(true) }}{{ [m] }}{{ '%r%s' % (m, m) }}{{ m | trim | upper | e }}";
    let written = chat(&format!("{{% set m = messages[0].content %}}{written}"));
    let prompt = prompts(Some(written), None).build(&conversation, &plain, &marked).unwrap();
    assert_eq!(without_marks(&prompt.text), "\"Hello\"\"Hello\"['Hello']'Hello'HelloHELLO");
    assert_eq!(prompt.text.matches(MARK).count(), 6);
    let parses =
        PromptSettings { parse_special_tokens: true, template: around(), ..PromptSettings::default() };
    let prompt = Prompts::new(speaks(), parses).unwrap().build(&text("a"), &options, &shown).unwrap();
    assert_eq!((&*prompt.text, prompt.is_guarded), ("[user <s>a{\"k\": [\"v\", 1]}]", false));
}
