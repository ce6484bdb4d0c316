//! Choosing a token: one row of logits of the vocabularies of mT5, SmolLM2 and Llama 2.

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use triton_textgen::decoding::{Choice, SamplerScratch, SamplingParams, TokenSampler};

const VOCABULARIES: [usize; 3] = [250_112, 49_152, 32_000];

/// What a language model says in the middle of a text: a bell of width 2.5 over the whole vocabulary, and some
/// tokens far above it whose probabilities fall off as ranks do.
fn logits(words: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut uniform = || (rng.next_u32() >> 8) as f32 / 16_777_216.0;
    let mut logits: Vec<f32> =
        (0..words).map(|_| 2.5 * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0)).collect();
    for rank in 1..=200 {
        logits[(uniform() * words as f32) as usize] = 18.0 - 1.5 * (rank as f32).ln();
    }
    logits
}

fn cases() -> Vec<(&'static str, SamplingParams)> {
    let greedy = SamplingParams::default;
    let sampled = || SamplingParams { temperature: 0.8, seed: Some(1), ..SamplingParams::default() };
    vec![
        ("greedy", greedy()),
        ("greedy, logprobs", SamplingParams { logprobs: true, ..greedy() }),
        ("greedy, penalties", SamplingParams { repetition_penalty: 1.1, presence_penalty: 0.5, ..greedy() }),
        ("top-k 50", SamplingParams { top_k: 50, ..sampled() }),
        ("top-p 0.9", SamplingParams { top_p: 0.9, ..sampled() }),
        ("top-k 50, top-p 0.9", SamplingParams { top_k: 50, top_p: 0.9, ..sampled() }),
        ("min-p 0.05", SamplingParams { min_p: 0.05, ..sampled() }),
        ("temperature", sampled()),
        // Hundreds of thousands of candidates.
        ("top-p 0.9, temperature 2", SamplingParams { top_p: 0.9, temperature: 2.0, ..sampled() }),
    ]
}

#[inline(never)]
fn measured(sampler: &mut TokenSampler, logits: &mut [f32], scratch: &mut SamplerScratch) -> Choice {
    sampler.sample(logits, scratch).unwrap()
}

fn sample(criterion: &mut Criterion) {
    let mut scratch = SamplerScratch::default();
    for words in VOCABULARIES {
        let mut group = criterion.benchmark_group(format!("sampler/{words}"));
        let logits = logits(words);
        // What the target holds already: the penalties touch it.
        let context: Vec<u32> = (0..200).map(|i| i * (words as u32 / 200)).collect();
        for (name, params) in cases() {
            let params = Arc::new(params);
            group.bench_function(name, |bencher| {
                bencher.iter_batched_ref(
                    || (TokenSampler::new(params.clone(), 1, &context), logits.clone()),
                    |(sampler, logits)| measured(sampler, black_box(logits), &mut scratch),
                    // The row is overwritten, and as warm as the executor leaves it.
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

criterion_group!(benches, sample);
criterion_main!(benches);
