//! `textgen score`.

mod support;

use serde_json::{Value, json};
use support::{Artifact, assert_error, lines, reference};

/// As the reference's own tests allow.
const TOLERANCE: f64 = 1e-4;

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|float| float.as_f64().unwrap()).collect()
}

#[test]
fn log_probabilities_are_those_of_the_reference() {
    for name in ["t5", "flan", "umt5"] {
        let reference = reference(name);
        let cases = reference["cases"].as_array().unwrap();
        let input: Vec<Value> = cases
            .iter()
            .map(|case| json!({"input_ids": case["input_ids"], "target_ids": case["target_ids"]}))
            .collect();
        let run = Artifact::convert(name).score(&lines(&input));
        let scored = run.objects();
        run.succeeded();
        assert_eq!(scored.len(), cases.len());
        for (index, (got, case)) in scored.iter().zip(cases).enumerate() {
            assert_eq!(got["id"], json!(index + 1));
            assert_eq!(got["target_ids"], case["target_ids"]);
            let (got_logprobs, expected) = (floats(&got["logprobs"]), floats(&case["logprobs"]));
            assert_eq!(got_logprobs.len(), expected.len());
            for (got, expected) in got_logprobs.iter().zip(&expected) {
                assert!((got - expected).abs() <= TOLERANCE, "{name} {index}: {got}, expected {expected}");
            }
            let sum: f64 = got_logprobs.iter().sum();
            assert!((got["sum"].as_f64().unwrap() - sum).abs() < 1e-9, "{got}");
        }
    }
}

#[test]
fn a_target_text_is_scored_with_its_end() {
    let run = Artifact::convert("flan").score(&lines(&[
        json!({"id": "text", "text_input": "human rights", "text_output": "free text"}),
        json!({"id": "empty", "text_input": "human rights", "text_output": ""}),
    ]));
    let scored = run.objects();
    run.succeeded();
    let ids = scored[0]["target_ids"].as_array().unwrap();
    assert!(ids.len() > 1 && ids.last() == Some(&json!(1)), "{}", scored[0]);
    assert_eq!(floats(&scored[0]["logprobs"]).len(), ids.len());
    assert_eq!(scored[1]["target_ids"], json!([1]));
}

#[test]
fn a_bad_line_fails_alone() {
    let good = json!({"input_ids": [5, 1], "target_ids": [30, 98, 1]});
    let run = Artifact::convert("flan").score(&lines(&[
        json!({"id": "unknown", "input_ids": [5, 1], "target_ids": [1], "temperature": 1}),
        json!({"id": "no target", "input_ids": [5, 1]}),
        json!({"id": "two sources", "input_ids": [5, 1], "text_input": "a", "target_ids": [1]}),
        json!({"id": "source", "input_ids": [120], "target_ids": [1]}),
        json!({"id": "target", "input_ids": [1], "target_ids": [1, 120]}),
        json!({"id": "empty", "input_ids": [1], "target_ids": []}),
        json!({"id": "long", "input_ids": vec![5; 600], "target_ids": [1]}),
        good,
    ]));
    assert_eq!(run.code, Some(1));
    let scored = run.objects();
    let errors: [(&str, &[&str]); 7] = [
        ("unknown", &["temperature", "unknown key", "target_ids"]),
        ("no target", &["text_output", "target_ids"]),
        ("two sources", &["text_input", "input_ids"]),
        ("source", &["input_ids", "120"]),
        ("target", &["target_ids", "120"]),
        ("empty", &["at least one"]),
        ("long", &["600", "512"]),
    ];
    assert_eq!(scored.len(), errors.len() + 1);
    for (object, (id, words)) in scored.iter().zip(errors) {
        assert_error(object, &json!(id), words);
    }
    assert_eq!(floats(&scored[7]["logprobs"]).len(), 3);
}
