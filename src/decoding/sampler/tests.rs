//! The sampler against Hugging Face's processors (stored), a plain reading of their definitions (random), and
//! its own promises: determinism, first of equals, errors for rows that cannot be sampled.

use std::{collections::HashSet, path::Path};

use proptest::prelude::*;
use rand_chacha::rand_core::RngCore;
use serde::Deserialize;

use super::*;
use crate::{decoding::ChoiceGuide, error::ErrorKind};

fn sampler(params: SamplingParams, seed: u64) -> TokenSampler {
    TokenSampler::new(Arc::new(params), seed, &[0])
}

fn greedy(logits: &[f32]) -> Result<Choice> {
    sampler(SamplingParams::default(), 0).sample(&mut logits.to_vec(), &mut SamplerScratch::default())
}

fn sampling() -> SamplingParams {
    SamplingParams { temperature: 1.0, ..SamplingParams::default() }
}

fn candidates(params: &SamplingParams, logits: &[f32]) -> Vec<Candidate> {
    let mut blocks = Blocks::default();
    let max = blocks.read(logits).unwrap().logit;
    Candidates::default().select(params, logits, &mut blocks, max, 0.0).to_vec()
}

#[derive(Deserialize)]
struct Golden {
    eos_token_ids: Vec<u32>,
    cases: Vec<GoldenCase>,
}

#[derive(Deserialize)]
struct GoldenCase {
    params: GoldenParams,
    start_token: u32,
    prefix: Vec<u32>,
    generated: Vec<u32>,
    logits: Vec<f32>,
    scores: Vec<Option<f32>>,
}

#[derive(Deserialize, Debug)]
#[serde(default, deny_unknown_fields)]
struct GoldenParams {
    temperature: f32,
    repetition_penalty: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    bad_words: Vec<Vec<u32>>,
    min_new_tokens: usize,
    suppress_tokens: Vec<u32>,
}

impl Default for GoldenParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            repetition_penalty: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            bad_words: Vec::new(),
            min_new_tokens: 0,
            suppress_tokens: Vec::new(),
        }
    }
}

#[test]
fn scores_equal_those_of_hugging_face() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/processors.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(golden.cases.len() > 20);
    for case in golden.cases {
        let name = format!("{:?}", case.params);
        let params = SamplingParams {
            temperature: case.params.temperature,
            repetition_penalty: case.params.repetition_penalty,
            top_k: case.params.top_k,
            top_p: case.params.top_p,
            min_p: case.params.min_p,
            bad_words: case.params.bad_words,
            min_new_tokens: case.params.min_new_tokens,
            suppress_tokens: case.params.suppress_tokens,
            eos_token_ids: golden.eos_token_ids.clone(),
            ..SamplingParams::default()
        };
        let context = [&[case.start_token], &case.prefix[..]].concat();
        let mut history = TargetHistory::new(&params, &context);
        for &token in &case.generated {
            history.push(token);
        }
        let mut logits = case.logits;
        history.process(&params, &mut logits[..], &mut Edits::default());
        let mut scores = vec![None; logits.len()];
        for candidate in candidates(&params, &logits) {
            scores[candidate.token as usize] = Some(logits[candidate.token as usize] / params.temperature);
        }
        for (token, (got, expected)) in scores.iter().zip(&case.scores).enumerate() {
            match (got, expected) {
                (Some(got), Some(expected)) => {
                    assert!((got - expected).abs() < 1e-4, "{name}: token {token}: {got}, not {expected}");
                }
                (None, None) => {}
                _ => panic!("{name}: token {token}: {got:?}, not {expected:?}"),
            }
        }
    }
}

/// The definitions, with a full sort in double precision. None when a border is closer than `doubt`, so that
/// rounding could decide what survives.
fn reference(params: &SamplingParams, logits: &[f32], doubt: f64) -> Option<Vec<u32>> {
    let mut ranked: Vec<(u32, f64)> =
        (0..).zip(logits.iter().map(|&x| f64::from(x) / f64::from(params.temperature))).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if params.top_k > 0 && params.top_k < ranked.len() {
        let cut = ranked[params.top_k - 1].1;
        ranked.retain(|&(_, score)| score >= cut);
    }
    let max = ranked[0].1;
    let total: f64 = ranked.iter().map(|&(_, score)| (score - max).exp()).sum();
    if params.top_p < 1.0 {
        let mut before = 0.0;
        let mut kept = 0;
        for &(_, score) in &ranked {
            let share = before / total;
            if (share - f64::from(params.top_p)).abs() < doubt {
                return None;
            }
            if share >= f64::from(params.top_p) {
                break;
            }
            before += (score - max).exp();
            kept += 1;
        }
        ranked.truncate(kept.max(1));
    }
    if params.min_p > 0.0 {
        let close = |&(_, score): &(u32, f64)| {
            ((score - max).exp() - f64::from(params.min_p)).abs() < doubt && score != max
        };
        if ranked.iter().any(close) {
            return None;
        }
        ranked.retain(|&(_, score)| (score - max).exp() >= f64::from(params.min_p));
    }
    let mut tokens: Vec<u32> = ranked.into_iter().map(|(token, _)| token).collect();
    tokens.sort_unstable();
    Some(tokens)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn candidates_equal_the_definition(
        // Steps of a half make many equals.
        halves in prop::collection::vec(-30_i32..10, 1..600),
        fine in any::<bool>(),
        temperature in prop_oneof![Just(1.0_f32), 0.3_f32..3.0],
        top_k in prop_oneof![Just(0_usize), 1_usize..80],
        top_p in prop_oneof![Just(1.0_f32), 0.01_f32..0.999],
        min_p in prop_oneof![Just(0.0_f32), 0.001_f32..1.0],
    ) {
        let logits: Vec<f32> = (0..)
            .zip(&halves)
            .map(|(i, &h)| h as f32 / 2.0 + if fine { (i as f32 * 0.618).fract() } else { 0.0 })
            .collect();
        let params = SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() };
        if let Some(expected) = reference(&params, &logits, 1e-5) {
            let got: Vec<u32> = candidates(&params, &logits).iter().map(|c| c.token).collect();
            prop_assert_eq!(got, expected);
        }
    }
}

#[test]
fn candidates_of_a_large_row_equal_the_definition() {
    let row = |spread: f32| -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        (0..50_000).map(|_| (rng.next_u32() >> 8) as f32 / 16_777_216.0 * spread).collect()
    };
    for (spread, top_k, top_p, min_p) in [
        (1.0, 0, 0.5, 0.0),
        (20.0, 0, 0.9, 0.0),
        (20.0, 0, 0.9, 0.3),
        (20.0, 3000, 0.7, 0.0),
        (8.0, 0, 1.0, 0.02),
    ] {
        let params = SamplingParams { top_k, top_p, min_p, ..sampling() };
        let logits = row(spread);
        let got: HashSet<u32> = candidates(&params, &logits).iter().map(|c| c.token).collect();
        let expected: HashSet<u32> = reference(&params, &logits, 0.0).unwrap().into_iter().collect();
        // A token weighs so little here that rounding may move the border by one.
        let differing = got.symmetric_difference(&expected).count();
        assert!(differing <= 1, "{spread} {top_k} {top_p} {min_p}: {} {}", got.len(), expected.len());
    }
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    assert_eq!(greedy(&[1.0, 5.0, 5.0, 2.0]).unwrap(), Choice { token: 1, logprob: 0.0 });
}

#[test]
fn a_row_without_a_distribution_is_an_internal_error() {
    for logits in [vec![0.0, f32::NAN], vec![f32::NEG_INFINITY; 4], vec![0.0, f32::INFINITY], vec![]] {
        assert_eq!(greedy(&logits).unwrap_err().kind, ErrorKind::Internal, "{logits:?}");
    }
    // Forbidding the broken token does not hide it.
    let params = SamplingParams { suppress_tokens: vec![1], ..SamplingParams::default() };
    let error = sampler(params, 0).sample(&mut [0.0, f32::NAN], &mut SamplerScratch::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
}

#[test]
fn forbidding_everything_is_the_requests_fault() {
    let params = SamplingParams { bad_words: vec![vec![0], vec![1]], ..SamplingParams::default() };
    let error = sampler(params, 0).sample(&mut [0.0, 1.0], &mut SamplerScratch::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    assert!(error.message.contains("bad_words"), "{error}");
}

#[test]
fn a_penalty_takes_hold_of_what_was_sampled() {
    let params = SamplingParams { presence_penalty: 2.0, ..SamplingParams::default() };
    let mut sampler = sampler(params, 0);
    let mut scratch = SamplerScratch::default();
    let mut next = || sampler.sample(&mut [3.0, 2.0, 1.5], &mut scratch).unwrap().token;
    assert_eq!([next(), next(), next(), next()], [0, 1, 2, 0]);
}

#[test]
fn log_probabilities_are_the_models_own() {
    let params = SamplingParams {
        temperature: 0.2,
        top_k: 2,
        repetition_penalty: 4.0,
        suppress_tokens: vec![3],
        logprobs: true,
        ..SamplingParams::default()
    };
    let logits = [2.0_f32, 1.0, -1.0, 3.0];
    let normalizer = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
    let mut sampler = sampler(params, 1);
    let mut scratch = SamplerScratch::default();
    for _ in 0..20 {
        let choice = sampler.sample(&mut logits.clone(), &mut scratch).unwrap();
        let expected = f64::from(logits[choice.token as usize]) - normalizer;
        assert!((f64::from(choice.logprob) - expected).abs() < 1e-6);
    }
    let forced = log_probability(&logits, 2).unwrap();
    assert!((f64::from(forced) - (-1.0 - normalizer)).abs() < 1e-6);
    assert_eq!(log_probability(&logits, 4).unwrap_err().kind, ErrorKind::InvalidArgument);
    assert_eq!(log_probability(&[f32::NAN; 3], 1).unwrap_err().kind, ErrorKind::Internal);
}

#[test]
fn a_seed_decides_and_the_scratch_does_not() {
    let rows: Vec<Vec<f32>> =
        (0..32).map(|row| (0..100).map(|i| ((i * 37 + row * 11) % 100) as f32 / 25.0).collect()).collect();
    let params = SamplingParams { top_k: 40, top_p: 0.95, logprobs: true, ..sampling() };
    let run = |seed: u64, scratch: &mut SamplerScratch, disturb: bool| -> Vec<Choice> {
        let mut own = sampler(params.clone(), seed);
        let mut other = sampler(sampling(), 99);
        rows.iter()
            .map(|row| {
                if disturb {
                    other.sample(&mut row.clone(), scratch).unwrap();
                }
                own.sample(&mut row.clone(), scratch).unwrap()
            })
            .collect()
    };
    let alone = run(5, &mut SamplerScratch::default(), false);
    assert_eq!(alone, run(5, &mut SamplerScratch::default(), true));
    assert_ne!(alone, run(6, &mut SamplerScratch::default(), false));
}

#[test]
fn the_generator_is_the_same_on_every_machine() {
    let mut sampler = sampler(sampling(), 42);
    let mut scratch = SamplerScratch::default();
    let drawn: Vec<u32> =
        (0..12).map(|_| sampler.sample(&mut [0.0; 100], &mut scratch).unwrap().token).collect();
    assert_eq!(drawn, PINNED);
}

/// Changing these changes every sampled answer that a client has stored a seed for.
const PINNED: [u32; 12] = [68, 95, 42, 62, 28, 14, 30, 80, 77, 23, 50, 90];

#[test]
fn tokens_are_drawn_as_often_as_their_probability_says() {
    let logits = [0.1_f32.ln(), 0.2_f32.ln(), 0.7_f32.ln()];
    let mut sampler = sampler(sampling(), 7);
    let mut scratch = SamplerScratch::default();
    let mut counts = [0_f64; 3];
    for _ in 0..20_000 {
        counts[sampler.sample(&mut logits.clone(), &mut scratch).unwrap().token as usize] += 1.0;
    }
    for (count, expected) in counts.iter().zip([0.1, 0.2, 0.7]) {
        assert!((count / 20_000.0 - expected).abs() < 0.015, "{counts:?}");
    }
}

fn guided(choices: &[&[u32]]) -> SamplingParams {
    let choices = choices.iter().map(|choice| choice.to_vec()).collect();
    let guide = ChoiceGuide::new(choices, &[1]).unwrap();
    SamplingParams { guide: Some(Arc::new(guide)), eos_token_ids: vec![1], ..SamplingParams::default() }
}

/// The whole target, from the same logits at each step.
fn target(params: SamplingParams, seed: u64, logits: &[f32]) -> Result<Vec<u32>> {
    let mut sampler = sampler(params, seed);
    let mut scratch = SamplerScratch::default();
    let mut tokens = Vec::new();
    while tokens.last() != Some(&1) {
        tokens.push(sampler.sample(&mut logits.to_vec(), &mut scratch)?.token);
    }
    Ok(tokens)
}

#[test]
fn a_guide_lets_only_its_own_tokens_through() {
    let logits = [9.0, 0.0, 1.0, 2.0, 3.0, 9.0];
    assert_eq!(target(guided(&[&[2, 3], &[2, 4], &[2]]), 0, &logits).unwrap(), [2, 4, 1]);
    assert_eq!(target(guided(&[&[2, 3], &[2]]), 0, &[0.0, 5.0, 1.0, 2.0]).unwrap(), [2, 1]);
    // Among equals the lowest token.
    assert_eq!(target(guided(&[&[4], &[2], &[3]]), 0, &[0.0; 5]).unwrap(), [2, 1]);
}

#[test]
fn truncation_counts_the_tokens_that_the_guide_allows() {
    // In the whole vocabulary token 0 alone would be kept by each of these.
    let logits = [20.0, 0.0, 1.0, 1.0, -3.0];
    let choices: [&[u32]; 3] = [&[2], &[3], &[4]];
    let truncations = [
        SamplingParams { top_k: 2, ..sampling() },
        SamplingParams { top_p: 0.9, ..sampling() },
        SamplingParams { min_p: 0.5, ..sampling() },
    ];
    for truncation in truncations {
        let params = SamplingParams { guide: guided(&choices).guide, eos_token_ids: vec![1], ..truncation };
        let drawn: HashSet<u32> =
            (0..64).map(|seed| target(params.clone(), seed, &logits).unwrap()[0]).collect();
        assert_eq!(drawn, HashSet::from([2, 3]), "{params:?}");
    }
}

#[test]
fn penalties_weigh_what_a_guide_allows() {
    let params = SamplingParams { frequency_penalty: 5.0, ..guided(&[&[2, 2, 2], &[2, 3]]) };
    assert_eq!(target(params, 0, &[0.0, 0.0, 2.0, 1.0]).unwrap(), [2, 3, 1]);
}

#[test]
fn a_guided_tokens_log_probability_is_the_models_own() {
    let logits = [5.0, 0.0, 1.0, 2.0];
    let params = SamplingParams { logprobs: true, repetition_penalty: 2.0, ..guided(&[&[2], &[0, 3]]) };
    let choice = sampler(params, 0).sample(&mut logits.to_vec(), &mut SamplerScratch::default()).unwrap();
    assert_eq!(choice, Choice { token: 0, logprob: log_probability(&logits, 0).unwrap() });
}

#[test]
fn a_guide_does_not_hide_a_broken_row() {
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = target(guided(&[&[2], &[3]]), 0, &[0.0, 0.0, broken, broken]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
    }
    assert_eq!(target(guided(&[&[9]]), 0, &[0.0; 4]).unwrap_err().kind, ErrorKind::Internal);
}
