//! Decoder-only families against stored results of the reference: log-probabilities within 1e-4, greedy tokens
//! identical, and each fixture fails when one switch of its configuration is wrong.

mod support;

use support::golden::{self, Golden};

const GOLDEN: Golden = Golden {
    folder: "decoder",
    names: &["hunyuan", "llama", "llama-bias", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"],
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
fn another_spelling_of_a_configuration_changes_nothing() {
    golden::another_spelling_changes_nothing(GOLDEN);
}

#[test]
fn a_wrong_switch_fails_every_fixture() {
    golden::a_wrong_switch_fails(GOLDEN);
}
