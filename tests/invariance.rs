//! The same request gives the same tokens and the same log-probabilities, to the last bit, alone, in a full
//! batch, and when it joins midway; greedy and sampled, in fp32 and int8.

mod support;

use std::{thread::sleep, time::Duration};

use support::{Artifact, Generated, fixture, submit, wait};
use textgen_convert::Precision;
use triton_textgen::{decoding::SamplingParams, text_model::TextModel};

/// Sources of many lengths, 1 among them: a batch of these is as ragged as it gets.
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
        .collect()
}

fn params(index: usize) -> SamplingParams {
    let sampled = index % 2 == 1;
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
        ..SamplingParams::default()
    }
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
    let artifact = Artifact::convert(&fixture("t5").join(fixture_name), precision).unwrap();
    let expected = alone(&artifact.model(1));
    assert!(
        expected.iter().flatten().all(|sequence| sequence.logprob_bits.len() == sequence.token_ids.len())
    );
    let model = artifact.model(32);
    // With 5 slots, rows wait, join late, and take slots that others have used.
    let small = artifact.model(5);
    for (label, got) in [
        ("alone in a large model", alone(&model)),
        ("all at once", together(&model, Duration::ZERO, false)),
        ("all at once, reversed", together(&model, Duration::ZERO, true)),
        ("staggered", together(&model, Duration::from_micros(700), false)),
        ("through few slots", together(&small, Duration::ZERO, false)),
        ("staggered through few slots", together(&small, Duration::from_micros(300), true)),
    ] {
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_eq!(got, expected, "{fixture_name} {precision:?}, {label}, request {index}");
        }
    }
}

#[test]
fn t5_fp32() {
    check("t5", Precision::Fp32);
}

#[test]
fn t5_int8() {
    check("mt5", Precision::Int8);
}

#[test]
fn umt5_int8() {
    check("umt5", Precision::Int8);
}
