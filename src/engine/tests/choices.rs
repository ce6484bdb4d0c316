//! The engine's contract for choices: rows that are only scored, beside those that are told.

use std::collections::BTreeMap;

use super::*;
use crate::decoding::ChoiceGuide;

/// The token that the model expects has this logit, all others 0.
const EXPECTED: f64 = 10.0;

pub(super) fn guided(sources: &[&[u32]], choices: &[&[u32]], params: SamplingParams) -> Request {
    let choices = choices.iter().map(|choice| choice.to_vec()).collect();
    let guide = Some(Arc::new(ChoiceGuide::new(choices, &[EOS]).unwrap()));
    Request {
        sources: sources.iter().map(|source| source.to_vec()).collect(),
        params: SamplingParams { guide, choice_probabilities: true, ..params },
        ..Request::default()
    }
}

/// Texts of the sequences and probabilities of the prompts.
pub(super) type Told = (BTreeMap<usize, String>, BTreeMap<usize, Vec<f64>>);

pub(super) fn told(client: &Client) -> std::result::Result<Told, Error> {
    let (mut texts, mut probabilities) = Told::default();
    loop {
        match client.next() {
            Event::Update(index, text, ..) => texts.entry(index).or_default().push_str(&text),
            Event::ChoiceProbabilities(prompt, values) => {
                assert!(probabilities.insert(prompt, values).is_none(), "prompt {prompt} is told twice");
            }
            Event::Complete => return Ok((texts, probabilities)),
            Event::Failed(error) => return Err(error),
        }
    }
}

/// Probabilities of choices of which so many tokens, their ends included, are what the model expects.
fn expected(tokens: &[(usize, usize)]) -> Vec<f64> {
    let normalizer = (EXPECTED.exp() + VOCAB as f64 - 1.0).ln();
    let logprobs: Vec<f64> =
        tokens.iter().map(|&(hits, all)| hits as f64 * EXPECTED - all as f64 * normalizer).collect();
    let total: f64 = logprobs.iter().map(|logprob| logprob.exp()).sum();
    logprobs.iter().map(|logprob| logprob.exp() / total).collect()
}

fn close(got: &[f64], expected: &[f64]) -> bool {
    got.len() == expected.len()
        && (got.iter().sum::<f64>() - 1.0).abs() < 1e-12
        && got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() <= 1e-4 * expected)
}

#[test]
fn every_choice_of_every_prompt_is_scored_however_few_the_slots() {
    for slots in [1, 2, 3, 8] {
        let harness = Harness::new(slots, EngineOptions::default());
        // "ab", "acb" and "b" for sources that say "ab" and "b".
        let choices: [&[u32]; 3] = [&[10, 11], &[10, 12, 11], &[11]];
        let request = guided(&[&[10, 11], &[11]], &choices, SamplingParams::default());
        let client = harness.submit(request);
        let (texts, probabilities) = told(&client).unwrap();
        assert_eq!(texts.into_values().collect::<Vec<_>>(), ["ab", "b"]);
        assert!(close(&probabilities[&0], &expected(&[(3, 3), (2, 4), (0, 2)])), "{probabilities:?}");
        assert!(close(&probabilities[&1], &expected(&[(1, 3), (1, 4), (2, 2)])), "{probabilities:?}");
        assert_eq!(harness.record.lock().unwrap().encoded_rows.iter().sum::<usize>(), 2);
        // Nothing is left behind: the engine serves on.
        assert_eq!(harness.submit(copy(&[12])).complete().unwrap()[0].0, "c");
        assert_eq!(harness.outcomes.0.lock().unwrap().load.waiting, 0);
    }
}

#[test]
fn samples_draw_their_own_and_share_the_probabilities() {
    let harness = Harness::new(3, EngineOptions::default());
    let params = SamplingParams {
        temperature: 100.0,
        num_return_sequences: 8,
        seed: Some(3),
        ..SamplingParams::default()
    };
    let client = harness.submit(guided(&[&[10, 11]], &[&[10], &[11, 11]], params));
    let (texts, probabilities) = told(&client).unwrap();
    assert_eq!(texts.len(), 8);
    assert!(texts.values().any(|text| text == "a") && texts.values().any(|text| text == "bb"));
    assert!(texts.values().all(|text| text == "a" || text == "bb"), "{texts:?}");
    assert_eq!(probabilities.len(), 1);
}

#[test]
fn a_choice_that_does_not_fit_is_refused_before_anything_runs() {
    let harness = Harness::new(2, EngineOptions::default());
    let long = [10; 16];
    let client = harness.submit(guided(&[&[10]], &[&[11], &long], SamplingParams::default()));
    let error = told(&client).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    assert!(error.message.contains("17") && error.message.contains("16"), "{error}");
    let client = harness.submit(guided(&[&[10]], &[&[11], &long[1..]], SamplingParams::default()));
    assert!(told(&client).is_ok());
}

#[test]
fn a_score_that_fails_ends_its_request_alone() {
    let harness = Harness::new(4, EngineOptions::default());
    for bad in [BAD_STEP, BAD_LOGITS] {
        let failing = harness.submit(guided(&[&[10]], &[&[10], &[bad, 11]], SamplingParams::default()));
        let fine = harness.submit(copy(&[10, 11]));
        assert_eq!(told(&failing).unwrap_err().kind, ErrorKind::Internal);
        assert_eq!(fine.complete().unwrap()[0].0, "ab");
    }
}
