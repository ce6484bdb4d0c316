//! A step of the real executor on a model so small that its matrix products cost next to nothing: what is left is paid
//! for every model.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{Artifact, fixture};
use textgen_convert::Precision;
use triton_textgen::engine::{DecodeBatch, Executor};

/// Tokens that each slot holds.
const CONTEXT: u32 = 64;

#[inline(never)]
fn measured(executor: &mut impl Executor, batch: &DecodeBatch) {
    executor.decode(batch).unwrap();
}

/// One row for each slot: `tokens` from `position` on, of which the last has logits.
fn batch(rows: usize, tokens: &[u32], position: usize) -> DecodeBatch {
    let mut batch = DecodeBatch::default();
    for slot in 0..rows {
        batch.push(tokens, slot, position, None);
        batch.want_logits();
    }
    batch
}

fn step(criterion: &mut Criterion) {
    let artifact = Artifact::convert(&fixture("decoder/qwen3"), Precision::Int8).unwrap();
    let mut executor = artifact.executor(32, 1);
    let prompt: Vec<u32> = (0..CONTEXT).collect();
    executor.decode(&batch(32, &prompt, 0)).unwrap();
    let mut group = criterion.benchmark_group("step");
    for rows in [1, 8, 32] {
        // The same step over and over: it writes what it wrote before.
        let batch = batch(rows, &[5], prompt.len());
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(BenchmarkId::new("rows", rows), |bencher| {
            bencher.iter(|| measured(&mut executor, &batch));
        });
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
