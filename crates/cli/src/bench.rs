//! `textgen bench`: the bare engine's step, without server and sampling options.
//!
//! Random sources of one length are encoded, then all rows are decoded greedily, token by token, for a fixed
//! number of steps. The read bandwidth is that of all threads summing a buffer larger than the caches.

use std::{
    hint::black_box,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;
use textgen_artifact::Manifest;
use triton_textgen::{
    engine::{CrossView, DecodeBatch, EncodeBatch, Executor},
    model::{EncoderDecoder, Runtime},
};

use crate::runtime::RuntimeArguments;

#[derive(Args)]
pub struct Arguments {
    /// Folder of the artifact
    dir: PathBuf,
    /// Numbers of rows to measure
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    rows: Vec<usize>,
    /// Tokens of each source
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    source_tokens: u32,
    /// Steps to measure, after 4 that are not
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: RuntimeArguments,
}

struct Measured {
    rows: usize,
    encode: Duration,
    /// Median of the steps.
    step: Duration,
}

const WARM_UP_STEPS: u32 = 4;

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let manifest = Manifest::read(&arguments.dir)?;
    let runtime = Runtime::load(&arguments.runtime.library()?)?;
    let mut options = arguments.runtime.executor();
    options.max_sequences = arguments.rows.iter().copied().max().unwrap_or(1).max(1);
    options.max_target_tokens = options.max_target_tokens.max((arguments.steps + WARM_UP_STEPS) as usize);
    let loading = Instant::now();
    let mut executor = EncoderDecoder::load(runtime, &arguments.dir, &manifest, &options)?;
    let load = loading.elapsed();
    let threads = options.intra_op_threads;
    let bandwidth = read_bandwidth(threads);
    let step_bytes = manifest.decoder_weight_bytes();

    let mut results = Vec::new();
    for &rows in &arguments.rows {
        anyhow::ensure!(rows > 0, "--rows: got 0, expected at least 1");
        results.push(measure(&mut executor, rows, arguments)?);
    }
    if arguments.json {
        let rows: Vec<_> = results
            .iter()
            .map(|result| {
                json!({
                    "rows": result.rows,
                    "step_ms": result.step.as_secs_f64() * 1e3,
                    "tokens_per_second": result.rows as f64 / result.step.as_secs_f64(),
                    "encode_ms": result.encode.as_secs_f64() * 1e3,
                    "bandwidth_share": step_bytes as f64 / result.step.as_secs_f64() / bandwidth,
                })
            })
            .collect();
        println!(
            "{}",
            json!({
                "family": manifest.family, "threads": threads, "source_tokens": arguments.source_tokens,
                "load_ms": load.as_secs_f64() * 1e3, "decoder_weight_bytes": step_bytes,
                "read_bandwidth_bytes_per_second": bandwidth, "results": rows,
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{} threads, sources of {} tokens, loaded in {:.1} s; a step reads {:.1} MB of weights, \
         the machine {:.1} GB/s",
        threads,
        arguments.source_tokens,
        load.as_secs_f64(),
        step_bytes as f64 / 1e6,
        bandwidth / 1e9
    );
    println!(
        "{:>5} {:>10} {:>12} {:>10} {:>16}",
        "rows", "step ms", "tokens/s", "encode ms", "bandwidth share"
    );
    for result in &results {
        let seconds = result.step.as_secs_f64();
        println!(
            "{:>5} {:>10.2} {:>12.0} {:>10.2} {:>15.0}%",
            result.rows,
            seconds * 1e3,
            result.rows as f64 / seconds,
            result.encode.as_secs_f64() * 1e3,
            step_bytes as f64 / seconds / bandwidth * 100.0
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(executor: &mut EncoderDecoder, rows: usize, arguments: &Arguments) -> anyhow::Result<Measured> {
    let limits = executor.limits();
    let source_tokens = arguments.source_tokens as usize;
    anyhow::ensure!(
        source_tokens <= limits.max_source_tokens,
        "--source-tokens {source_tokens}: at most {} are served; see --max-source-tokens",
        limits.max_source_tokens
    );
    let steps = (arguments.steps + WARM_UP_STEPS) as usize;
    anyhow::ensure!(
        steps <= limits.max_target_tokens,
        "--steps {}: with {WARM_UP_STEPS} more, at most {} are served",
        arguments.steps,
        limits.max_target_tokens
    );
    let mut state = 1u64;
    let mut random_token = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % limits.vocab_size as u64) as u32
    };
    let mut encode = EncodeBatch::default();
    for row in 0..rows {
        let source: Vec<u32> = (0..source_tokens).map(|_| random_token()).collect();
        encode.push(&source, row);
    }
    executor.encode(&encode)?;
    let start = Instant::now();
    executor.encode(&encode)?;
    let encoded = start.elapsed();

    let mut tokens = vec![limits.decoder_start_token_id; rows];
    let mut batch = DecodeBatch::default();
    let mut times = Vec::with_capacity(steps);
    for position in 0..steps {
        let start = Instant::now();
        batch.clear();
        for (row, token) in tokens.iter().enumerate() {
            batch.push(&[*token], row, position, CrossView { slot: row, tokens: source_tokens });
        }
        executor.decode(&batch)?;
        for (row, token) in tokens.iter_mut().enumerate() {
            *token = greedy(executor.logits_mut(row));
        }
        times.push(start.elapsed());
    }
    let mut times = times.split_off(WARM_UP_STEPS as usize);
    times.sort();
    Ok(Measured { rows, encode: encoded, step: times[times.len() / 2] })
}

fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// Bytes that `threads` threads read in a second, the best of several passes over 512 MiB.
fn read_bandwidth(threads: usize) -> f64 {
    const BYTES: usize = 512 << 20;
    let buffer: Vec<u64> = (0..BYTES / 8).map(|index| index as u64).collect();
    let part = buffer.len().div_ceil(threads);
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for chunk in buffer.chunks(part) {
                    scope.spawn(|| black_box(chunk.iter().fold(0u64, |sum, value| sum.wrapping_add(*value))));
                }
            });
            start.elapsed()
        })
        .min()
        .unwrap_or(Duration::MAX);
    BYTES as f64 / best.as_secs_f64()
}
