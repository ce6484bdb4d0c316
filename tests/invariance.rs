//! The same request gives the same tokens and the same log-probabilities, to the last bit, alone, in a full
//! batch, and when it joins midway; greedy and sampled, in fp32 and int8. In decoder-only models also however its
//! prompt is cut into steps, and whether or not its beginning was in a cache; with drafts as without.

mod support;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::sleep,
    time::Duration,
};

use support::{Artifact, DraftCounter, Generated, fixture, submit, wait};
use textgen_convert::Precision;
use triton_textgen::{
    decoding::{ChoiceGuide, SamplingParams},
    engine::{EngineOptions, PromptLookup, score},
    text_model::TextModel,
};

const LOOKUP: PromptLookup = PromptLookup { num_tokens: 6, max_ngram_size: 3 };

/// Sources of many lengths, 1 among them: a batch of these is as ragged as it gets. Some begin alike.
fn sources() -> Vec<Vec<u32>> {
    let mut state = 7u32;
    [1, 2, 3, 5, 8, 13, 21, 34, 55, 90, 150, 16, 17, 31, 33, 4, 64, 7, 11, 40]
        .into_iter()
        .map(|length| {
            (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    3 + (state >> 16) % 100
                })
                .collect()
        })
        .enumerate()
        .map(
            |(index, source): (usize, Vec<u32>)| {
                if index % 3 == 0 { (3..3 + 50).chain(source).collect() } else { source }
            },
        )
        .collect()
}

fn params(index: usize) -> SamplingParams {
    let sampled = index % 2 == 1;
    let guide = guide(index);
    SamplingParams {
        // Different lengths, so that rows leave at different times.
        max_new_tokens: 8 + 5 * (index % 7),
        temperature: if sampled { 0.9 } else { 0.0 },
        top_k: if sampled { 20 } else { 0 },
        top_p: if index % 4 == 3 { 0.9 } else { 1.0 },
        repetition_penalty: if index.is_multiple_of(3) { 1.2 } else { 1.0 },
        seed: Some(1000 + index as u64),
        num_return_sequences: if sampled { 1 + index % 3 } else { 1 },
        logprobs: true,
        eos_token_ids: if guide.is_some() { vec![1] } else { Vec::new() },
        guide,
        choice_probabilities: index % 8 == 4,
        ..SamplingParams::default()
    }
}

/// Some targets are chosen among given ones, which begin alike and differ in length.
fn guide(index: usize) -> Option<Arc<ChoiceGuide>> {
    let choices = [&[20, 21, 22][..], &[20, 21], &[20, 31, 9, 7, 40], &[5], &[41, 41]];
    let choices = choices.iter().map(|choice| choice.to_vec()).collect();
    (index.is_multiple_of(4) || index % 7 == 5).then(|| Arc::new(ChoiceGuide::new(choices, &[1]).unwrap()))
}

fn alone(model: &TextModel) -> Vec<Vec<Generated>> {
    sources()
        .into_iter()
        .enumerate()
        .map(|(index, source)| wait(&submit(model, source, prefix(index), params(index))))
        .collect()
}

/// Some targets begin with a forced prefix, which is fed in one step.
fn prefix(index: usize) -> &'static [u32] {
    if index % 5 == 2 { &[9, 10, 11] } else { &[] }
}

/// All at once, or one after the other with a pause in which the earlier ones are decoded.
fn together(model: &TextModel, pause: Duration, reversed: bool) -> Vec<Vec<Generated>> {
    let mut requests: Vec<_> = sources().into_iter().enumerate().collect();
    if reversed {
        requests.reverse();
    }
    let mut outcomes: Vec<_> = requests
        .into_iter()
        .map(|(index, source)| {
            sleep(pause);
            (index, submit(model, source, prefix(index), params(index)))
        })
        .collect();
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.iter().map(|(_, outcome)| wait(outcome)).collect()
}

fn check(fixture_name: &str, precision: Precision) {
    let artifact = Artifact::convert(&fixture(fixture_name), precision).unwrap();
    let plain = EngineOptions { prefix_reuse: false, ..EngineOptions::default() };
    let expected = alone(&artifact.model_with(1, plain.clone()));
    assert!(
        expected.iter().flatten().all(|sequence| sequence.logprob_bits.len() == sequence.token_ids.len())
    );
    let model = artifact.model(32);
    // With 5 slots, rows wait, join late, and take slots that others have used.
    let small = artifact.model(5);
    // Prompts in small and odd parts, beside streams and alone.
    let parts = EngineOptions { max_prefill_tokens: 3, max_encode_tokens: 7, ..EngineOptions::default() };
    let parts = artifact.model_with(32, parts);
    // A few slots, so that there is room for drafts.
    let drafting = EngineOptions { prompt_lookup: LOOKUP, max_prefill_tokens: 3, ..EngineOptions::default() };
    let drafts = Arc::new(DraftCounter::default());
    let drafting = artifact.observed_model(5, drafting, drafts.clone());
    let nothing_reused = artifact.model_with(32, plain);
    for (label, got) in [
        ("alone in a large model", alone(&model)),
        ("all at once", together(&model, Duration::ZERO, false)),
        ("all at once, reversed", together(&model, Duration::ZERO, true)),
        ("staggered", together(&model, Duration::from_micros(700), false)),
        ("through few slots", together(&small, Duration::ZERO, false)),
        ("staggered through few slots", together(&small, Duration::from_micros(300), true)),
        ("once more through few slots", together(&small, Duration::ZERO, false)),
        ("in small parts", together(&parts, Duration::ZERO, false)),
        ("without reuse", together(&nothing_reused, Duration::ZERO, true)),
        ("alone with drafts", alone(&drafting)),
        ("all at once with drafts", together(&drafting, Duration::ZERO, false)),
        ("staggered with drafts", together(&drafting, Duration::from_micros(700), true)),
    ] {
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_eq!(got, expected, "{fixture_name} {precision:?}, {label}, request {index}");
        }
    }
    let (drafted, accepted) = (drafts.drafted.load(Relaxed), drafts.accepted.load(Relaxed));
    assert!(0 < accepted && accepted < drafted, "{fixture_name}: {accepted} of {drafted} drafted tokens");
}

/// A text that was generated token by token has the same log-probabilities when it is fed in one go.
fn check_cache(fixture_name: &str, precision: Precision) {
    let artifact = Artifact::convert(&fixture(fixture_name), precision).unwrap();
    let model = artifact.model(1);
    let mut executor = artifact.executor(1, 2);
    for (index, source) in sources().into_iter().enumerate() {
        let params = SamplingParams { max_new_tokens: 40, logprobs: true, ..SamplingParams::default() };
        let generated = wait(&submit(&model, source.clone(), &[], params)).remove(0);
        let scores = score(&mut executor, &source, &generated.token_ids).unwrap();
        let bits: Vec<u32> = scores.iter().map(|score| score.to_bits()).collect();
        assert_eq!(bits, generated.logprob_bits, "{fixture_name} {precision:?}, source {index}");
    }
}

#[test]
fn t5_fp32() {
    check("t5/t5", Precision::Fp32);
}

#[test]
fn t5_int8() {
    check("t5/mt5", Precision::Int8);
}

#[test]
fn umt5_int8() {
    check("t5/umt5", Precision::Int8);
}

#[test]
fn hunyuan_fp32() {
    check("decoder/hunyuan", Precision::Fp32);
}

#[test]
fn qwen2_int8() {
    check("decoder/qwen2", Precision::Int8);
}

#[test]
fn gemma2_int8() {
    check("decoder/gemma2", Precision::Int8);
}

#[test]
fn llama_int4() {
    check("decoder/llama", Precision::Int4);
}

#[test]
fn cached_is_uncached() {
    check_cache("t5/t5", Precision::Fp32);
    check_cache("t5/mt5", Precision::Int8);
    check_cache("decoder/gemma3", Precision::Fp32);
    check_cache("decoder/hunyuan", Precision::Int8);
    check_cache("decoder/qwen3", Precision::Int4);
}
