//! Names, types and ranges of every option, and what they resolve to with a model's defaults.

use std::path::Path;

use serde_json::json;
use textgen_artifact::{TOKENIZER_FILE, TokenizerSpec};
use textgen_convert::sentencepiece::{SentencePiece, TokenizerOptions};

use super::*;
use crate::{decoding::ChoiceGuide, error::ErrorKind};

fn spec() -> GenerationSpec {
    GenerationSpec {
        decoder_start_token_id: Some(0),
        eos_token_ids: vec![1],
        pad_token_id: Some(0),
        suppress_tokens: vec![3],
        max_new_tokens: Some(100),
        max_new_tokens_per_source_token: None,
        do_sample: false,
        temperature: None,
        top_k: None,
        top_p: None,
        min_p: None,
        repetition_penalty: None,
    }
}

/// Words of which one has another token at the start of a word than within one.
fn tokenizer() -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let json = json!({
        "version": "1.0", "added_tokens": [],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": " ?[a-z]+"}, "behavior": "Isolated", "invert": false},
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "</s>": 1, "bad": 2, " bad": 3, "good": 4}},
    });
    std::fs::write(dir.path().join(TOKENIZER_FILE), json.to_string()).unwrap();
    let spec = TokenizerSpec { add_special_tokens: true, source_suffix: Vec::new(), normalizer: false };
    Tokenizer::load(dir.path(), &spec).unwrap()
}

fn given(json: Value) -> Result<RequestOptions> {
    let mut options = RequestOptions::default();
    options.set_json(&json.to_string())?;
    Ok(options)
}

fn resolved_with(json: Value, spec: &GenerationSpec) -> Result<ResolvedOptions> {
    given(json)?.resolve(spec, &tokenizer())
}

fn params(json: Value) -> SamplingParams {
    resolved_with(json, &spec()).unwrap().params
}

fn refusal(json: Value) -> Error {
    match resolved_with(json.clone(), &spec()) {
        Ok(_) => panic!("{json} was accepted"),
        Err(error) => error,
    }
}

#[test]
fn every_name_is_known_once() {
    let mut names: Vec<&str> = OPTIONS.iter().flat_map(|spec| spec.names).copied().collect();
    assert!(names.iter().all(|name| RequestOptions::knows(name)));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    let mut keys: Vec<Key> = OPTIONS.iter().map(|spec| spec.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), OPTIONS.len());
    assert!(!RequestOptions::knows("text_input"));
    assert!(!RequestOptions::knows(""));
}

#[test]
fn an_unknown_name_is_refused_with_the_closest_known_one() {
    for (name, expected) in [
        ("max_token", "did you mean max_tokens?"),
        ("temprature", "did you mean temperature?"),
        ("stopwords", "did you mean stop_words?"),
        ("Top_P", "did you mean top_p?"),
        ("best_effort_mode", "leave it out"),
        ("", "leave it out"),
    ] {
        let error = refusal(json!({name: 1}));
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(error.message.starts_with(name) && error.message.contains(expected), "{error}");
    }
    let long = "x".repeat(1 << 20);
    assert!(refusal(json!({long: 1})).message.len() < 300);
}

#[test]
fn nothing_given_is_greedy_with_the_models_defaults() {
    let resolved = resolved_with(json!({}), &spec()).unwrap();
    let expected = SamplingParams {
        max_new_tokens: 100,
        suppress_tokens: vec![3],
        eos_token_ids: vec![1],
        ..SamplingParams::default()
    };
    assert_eq!(resolved.params, expected);
    assert!(resolved.decoder_prefix.is_empty());
    assert_eq!(resolved.prompt, PromptOptions::default());
    assert!(!resolved.stream);
    assert!(resolved.exclude_input_in_output);
    assert_eq!(resolved.outputs, OutputOptions::default());
    let unlimited = GenerationSpec { max_new_tokens: None, ..spec() };
    assert_eq!(resolved_with(json!({}), &unlimited).unwrap().params.max_new_tokens, usize::MAX);
}

#[test]
fn every_option_reaches_its_place() {
    let resolved = resolved_with(
        json!({
            "max_tokens": 7, "min_tokens": 2, "top_k": 5, "top_p": 0.5, "min_p": 0.25, "temperature": 0.75,
            "num_return_sequences": 3, "end_id": 4, "pad_id": -1, "repetition_penalty": 1.5,
            "presence_penalty": -0.5, "frequency_penalty": 2, "random_seed": u64::MAX, "stop_words": ["a", "b"],
            "bad_words": ["bad"], "stream": true, "exclude_input_in_output": false, "return_log_probs": true,
            "return_finish_reason": true, "return_cumulative_logprob": true, "return_num_input_tokens": true,
            "return_num_output_tokens": true, "return_choice_probabilities": false, "decoder_text_input": "good", "beam_width": 1, "length_penalty": 1.0,
            "apply_chat_template": false, "src_lang": "en", "tgt_lang": "", "guided_decoding_guide": "", "guided_decoding_guide_type": "",
            "chat_template_kwargs": {"enable_thinking": false}, "skip_special_tokens": true,
        }),
        &spec(),
    )
    .unwrap();
    let expected = ResolvedOptions {
        params: SamplingParams {
            max_new_tokens: 7,
            min_new_tokens: 2,
            temperature: 0.75,
            top_k: 5,
            top_p: 0.5,
            min_p: 0.25,
            repetition_penalty: 1.5,
            presence_penalty: -0.5,
            frequency_penalty: 2.0,
            bad_words: vec![vec![2], vec![3]],
            suppress_tokens: vec![3],
            eos_token_ids: vec![4],
            stop_words: vec!["a".into(), "b".into()],
            seed: Some(u64::MAX),
            num_return_sequences: 3,
            logprobs: true,
            guide: None,
            choice_probabilities: false,
        },
        choices: None,
        decoder_prefix: vec![4],
        prompt: PromptOptions {
            apply_chat_template: Some(false),
            src_lang: Some("en".into()),
            tgt_lang: None,
            chat_template_kwargs: Map::from_iter([("enable_thinking".to_owned(), json!(false))]),
        },
        stream: true,
        exclude_input_in_output: false,
        outputs: OutputOptions {
            log_probs: true,
            finish_reason: true,
            cumulative_logprob: true,
            num_input_tokens: true,
            num_output_tokens: true,
            choice_probabilities: false,
        },
    };
    assert_eq!(resolved, expected);
}

#[test]
fn a_temperature_above_zero_is_what_sampling_means() {
    let sampled = |json, spec: &GenerationSpec| {
        let params = resolved_with(json, spec).unwrap().params;
        (params.temperature, params.top_k, params.top_p)
    };
    let greedy = (0.0, 0, 1.0);
    let plain = spec();
    assert_eq!(sampled(json!({"temperature": 0}), &plain), greedy);
    assert_eq!(sampled(json!({"temperature": 0.5}), &plain), (0.5, 50, 1.0));
    assert_eq!(sampled(json!({"temperature": 0.5, "top_k": 0}), &plain), (0.5, 0, 1.0));
    assert_eq!(sampled(json!({"temperature": 0.5, "top_k": -1}), &plain), (0.5, 0, 1.0));
    assert_eq!(sampled(json!({"temperature": 0.5, "top_k": 1}), &plain), greedy);
    assert_eq!(sampled(json!({"top_k": 5}), &plain), (1.0, 5, 1.0));
    assert_eq!(sampled(json!({"top_p": 0.5}), &plain), (1.0, 50, 0.5));
    assert_eq!(sampled(json!({"min_p": 0.5}), &plain), (1.0, 50, 1.0));
    assert_eq!(sampled(json!({"top_p": 0.5, "temperature": 0}), &plain), greedy);
    assert_eq!(sampled(json!({"top_k": 1, "top_p": 1.0, "min_p": 0}), &plain), greedy);
    assert_eq!(sampled(json!({"top_k": 0}), &plain), greedy);

    let sampling = GenerationSpec { do_sample: true, top_p: Some(0.5), ..spec() };
    assert_eq!(sampled(json!({}), &sampling), (1.0, 50, 0.5));
    assert_eq!(sampled(json!({"top_k": 1}), &sampling), greedy);
    assert_eq!(sampled(json!({"temperature": 0}), &sampling), greedy);
    let tuned = GenerationSpec { temperature: Some(0.25), top_k: Some(9), ..sampling };
    assert_eq!(sampled(json!({}), &tuned), (0.25, 9, 0.5));
    assert_eq!(sampled(json!({"temperature": 2, "top_k": 3, "top_p": 1}), &tuned), (2.0, 3, 1.0));
    // A model that does not sample keeps its temperature for requests that do not ask either.
    assert_eq!(sampled(json!({}), &GenerationSpec { do_sample: false, ..tuned }), greedy);
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    for (name, value) in [
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(2_147_483_648_u64)),
        ("max_tokens", json!(1.0)),
        ("max_tokens", json!(true)),
        ("max_tokens", json!("ten")),
        ("max_tokens", json!("1.5")),
        ("max_tokens", json!([1])),
        ("max_tokens", json!(["1"])),
        ("max_tokens", json!({"a": 1})),
        ("max_tokens", json!(1e300)),
        ("min_tokens", json!(-1)),
        ("top_k", json!(-2)),
        ("beam_width", json!(0)),
        ("num_return_sequences", json!(0)),
        ("num_return_sequences", json!(129)),
        ("end_id", json!(-1)),
        ("end_id", json!(5)),
        ("temperature", json!(-0.1)),
        ("temperature", json!(100.1)),
        ("temperature", json!("NaN")),
        ("temperature", json!("inf")),
        ("temperature", json!(true)),
        ("top_p", json!(0)),
        ("top_p", json!(1.01)),
        ("min_p", json!(-0.1)),
        ("min_p", json!(1.1)),
        ("length_penalty", json!(1e300)),
        ("repetition_penalty", json!(0)),
        ("repetition_penalty", json!(-1)),
        ("presence_penalty", json!(101)),
        ("frequency_penalty", json!(1e39)),
        ("random_seed", json!(-1)),
        ("stop_words", json!(3)),
        ("stop_words", json!([3])),
        ("stop_words", json!([["a"]])),
        ("stop_words", json!(["a", ""])),
        ("stop_words", json!(vec!["a"; 65])),
        ("stop_words", json!(["a".repeat(1025)])),
        ("bad_words", json!(vec!["a"; 1025])),
        ("stream", json!(1)),
        ("stream", json!("yes")),
        ("decoder_text_input", json!(1)),
        ("decoder_text_input", json!(["a"])),
        ("sampling_parameters", json!("{}")),
        ("sampling_parameters", json!(1)),
        ("chat_template_kwargs", json!("enable_thinking")),
        ("chat_template_kwargs", json!("[]")),
        ("chat_template_kwargs", json!(true)),
    ] {
        let error = refusal(json!({name: value}));
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{name} {value}: {error}");
        assert!(error.message.contains(name), "{name} {value}: {error}");
        assert!(error.message.len() < 300, "{name}: {error}");
    }
}

#[test]
fn the_ends_of_the_ranges_are_accepted() {
    for (name, value) in [
        ("max_tokens", json!(1)),
        ("max_tokens", json!(i32::MAX)),
        ("top_k", json!(i32::MAX)),
        ("temperature", json!(100)),
        ("top_p", json!(1)),
        ("top_p", json!(1e-30)),
        ("min_p", json!(1)),
        ("end_id", json!(0)),
        ("random_seed", json!(0)),
        ("stop_words", json!(vec!["a".repeat(1024); 64])),
    ] {
        assert!(resolved_with(json!({name: value}), &spec()).is_ok(), "{name} {value}");
    }
    assert!(resolved_with(json!({"temperature": 1, "num_return_sequences": 128}), &spec()).is_ok());
}

#[test]
fn json_may_hold_numbers_as_strings_and_null_for_nothing() {
    let got =
        params(json!({"max_tokens": "100", "temperature": "0.5", "seed": "7", "return_log_probs": "true",
                            "top_p": null, "stop": null}));
    assert_eq!((got.max_new_tokens, got.temperature, got.seed, got.logprobs), (100, 0.5, Some(7), true));
    assert_eq!(params(json!({"stop": "7"})).stop_words, ["7"]);
}

#[test]
fn json_that_is_no_object_is_refused() {
    for json in ["", "[]", "1", "null", "\"a\"", "{", "{\"max_tokens\": 1} x", &"[".repeat(100_000)] {
        let error = RequestOptions::default().set_json(json).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(error.message.contains("JSON object"), "{error}");
    }
}

#[test]
fn sampling_parameters_are_set_like_the_rest() {
    let mut options = RequestOptions::default();
    options.set("sampling_parameters", OptionValue::Text(r#"{"max_tokens":"9"}"#.into())).unwrap();
    assert_eq!(options, given(json!({"max_tokens": 9})).unwrap());
    let bad = OptionValue::Text(r#"{"top_p":2}"#.into());
    let error = options.set("sampling_parameters", bad).unwrap_err();
    assert!(error.message.starts_with("sampling_parameters: top_p: got 2"), "{error}");
}

#[test]
fn set_is_strict_about_types() {
    let mut options = RequestOptions::default();
    for (name, value) in [
        ("max_tokens", OptionValue::Text("9".into())),
        ("max_tokens", OptionValue::Float(9.0)),
        ("temperature", OptionValue::Text("1".into())),
        ("temperature", OptionValue::Float(f64::NAN)),
        ("stream", OptionValue::Int(1)),
        ("decoder_text_input", OptionValue::Int(1)),
    ] {
        assert!(options.set(name, value.clone()).is_err(), "{name} {value:?}");
    }
    options.set("temperature", OptionValue::Int(1)).unwrap();
}

#[test]
fn aliases_are_one_option() {
    assert_eq!(params(json!({"max_length": 5})).max_new_tokens, 5);
    assert_eq!(params(json!({"min_length": 5})).min_new_tokens, 5);
    assert_eq!(params(json!({"seed": 5})).seed, Some(5));
    assert_eq!(params(json!({"max_tokens": 5, "max_length": 5})).max_new_tokens, 5);
    let error = refusal(json!({"max_length": 5, "max_tokens": 6}));
    assert!(error.message.contains("max_length") && error.message.contains("max_tokens"), "{error}");
    // The same number in single and in double precision is the same.
    let mut options = RequestOptions::default();
    options.set("top_p", OptionValue::Float(f64::from(0.9_f32))).unwrap();
    options.set("top_p", OptionValue::Float(0.9)).unwrap();
    assert!(options.set("top_p", OptionValue::Float(0.8)).is_err());
}

#[test]
fn one_string_is_one_word_and_an_empty_one_is_none() {
    assert_eq!(params(json!({"stop_words": "a b"})).stop_words, ["a b"]);
    assert_eq!(params(json!({"stop_words": "", "bad_words": [""]})), params(json!({})));
    assert_eq!(params(json!({"stop_words": []})), params(json!({})));
}

#[test]
fn what_is_not_built_is_refused_when_it_would_matter() {
    for (name, value) in [
        ("beam_width", json!(2)),
        ("length_penalty", json!(0.5)),
        ("skip_special_tokens", json!(false)),
        ("guided_decoding_guide_type", json!("json")),
        ("guided_decoding_guide_type", json!("regex")),
    ] {
        let error = refusal(json!({name: value}));
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.message.starts_with(name) && error.message.contains("leave it out"), "{error}");
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let error = refusal(json!({"num_return_sequences": 2}));
    assert!(error.message.contains("temperature"), "{error}");
    assert!(
        refusal(json!({"num_return_sequences": 2, "temperature": 1, "top_k": 1})).message.contains("greedy")
    );
    assert!(refusal(json!({"min_tokens": 5, "max_tokens": 4})).message.contains("max_tokens"));
    assert!(refusal(json!({"min_tokens": 101})).message.contains("max_tokens"));
    assert_eq!(params(json!({"min_tokens": 4, "max_tokens": 4})).min_new_tokens, 4);
}

#[test]
fn an_option_without_effect_takes_idle_values_only() {
    let nothing = params(json!({}));
    for spec in OPTIONS {
        let name = spec.names[0];
        let others = match spec.service {
            Service::Full => continue,
            Service::Immaterial => Vec::new(),
            Service::Idle { values, .. } => {
                for value in values {
                    let mut options = RequestOptions::default();
                    options.set(name, value.clone()).unwrap();
                    let resolved = options.resolve(&super::tests::spec(), &tokenizer()).unwrap();
                    assert_eq!(resolved.params, nothing, "{name} {value:?}");
                }
                let all = match spec.kind {
                    OptionKind::Int { min, max } => vec![OptionValue::Int(min), OptionValue::Int(max)],
                    OptionKind::Float { min, max } => {
                        [min, 0.5, max].map(|f| OptionValue::Float(f.into())).into()
                    }
                    OptionKind::Bool => vec![OptionValue::Bool(false), OptionValue::Bool(true)],
                    other => panic!("{name}: {other:?}"),
                };
                all.into_iter().filter(|value| !values.contains(value)).collect()
            }
        };
        for value in others {
            let error = RequestOptions::default().set(name, value).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
            assert!(error.message.starts_with(name), "{error}");
        }
    }
}

/// The README is what users know of the options.
#[test]
fn the_readme_names_each_option_and_the_idle_ones_in_a_table() {
    let readme = include_str!("../../README.md");
    for spec in OPTIONS {
        let name = spec.names[0];
        assert!(readme.contains(&format!("`{name}`")), "{name}");
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{name}` | "))).unwrap_or_default();
        if let Service::Idle { values, .. } = spec.service {
            for value in values {
                let value = match value {
                    OptionValue::Float(float) => float.to_string(),
                    other => describe(other),
                };
                assert!(row.contains(&value), "{name}: {value} is not in: {row}");
            }
        }
        assert_eq!(row.contains("| all: "), matches!(spec.service, Service::Immaterial), "{name}");
    }
}

#[test]
fn arguments_of_the_chat_template_are_an_object_or_one_in_a_string() {
    let of = |json| resolved_with(json, &spec()).unwrap().prompt.chat_template_kwargs;
    let expected = Map::from_iter([("a".to_owned(), json!({"b": [1, null]}))]);
    assert_eq!(of(json!({"chat_template_kwargs": {"a": {"b": [1, null]}}})), expected);
    assert_eq!(of(json!({"chat_template_kwargs": r#"{"a": {"b": [1, null]}}"#})), expected);
    assert_eq!(of(json!({"chat_template_kwargs": null})), Map::new());
    let options = |json| given(json!({"chat_template_kwargs": json})).unwrap();
    let merged = options(json!({"a": 1})).over(options(json!({"a": 2, "b": 2})));
    assert_eq!(merged, options(json!({"a": 1, "b": 2})));
}

fn with_choices(choices: Value, others: Value) -> Value {
    let mut request = json!({"guided_decoding_guide_type": "choice", "guided_decoding_guide": choices});
    request.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
    request
}

#[test]
fn a_choice_guide_is_a_list_of_texts() {
    for list in [json!(["good", "bad"]), json!(r#"["good", "bad"]"#)] {
        let resolved =
            resolved_with(with_choices(list, json!({"return_choice_probabilities": true})), &spec()).unwrap();
        let guide = ChoiceGuide::new(vec![vec![4], vec![2]], &[1]).unwrap();
        assert_eq!(resolved.params.guide.as_deref(), Some(&guide));
        assert_eq!((resolved.params.max_new_tokens, resolved.params.scored_choices()), (2, 2));
        assert_eq!(resolved.choices.as_deref(), Some(["good".to_owned(), "bad".to_owned()].as_slice()));
        assert!(resolved.outputs.choice_probabilities);
    }
    let limited = params(with_choices(json!(["good"]), json!({"max_tokens": 2, "min_tokens": 1})));
    assert_eq!((limited.max_new_tokens, limited.scored_choices()), (2, 0));
}

#[test]
fn a_guide_that_is_no_list_of_different_texts_is_refused() {
    let many: Vec<String> = (0..257).map(|index| index.to_string()).collect();
    for (guide, part) in [
        (json!("good"), "no JSON list"),
        (json!("{}"), "no JSON list"),
        (json!([]), "0 choices"),
        (json!(many), "257 choices"),
        (json!(["good", 1]), "place 1"),
        (json!(["good", ""]), "0 bytes at place 1"),
        (json!(["x".repeat(1025)]), "1025 bytes"),
        (json!(["good", "bad", "good"]), "twice"),
    ] {
        let error = refusal(with_choices(guide, json!({})));
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(
            error.message.starts_with("guided_decoding_guide: ") && error.message.contains(part),
            "{error}"
        );
    }
    for (request, part) in [
        (json!({"guided_decoding_guide": "[\"good\"]"}), "without a guided_decoding_guide_type"),
        (json!({"guided_decoding_guide_type": "choice"}), "without a guided_decoding_guide"),
        (json!({"guided_decoding_guide_type": "chioce"}), "\"chioce\""),
        (json!({"return_choice_probabilities": true}), "guided_decoding_guide"),
    ] {
        let error = refusal(request);
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(error.message.contains(part), "{error}");
    }
}

#[test]
fn a_choice_that_could_not_be_said_is_refused_with_the_reason() {
    for (choice, others, parts) in [
        ("good", json!({"max_tokens": 1}), ["2 tokens", "max_tokens is 1"]),
        ("good", json!({"min_tokens": 2}), ["1 tokens", "min_tokens is 2"]),
        ("good", json!({"stop_words": ["oo"]}), ["stop_words", "\"oo\""]),
        ("bad", json!({"bad_words": ["bad"]}), ["bad_words", "\"bad\""]),
        (" bad", json!({}), ["never says", "3"]),
        ("good", json!({"end_id": 4}), ["token 4", "ends"]),
    ] {
        let error = refusal(with_choices(json!([choice]), others));
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(parts.iter().all(|part| error.message.contains(part)), "{error}");
    }
}

/// What a tokenizer with NFKC keeps apart is a choice, and is told as the request spells it.
#[test]
fn choices_that_the_tokenizer_normalizes_keep_their_spelling() {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/t5/tokenizer/nmt_nfkc.model");
    let options = TokenizerOptions { eos_token_id: 1, sentinels: 0 };
    SentencePiece::read(&model).unwrap().tokenizer_files(options).unwrap().write(folder.path()).unwrap();
    let spec = TokenizerSpec { add_special_tokens: true, source_suffix: Vec::new(), normalizer: true };
    let tokenizer = Tokenizer::load(folder.path(), &spec).unwrap();
    let generation = GenerationSpec { suppress_tokens: Vec::new(), ..self::spec() };
    let resolve = |choices: &[&str], others: Value| {
        given(with_choices(json!(choices), others)).unwrap().resolve(&generation, &tokenizer)
    };
    for choices in [
        &["自由", "权利（尊严）"][..],
        &["一切：人", "自由"],
        &["今天，自由", "精彩"],
        &["１", "２"],
        &["自由 ", "奴隶"],
        &["自由", "自由（龍）！"],
        &["\u{fb01}sh", " the", "ａｂｃ"],
    ] {
        let guide = resolve(choices, json!({})).unwrap().params.guide.unwrap();
        for choice in choices {
            let tokens = tokenizer.encode_target(choice).unwrap();
            assert_eq!(guide.spelling(&tokens), Some(*choice));
        }
    }
    let plain = resolve(&["自由", "奴隶"], json!({})).unwrap().params.guide.unwrap();
    assert!(!plain.is_spelled());
    for (choices, others, parts) in [
        (&["１", "1"][..], json!({}), ["\"1\"", "\"１\""]),
        (&["自由：", "自由:"], json!({}), ["\"自由:\"", "\"自由：\""]),
        (&["自由", "龍"], json!({}), ["\"龍\"", "knows nothing"]),
        (&["自由龍", "自由虎"], json!({}), ["\"自由虎\"", "cannot tell it from"]),
        (&["自由：", "权利"], json!({"stop_words": ["："]}), ["stop_words", "自由："]),
    ] {
        let error = resolve(choices, others).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(parts.iter().all(|part| error.message.contains(part)), "{error}");
    }
}

#[test]
fn defaults_of_a_damaged_model_are_refused() {
    for damaged in [
        GenerationSpec { repetition_penalty: Some(0.0), ..spec() },
        GenerationSpec { do_sample: true, temperature: Some(-1.0), ..spec() },
        GenerationSpec { top_p: Some(f32::NAN), ..spec() },
        GenerationSpec { max_new_tokens: Some(0), ..spec() },
    ] {
        let error = resolved_with(json!({}), &damaged).unwrap_err();
        assert!(error.message.starts_with("generation defaults of the model"), "{error}");
    }
}
