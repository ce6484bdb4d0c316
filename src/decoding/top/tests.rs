//! The largest logits against all of them: the same tokens by the same seed, or an honest "not enough".

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::decoding::{
    Choice, ChoiceGuide, SamplerScratch, SamplingParams, TokenSampler, blocks::log_sum_exp,
};

/// The `k` largest of a row as a device gives them: any of those that equal the last.
struct Largest {
    tokens: Vec<i64>,
    logits: Vec<f32>,
    log_sum_exp: f32,
    vocab_size: usize,
}

impl Largest {
    fn new(row: &[f32], k: usize, last_first: bool) -> Self {
        let mut order: Vec<usize> = (0..row.len()).collect();
        if last_first {
            order.reverse();
        }
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        order.truncate(k);
        Self {
            tokens: order.iter().map(|&token| token as i64).collect(),
            logits: order.iter().map(|&token| row[token]).collect(),
            log_sum_exp: log_sum_exp(row).map_or(f32::NAN, |sum| sum as f32),
            vocab_size: row.len(),
        }
    }

    fn top(&self) -> TopLogits<'_> {
        let Self { tokens, logits, log_sum_exp, vocab_size } = self;
        TopLogits { tokens, logits, log_sum_exp: *log_sum_exp, vocab_size: *vocab_size }
    }
}

fn sampler(params: &SamplingParams, seed: u64) -> TokenSampler {
    TokenSampler::new(Arc::new(params.clone()), seed, &[1, 2])
}

fn of_top(sampler: &mut TokenSampler, row: &[f32], k: usize) -> Option<Choice> {
    sampler.sample_top(Largest::new(row, k, false).top(), &mut SamplerScratch::default()).unwrap()
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let truncation = (
        prop_oneof![Just(0.0_f32), 0.3_f32..2.0],
        prop_oneof![Just(0_usize), 1_usize..40],
        prop_oneof![Just(1.0_f32), 0.1_f32..0.99],
        prop_oneof![Just(0.0_f32), 0.01_f32..1.0],
    );
    let processors = (
        prop_oneof![Just(1.0_f32), 1.0_f32..2.0, 0.5_f32..1.0],
        prop_oneof![Just(0.0_f32), 0.0_f32..2.0, -1.0_f32..0.0],
        prop_oneof![Just(0.0_f32), 0.0_f32..1.0],
        prop::collection::vec(prop::collection::vec(0_u32..90, 1..3), 0..4),
        prop::collection::vec(0_u32..90, 0..6),
        0_usize..4,
    );
    (truncation, processors, any::<bool>()).prop_map(|(truncation, processors, logprobs)| {
        let (temperature, top_k, top_p, min_p) = truncation;
        let (
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            bad_words,
            suppress_tokens,
            min_new_tokens,
        ) = processors;
        SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            bad_words,
            suppress_tokens,
            min_new_tokens,
            eos_token_ids: vec![0, 3],
            logprobs,
            ..SamplingParams::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_largest_choose_what_all_choose(
        // Steps of a half make many equals.
        rows in prop::collection::vec(prop::collection::vec(-30_i32..10, 90), 1..6),
        fine in any::<bool>(),
        last_first in any::<bool>(),
        k in prop_oneof![1_usize..64, Just(90_usize)],
        params in params(),
        seed in any::<u64>(),
    ) {
        let (mut all, mut top) = (sampler(&params, seed), sampler(&params, seed));
        let (mut scratch, mut other) = (SamplerScratch::default(), SamplerScratch::default());
        for halves in &rows {
            let row: Vec<f32> = (0..)
                .zip(halves)
                .map(|(i, &h)| h as f32 / 2.0 + if fine { (i as f32 * 0.618).fract() } else { 0.0 })
                .collect();
            let expected = all.sample(&mut row.clone(), &mut scratch).unwrap();
            let got = match top.sample_top(Largest::new(&row, k, last_first).top(), &mut other).unwrap() {
                Some(choice) => choice,
                None => {
                    let needs_others = !params.only_lowers() || k < row.len();
                    prop_assert!(needs_others, "all were there, and nothing was chosen");
                    top.sample(&mut row.clone(), &mut other).unwrap()
                }
            };
            prop_assert_eq!(got.token, expected.token);
            prop_assert!((got.logprob - expected.logprob).abs() < 1e-5, "{:?} {:?}", got, expected);
        }
    }
}

/// Logits without equals, whose order is not that of the tokens.
fn row() -> Vec<f32> {
    (0..500_u32).map(|i| (i * 193 % 500) as f32 / 25.0).collect()
}

#[test]
fn few_are_enough_where_no_other_can_be_chosen() {
    let sampling = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let enough = |params: SamplingParams, k| of_top(&mut sampler(&params, 7), &row(), k).is_some();
    // The least of the largest may equal others, so that one more than is needed is needed.
    assert!(enough(SamplingParams::default(), 2) && !enough(SamplingParams::default(), 1));
    assert!(enough(SamplingParams { top_k: 10, ..sampling.clone() }, 11));
    assert!(!enough(SamplingParams { top_k: 10, ..sampling.clone() }, 10));
    assert!(enough(SamplingParams { top_k: 10, top_p: 0.5, min_p: 0.1, ..sampling.clone() }, 11));
    assert!(enough(SamplingParams { min_p: 0.5, ..sampling.clone() }, 30));
    assert!(!enough(SamplingParams { min_p: 0.01, ..sampling.clone() }, 30));
    assert!(!enough(sampling.clone(), 499) && enough(sampling.clone(), 500));
    // The weights of the row are 1, 0.96, 0.92, …; those beyond the 64th are 8 % of all.
    assert!(enough(SamplingParams { top_p: 0.5, ..sampling.clone() }, 64));
    assert!(!enough(SamplingParams { top_p: 0.95, ..sampling.clone() }, 64));
    assert!(enough(SamplingParams { top_p: 0.95, temperature: 0.25, ..sampling.clone() }, 64));
    assert!(!enough(SamplingParams { top_p: 0.5, temperature: 9.0, ..sampling.clone() }, 64));
    // The first three are forbidden.
    let mut order: Vec<u32> = (0..500).collect();
    order.sort_by(|&a, &b| row()[b as usize].total_cmp(&row()[a as usize]));
    let forbidding = SamplingParams { suppress_tokens: order[..3].to_vec(), ..SamplingParams::default() };
    assert!(enough(forbidding.clone(), 5) && !enough(forbidding.clone(), 4) && !enough(forbidding, 3));
    // What is raised may come from anywhere.
    for raising in [
        SamplingParams { repetition_penalty: 0.9, ..SamplingParams::default() },
        SamplingParams { presence_penalty: -0.1, ..SamplingParams::default() },
        SamplingParams { frequency_penalty: -0.1, ..SamplingParams::default() },
    ] {
        assert!(!enough(raising, 64));
    }
    let guide = Arc::new(ChoiceGuide::new(vec![vec![5]], &[0]).unwrap());
    assert!(!enough(SamplingParams { guide: Some(guide), ..SamplingParams::default() }, 64));
}

#[test]
fn a_nucleus_of_the_largest_is_that_of_all() {
    for (top_p, temperature, k) in [(0.5, 1.0, 64), (0.3, 1.5, 200), (0.9, 1.0, 200), (0.95, 0.25, 64)] {
        let params = SamplingParams { top_p, temperature, ..SamplingParams::default() };
        let mut decided = 0;
        for seed in 0..400 {
            let Some(choice) = of_top(&mut sampler(&params, seed), &row(), k) else { continue };
            let all = sampler(&params, seed).sample(&mut row(), &mut SamplerScratch::default()).unwrap();
            assert_eq!(choice.token, all.token, "top_p {top_p}, temperature {temperature}, seed {seed}");
            decided += 1;
        }
        assert!(decided == 400 || temperature > 1.0, "{decided} at top_p {top_p}, temperature {temperature}");
    }
}

/// The floor below which nothing is looked at is that of the largest, not of all.
#[test]
fn few_of_the_largest_that_weigh_little_of_all_are_looked_at() {
    let mut row = vec![0.0; 90];
    for token in [4, 18, 53, 66, 88] {
        row[token] = 4.5;
    }
    row[17] = 4.0;
    let params = SamplingParams { temperature: 1.07, top_p: 0.22, ..SamplingParams::default() };
    for seed in 0..50 {
        let choice = of_top(&mut sampler(&params, seed), &row, 6).unwrap();
        let all = sampler(&params, seed).sample(&mut row.clone(), &mut SamplerScratch::default()).unwrap();
        assert_eq!(choice.token, all.token, "seed {seed}");
    }
}

#[test]
fn not_enough_draws_no_random_number_and_counts_nothing() {
    let params = SamplingParams { temperature: 1.0, frequency_penalty: 0.5, ..SamplingParams::default() };
    let (mut tried, mut fresh) = (sampler(&params, 3), sampler(&params, 3));
    for _ in 0..20 {
        assert_eq!(of_top(&mut tried, &row(), 64), None);
        let scratch = &mut SamplerScratch::default();
        assert_eq!(tried.sample(&mut row(), scratch).unwrap(), fresh.sample(&mut row(), scratch).unwrap());
    }
}

#[test]
fn a_row_without_a_distribution_is_an_error_though_the_largest_look_sound() {
    for log_sum_exp in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let top = TopLogits { tokens: &[4, 9], logits: &[2.0, 1.0], log_sum_exp, vocab_size: 500 };
        let sampled = sampler(&SamplingParams::default(), 0).sample_top(top, &mut SamplerScratch::default());
        assert!(sampled.unwrap_err().message.contains("NaN"));
    }
}

#[test]
fn tokens_that_are_none_of_the_vocabulary_are_never_chosen() {
    let top = TopLogits { tokens: &[-1, 9, 4], logits: &[3.0, 2.0, 1.0], log_sum_exp: 3.5, vocab_size: 500 };
    let sampled = sampler(&SamplingParams::default(), 0).sample_top(top, &mut SamplerScratch::default());
    assert_eq!(sampled.unwrap().unwrap().token, 9);
}
