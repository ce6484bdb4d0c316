//! The T5 family against stored results of the reference: log-probabilities within 1e-4, greedy tokens
//! identical, and each fixture fails when one switch of its configuration is wrong.

mod support;

use std::fs;

use serde_json::json;
use support::{
    Artifact, fixture,
    golden::{self, Golden},
    ids, read_json, submit, wait,
};
use textgen_convert::Precision;
use triton_textgen::decoding::SamplingParams;

const GOLDEN: Golden = Golden { folder: "t5", names: &["t5", "t5-stray", "flan", "mt5", "umt5", "madlad"] };

/// As transformers 4 and 5 save them.
const SAVED: Golden = Golden {
    folder: "t5/saved",
    names: &[
        "t5-v1.1-4",
        "t5-v1.1-5",
        "flan-4",
        "flan-5",
        "madlad-4",
        "madlad-5",
        "umt5-4",
        "umt5-5",
        "umt5-tied-4",
        "umt5-tied-5",
    ],
};

#[test]
fn log_probabilities_agree_with_the_reference() {
    golden::log_probabilities_agree(GOLDEN);
}

#[test]
fn greedy_tokens_are_those_of_the_reference() {
    golden::greedy_tokens_agree(GOLDEN);
}

#[test]
fn a_wrong_switch_fails_every_fixture() {
    golden::a_wrong_switch_fails(GOLDEN);
}

#[test]
fn what_either_version_saves_scores_as_that_version_says() {
    golden::log_probabilities_agree(SAVED);
}

#[test]
fn a_wrong_scaling_fails_whatever_either_version_saves() {
    golden::a_wrong_switch_fails(SAVED);
}

#[test]
fn an_end_of_the_generation_configuration_ends_texts() {
    let source = golden::copied(&fixture("t5/t5"));
    let reference = read_json(&source.path().join("reference.json"));
    let run = &reference["greedy"][0];
    let tokens = ids(&run["token_ids"]);
    let place = (1..tokens.len()).find(|&place| !tokens[..place].contains(&tokens[place])).unwrap();
    let end = tokens[place];
    let config = json!({"decoder_start_token_id": 0, "eos_token_id": [end, 1]});
    fs::write(source.path().join("generation_config.json"), config.to_string()).unwrap();

    let model = Artifact::convert(source.path(), Precision::Fp32).unwrap().model(1);
    assert_eq!(model.text.manifest.generation.eos_token_ids, [1, end]);
    assert_eq!(model.text.tokenizer.encode_source("the").unwrap().last(), Some(&1));
    let params = SamplingParams {
        max_new_tokens: tokens.len(),
        eos_token_ids: model.text.manifest.generation.eos_token_ids.clone(),
        ..SamplingParams::default()
    };
    let got = wait(&submit(&model, ids(&run["input_ids"]), &[], params)).remove(0);
    assert_eq!(got.token_ids, tokens[..=place]);
    assert_eq!(got.finished.unwrap().reason.as_str(), "stop");
}
