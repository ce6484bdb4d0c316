//! `textgen generate`.

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use serde_json::{Value, json};
use support::{Artifact, assert_error, command, lines, path, reference, textgen};

const SOURCE: [u32; 6] = [92, 49, 31, 29, 23, 1];

#[test]
fn greedy_tokens_are_those_of_the_reference() {
    let reference = reference("flan");
    let cases = reference["greedy"].as_array().unwrap();
    let input: Vec<Value> = cases
        .iter()
        .map(|case| json!({"input_ids": case["input_ids"], "max_tokens": case["max_new_tokens"]}))
        .collect();
    let run = Artifact::convert("flan").generate(&[], &lines(&input));
    let generated = run.objects();
    run.succeeded();
    assert_eq!(generated.len(), cases.len());
    for (index, (got, case)) in generated.iter().zip(cases).enumerate() {
        assert_eq!(got["id"], json!(index + 1));
        assert_eq!(got["sequence_index"], json!(0));
        assert_eq!(got["token_ids"], case["token_ids"]);
        assert_eq!(got["finish_reason"], case["finish_reason"]);
        let tokens = case["token_ids"].as_array().unwrap().len();
        assert_eq!(got["num_output_tokens"], json!(tokens));
        assert_eq!(got["num_input_tokens"], json!(case["input_ids"].as_array().unwrap().len()));
        let logprobs: Vec<f64> = serde_json::from_value(got["logprobs"].clone()).unwrap();
        assert_eq!(logprobs.len(), tokens);
        let sum: f64 = logprobs.iter().sum();
        assert!((got["cumulative_logprob"].as_f64().unwrap() - sum).abs() < 1e-3, "{got}");
    }
}

#[test]
fn texts_give_one_line_each() {
    let artifact = Artifact::convert("flan");
    let dir = artifact.dir();
    let texts = ["human rights", "free"];
    let options = ["--set", "max_tokens=6"];
    let printed = textgen(["generate", path(&dir)].iter().chain(&texts).chain(&options)).succeeded();
    let input = texts.map(|text| json!({"text_input": text, "max_tokens": 6}));
    let objects = artifact.generate(&[], &lines(&input)).objects();
    let expected: Vec<&str> = objects.iter().map(|object| object["text_output"].as_str().unwrap()).collect();
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
    assert!(expected.iter().all(|text| !text.is_empty()), "{expected:?}");
}

#[test]
fn many_texts_wait_for_each_other() {
    let artifact = Artifact::convert("flan");
    let dir = artifact.dir();
    let texts = vec!["human"; 1500];
    let printed = textgen(["generate", "--set", "max_tokens=1", path(&dir)].iter().chain(&texts)).succeeded();
    assert_eq!(printed.lines().count(), texts.len());
}

#[test]
fn set_gives_defaults_that_a_line_overrules() {
    let input = lines(&[
        json!({"input_ids": SOURCE}),
        json!({"input_ids": SOURCE, "max_tokens": 3, "return_log_probs": false}),
        // The same option by its other name.
        json!({"input_ids": SOURCE, "max_new_tokens": 4}),
    ]);
    let artifact = Artifact::convert("flan");
    let run = artifact.generate(&["--set", "max_tokens=5", "--set", "temperature=0.0"], &input);
    let lengths: Vec<Value> =
        run.objects().iter().map(|object| object["num_output_tokens"].clone()).collect();
    assert_eq!(run.code, Some(0), "{} {}", run.stdout, run.stderr);
    assert_eq!(lengths, [5, 3, 4]);
    assert_eq!(run.objects()[1]["logprobs"].as_array().unwrap().len(), 3);

    // Text is text, whatever it looks like; a list is JSON.
    for words in ["stop_words=2", r#"stop_words=["2", "of"]"#] {
        let run = artifact.generate(&["--set", words], &lines(&[json!({"input_ids": SOURCE})]));
        let object = &run.objects()[0];
        run.succeeded();
        assert_eq!((&object["text_output"], &object["finish_reason"]), (&json!(""), &json!("stop")));
    }

    let dir = artifact.dir();
    for (option, words) in [
        ("max_tokens", &["--set", "NAME=VALUE"][..]),
        ("max_tokns=3", &["max_tokns", "max_tokens"]),
        ("max_tokens=many", &["max_tokens", "many", "whole number"]),
        ("top_p=2", &["top_p", "2", "1"]),
    ] {
        textgen(["generate", path(&dir), "text", "--set", option]).failed(words);
    }
}

#[test]
fn an_answer_is_one_of_the_choices_and_each_has_a_probability() {
    let artifact = Artifact::convert("flan");
    let choices = json!(["human", "free", "human rights"]);
    let guide = format!("guided_decoding_guide={choices}");
    let options = ["--set", "guided_decoding_guide_type=choice", "--set", &guide];
    let input = [
        json!({"input_ids": SOURCE, "return_choice_probabilities": true}),
        // A string, as the server wants it.
        json!({"input_ids": SOURCE, "guided_decoding_guide": "[\"free\"]"}),
    ];
    let run = artifact.generate(&options, &lines(&input));
    let objects = run.objects();
    run.succeeded();
    assert!(choices.as_array().unwrap().contains(&objects[0]["text_output"]), "{}", objects[0]);
    let probabilities = objects[0]["choice_probabilities"].as_array().unwrap();
    let named: Vec<&Value> = probabilities.iter().map(|each| &each["choice"]).collect();
    assert_eq!(named, choices.as_array().unwrap().iter().collect::<Vec<_>>());
    let sum: f64 = probabilities.iter().filter_map(|each| each["probability"].as_f64()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{}", objects[0]);
    assert_eq!((&objects[1]["text_output"], objects[1].get("choice_probabilities")), (&json!("free"), None));

    let run = artifact.generate(&options, &lines(&[json!({"input_ids": SOURCE, "max_tokens": 1})]));
    assert_error(&run.objects()[0], &json!(1), &["human", "max_tokens"]);
}

#[test]
fn ids_are_echoed_in_the_order_of_the_input() {
    let ids =
        [json!("a"), json!(7), json!(null), json!([1, {"x": 2}]), json!({"k": []}), json!(true), json!(1.5)];
    // The first takes longest.
    let input: Vec<Value> = ids
        .iter()
        .enumerate()
        .map(|(index, id)| json!({"id": id, "input_ids": SOURCE, "max_tokens": 32 - 4 * index}))
        .collect();
    let run = Artifact::convert("flan").generate(&["--max-sequences", "3"], &lines(&input));
    let generated = run.objects();
    run.succeeded();
    let echoed: Vec<Value> = generated.iter().map(|object| object["id"].clone()).collect();
    assert_eq!(echoed, ids);
}

#[test]
fn sequences_are_numbered_and_a_seed_repeats_them() {
    let line = json!({
        "id": "s", "input_ids": SOURCE, "max_tokens": 12, "temperature": 1.0, "seed": 3, "num_return_sequences": 3,
    });
    let other = json!({
        "id": "t", "input_ids": SOURCE, "max_tokens": 12, "temperature": 1.0, "seed": 4, "num_return_sequences": 2,
    });
    let artifact = Artifact::convert("flan");
    let run = artifact.generate(&[], &lines(&[line.clone(), other.clone()]));
    let first = run.objects();
    run.succeeded();
    let order: Vec<(&Value, &Value)> =
        first.iter().map(|object| (&object["id"], &object["sequence_index"])).collect();
    let (s, t) = (json!("s"), json!("t"));
    let (zero, one, two) = (json!(0), json!(1), json!(2));
    assert_eq!(order, [(&s, &zero), (&s, &one), (&s, &two), (&t, &zero), (&t, &one)]);
    assert_ne!(first[0]["token_ids"], first[1]["token_ids"]);
    // Sequence i of a seed is sequence 0 of the seed plus i.
    assert_eq!(first[1]["token_ids"], first[3]["token_ids"]);
    let again = artifact.generate(&["--max-sequences", "2"], &lines(&[other, line])).objects();
    assert_eq!(again[2..], first[..3]);
}

#[test]
fn a_stop_word_ends_the_text_before_it() {
    let artifact = Artifact::convert("flan");
    let line = |stop: &[&str]| json!({"input_ids": SOURCE, "max_tokens": 16, "stop_words": stop});
    let whole = artifact.generate(&[], &lines(&[line(&[])])).objects().remove(0);
    let text = whole["text_output"].as_str().unwrap();
    // From the middle of the text, so that something comes before and after.
    let middle = text.char_indices().nth(text.chars().count() / 2).unwrap().0;
    let stop: String = text[middle..].chars().take(3).collect();
    let end = text.find(&stop).unwrap();
    assert!(end > 0, "{text:?} has no text before {stop:?}");
    let run = artifact.generate(&[], &lines(&[line(&["\u{1F600}", &stop])]));
    let stopped = run.objects().remove(0);
    run.succeeded();
    assert_eq!(stopped["text_output"].as_str().unwrap(), &text[..end]);
    assert_eq!(stopped["finish_reason"], json!("stop"));
    assert!(stopped["num_output_tokens"].as_u64() < whole["num_output_tokens"].as_u64());
}

#[test]
fn a_bad_line_fails_alone() {
    let mut input = Vec::new();
    let mut expected: Vec<(Value, &[&str])> = Vec::new();
    let mut line = |bytes: &[u8], id: Value, words: &'static [&'static str]| {
        input.extend_from_slice(bytes);
        input.push(b'\n');
        expected.push((id, words));
    };
    line(b"{\"input_ids\": [1", json!(1), &["not valid JSON"]);
    line(b"[1, 2]", json!(2), &["an array", "JSON object"]);
    line(b"\"text\"", json!(3), &["a string", "JSON object"]);
    line(b"{\"text_input\": \"caf\xe9\"}", json!(4), &["not valid JSON"]);
    line(b"\xff\xfe\x00", json!(5), &["not valid JSON"]);
    line(
        br#"{"id": "unknown", "text_input": "a", "max_tokns": 3}"#,
        json!("unknown"),
        &["max_tokns", "max_tokens"],
    );
    line(br#"{"id": 9, "text_input": "a", "max_tokens": [3]}"#, json!(9), &["max_tokens"]);
    line(br#"{"id": 9, "text_input": "a", "max_tokens": 0}"#, json!(9), &["max_tokens", "got 0", "from 1"]);
    line(
        br#"{"id": 9, "text_input": "a", "stream": "maybe"}"#,
        json!(9),
        &["stream", "maybe", "true or false"],
    );
    line(br#"{"id": 9, "text_input": 5}"#, json!(9), &["text_input", "got 5", "a string"]);
    line(br#"{"id": 9, "text_input": "a", "input_ids": [1]}"#, json!(9), &["text_input", "input_ids"]);
    line(br#"{"id": 9}"#, json!(9), &["text_input", "messages", "input_ids"]);
    line(br#"{"id": 9, "messages": [{"role": "user"}]}"#, json!(9), &["messages", "message 0", "`content`"]);
    line(br#"{"id": 9, "messages": "[]"}"#, json!(9), &["messages", "0 messages"]);
    line(
        br#"{"id": 9, "messages": [{"role": "user", "content": "a"}]}"#,
        json!(9),
        &["messages", "no chat template"],
    );
    line(
        br#"{"id": 9, "text_input": "a", "apply_chat_template": true}"#,
        json!(9),
        &["apply_chat_template", "no chat template"],
    );
    line(br#"{"id": 9, "text_input": "a", "tgt_lang": "de"}"#, json!(9), &["tgt_lang", "prompt_template"]);
    line(br#"{"id": 9, "input_ids": [5, 120, 1]}"#, json!(9), &["input_ids", "120"]);
    line(br#"{"id": 9, "input_ids": [4294967295]}"#, json!(9), &["input_ids", "4294967295"]);
    line(br#"{"id": 9, "input_ids": [4294967296]}"#, json!(9), &["input_ids", "4294967296"]);
    line(br#"{"id": 9, "input_ids": [-1]}"#, json!(9), &["input_ids", "-1"]);
    line(br#"{"id": 9, "input_ids": "5 1"}"#, json!(9), &["input_ids", "list of token ids"]);
    line(br#"{"id": 9, "input_ids": []}"#, json!(9), &["no tokens"]);
    line(
        br#"{"id": 9, "input_ids": [5], "num_return_sequences": 2}"#,
        json!(9),
        &["num_return_sequences", "greedy"],
    );
    line(br#"{"id": 9, "input_ids": [5], "beam_width": 4}"#, json!(9), &["beam_width"]);
    let long = json!({"id": "long", "input_ids": vec![5; 9]}).to_string();
    line(long.as_bytes(), json!("long"), &["9", "8"]);
    // Between them blank lines, which count as lines; at the end one that works, without a line feed.
    input.extend_from_slice(b"\n \t\r\n");
    input.extend_from_slice(br#"{"input_ids": [5, 1], "max_tokens": 2}"#);
    let good = json!(expected.len() + 3);

    let run = Artifact::convert("flan").generate(&["--max-source-tokens", "8"], &input);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let objects = run.objects();
    assert_eq!(objects.len(), expected.len() + 1, "{}", run.stdout);
    for (object, (id, words)) in objects.iter().zip(&expected) {
        assert_error(object, id, words);
    }
    let last = objects.last().unwrap();
    assert_eq!((&last["id"], &last["num_output_tokens"]), (&good, &json!(2)));
}

#[test]
fn a_prompt_template_goes_around_texts_and_not_around_ids() {
    let artifact = Artifact::convert("flan");
    let input = lines(&[
        json!({"text_input": "human", "max_tokens": 4}),
        json!({"text_input": "human", "max_tokens": 4, "tgt_lang": "German"}),
        json!({"text_input": "human", "max_tokens": 4, "tgt_lang": "fr"}),
        json!({"input_ids": SOURCE, "max_tokens": 4}),
    ]);
    let template = "{{ tgt_lang.name }} {{ text }} rights";
    let options = ["--prompt-template", template, "--languages", "en, de", "--set", "tgt_lang=en"];
    let objects = artifact.generate(&options, &input).objects();
    assert_error(&objects[2], &json!(3), &["tgt_lang", "\"fr\"", "en, de"]);
    let plain = lines(&[
        json!({"text_input": "English human rights", "max_tokens": 4}),
        json!({"text_input": "German human rights", "max_tokens": 4}),
        json!({"input_ids": SOURCE, "max_tokens": 4}),
    ]);
    let expected = artifact.generate(&[], &plain).objects();
    for (got, plain) in [(0, 0), (1, 1), (3, 2)] {
        for key in ["token_ids", "num_input_tokens", "logprobs"] {
            assert_eq!(objects[got][key], expected[plain][key], "{got} {key}");
        }
    }
    assert_ne!(objects[0]["logprobs"], objects[1]["logprobs"]);

    let dir = artifact.dir();
    let run = ["generate", path(&dir), "text"];
    for (arguments, words) in [
        (&["--prompt-template", "{{ text }"][..], &["--prompt-template", "line 1"][..]),
        (&["--prompt-template", "{{ text }}", "--languages", "xx"], &["--languages", "xx"]),
    ] {
        textgen(run.iter().chain(arguments)).failed(words);
    }
    textgen(run.iter().chain(&["--languages", "en"])).misused(&["--prompt-template"]);
}

/// They name places and languages, and an encoder's text has no turns that they could end.
#[test]
fn special_tokens_in_an_encoder_s_text_are_what_they_stand_for() {
    let artifact = Artifact::convert("flan");
    let count = |text: &str, options: &[&str]| {
        let run = artifact.generate(options, &lines(&[json!({"text_input": text, "max_tokens": 1})]));
        let counts = run.objects()[0]["num_input_tokens"].as_u64().unwrap();
        run.succeeded();
        counts
    };
    let plain = count("human", &[]);
    assert_eq!(count("human</s>", &[]), plain + 1);
    assert_eq!(count("human</s>", &["--prompt-template", "{{ text }}"]), plain + 1);
}

#[test]
fn no_lines_are_no_failure() {
    let artifact = Artifact::convert("flan");
    assert_eq!(artifact.generate(&[], b"").succeeded(), "");
    assert_eq!(artifact.generate(&[], b"\n\n").succeeded(), "");
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() {
    let artifact = Artifact::convert("flan");
    let dir = artifact.dir();
    let mut child = command(["generate", path(&dir), "--jsonl", "--threads", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = lines(&vec![json!({"input_ids": SOURCE, "max_tokens": 8}); 600]);
    // The program goes before it has read all.
    let writer = std::thread::spawn(move || stdin.write_all(&input).is_err());
    let mut first = String::new();
    // Dropped with its pipe after the first line, as `head -1` does.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&first).unwrap()["id"], json!(1));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
