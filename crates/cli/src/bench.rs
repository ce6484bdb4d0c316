//! `textgen bench`: the executor and the sampler, without server, queue and tokenizer.
//!
//! Random sources of one length are encoded together, then all rows are decoded greedily, token by token, for a
//! fixed number of steps, whatever the tokens are. The total is the time of all that, from token ids to token
//! ids. The read bandwidth is that of all threads summing a buffer larger than the caches.

use std::{
    hint::black_box,
    io::{BufWriter, Write, stdout},
    ops::Range,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use textgen_artifact::Manifest;
use triton_textgen::{
    decoding::{SamplerScratch, SamplingParams, TokenSampler},
    engine::{CrossView, DecodeBatch, EncodeBatch, Executor, choose},
    model::{ModelExecutor, Runtime},
};

use crate::{bench_texts, memory::resident_bytes, runtime::RuntimeArguments};

#[derive(Args)]
pub struct Arguments {
    /// Folder of the artifact
    dir: PathBuf,
    /// Numbers of rows to measure
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    rows: Vec<usize>,
    /// Tokens of each source or prompt
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    source_tokens: u32,
    /// Tokens to generate in each row
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Time the texts of this file, one a line, through the whole engine instead: --rows of them at a time
    #[arg(long, value_name = "FILE", requires = "json")]
    texts: Option<PathBuf>,
    #[command(flatten)]
    runtime: RuntimeArguments,
}

/// What one number of rows took.
struct Measured {
    rows: usize,
    encode: Duration,
    /// Median of the steps.
    step: Duration,
    /// Encoding and all steps.
    total: Duration,
}

impl Measured {
    fn new(rows: usize, encode: Duration, mut steps: Vec<Duration>) -> Self {
        let total = encode + steps.iter().sum::<Duration>();
        steps.sort();
        Self { rows, encode, step: steps.get(steps.len() / 2).copied().unwrap_or_default(), total }
    }

    /// While all rows are being decoded.
    fn tokens_per_second(&self) -> f64 {
        self.rows as f64 / self.step.as_secs_f64()
    }

    /// Encoding included.
    fn total_tokens_per_second(&self, steps: u32) -> f64 {
        self.rows as f64 * f64::from(steps) / self.total.as_secs_f64()
    }
}

/// Prompt tokens of one step.
const PREFILL_TOKENS: usize = 512;
/// Steps of the run before the one that counts.
const WARM_UP_STEPS: u32 = 4;

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(!arguments.rows.contains(&0), "--rows: got 0, expected at least 1");
    if let Some(texts) = &arguments.texts {
        bench_texts::run(&arguments.dir, texts, &arguments.rows, &arguments.runtime.model()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let manifest = Manifest::read(&arguments.dir)?;
    let runtime = Runtime::load(&arguments.runtime.library()?)?;
    let mut options = arguments.runtime.executor();
    options.max_sequences = arguments.rows.iter().copied().max().unwrap_or(1);
    options.max_target_tokens =
        options.max_target_tokens.max(arguments.steps.max(WARM_UP_STEPS) as usize + 1);
    let loading = Instant::now();
    let mut executor = ModelExecutor::load(runtime, &arguments.dir, &manifest, &options)?;
    let load = loading.elapsed();
    let limits = executor.limits();
    let source_tokens = arguments.source_tokens as usize;
    // Beside the generated tokens, a context holds the prompt.
    let (max_source_tokens, given) = match limits.encoder {
        Some(encoder) => (encoder.max_source_tokens, 0),
        None => (limits.max_target_tokens, source_tokens - 1),
    };
    let given = given + usize::from(limits.encoder.is_some_and(|encoder| encoder.slots_keep_sources));
    anyhow::ensure!(
        source_tokens <= max_source_tokens,
        "--source-tokens {source_tokens}: at most {max_source_tokens} are served; see --max-source-tokens and \
         --max-context-tokens"
    );
    anyhow::ensure!(
        given + arguments.steps.max(WARM_UP_STEPS) as usize <= limits.max_target_tokens,
        "--steps {}: the model has positions for {} tokens; ask for fewer",
        arguments.steps,
        limits.max_target_tokens
    );
    let threads = options.intra_op_threads;
    let bandwidth = read_bandwidth(threads);
    let mut results = Vec::new();
    for &rows in &arguments.rows {
        let sources = random_sources(rows, source_tokens, limits.vocab_size);
        // The first run pays for pages and buffers.
        generate(&mut executor, &sources, WARM_UP_STEPS)?;
        results.push(generate(&mut executor, &sources, arguments.steps)?);
    }
    print(arguments, &manifest, &results, &Machine { threads, load, bandwidth })?;
    Ok(ExitCode::SUCCESS)
}

fn random_sources(rows: usize, tokens: usize, vocab_size: usize) -> Vec<Vec<u32>> {
    let mut state = 1u64;
    let mut random_token = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab_size as u64) as u32
    };
    (0..rows).map(|_| (0..tokens).map(|_| random_token()).collect()).collect()
}

/// Takes in `sources` together, as sources or as prompts, and decodes `steps` tokens of each.
fn generate(executor: &mut ModelExecutor, sources: &[Vec<u32>], steps: u32) -> anyhow::Result<Measured> {
    let encoder = executor.limits().encoder;
    // No end-of-sequence tokens: nothing ends early.
    let params = Arc::new(SamplingParams::default());
    let sampler = |_| (TokenSampler::new(params.clone(), 0, &[]), 0);
    let mut rows = Rows { sources, rows: sources.iter().map(sampler).collect(), ..Rows::default() };

    let start = Instant::now();
    let mut given = 0;
    if let Some(encoder) = encoder {
        let mut batch = EncodeBatch::default();
        for first in (0..sources.len()).step_by(encoder.cross_slots) {
            let some = first..sources.len().min(first + encoder.cross_slots);
            batch.clear();
            for row in some.clone() {
                batch.push(&sources[row], row - first);
                rows.rows[row].1 = encoder.decoder_start_token_id;
            }
            executor.encode(&batch)?;
            // From its first token on a row does without the cross slot, which others need.
            if encoder.slots_keep_sources {
                rows.step(executor, some, 0)?;
                given = 1;
            }
        }
    } else {
        let mut batch = DecodeBatch::default();
        for (row, source) in sources.iter().enumerate() {
            // The last token of the prompt is fed by the first step.
            let (last, first) = source.split_last().context("an empty source")?;
            rows.rows[row].1 = *last;
            given = first.len();
            for (index, chunk) in first.chunks(PREFILL_TOKENS).enumerate() {
                batch.clear();
                batch.push(chunk, row, index * PREFILL_TOKENS, None);
                executor.decode(&batch)?;
            }
        }
    }
    let encode = start.elapsed();

    let mut times = Vec::with_capacity(steps as usize);
    for position in given..given + steps as usize {
        let start = Instant::now();
        rows.step(executor, 0..sources.len(), position)?;
        times.push(start.elapsed());
    }
    Ok(Measured::new(sources.len(), encode, times))
}

/// Sequences that are decoded together; row `i` has slot `i`.
#[derive(Default)]
struct Rows<'a> {
    sources: &'a [Vec<u32>],
    /// What chooses the next token, and the last one.
    rows: Vec<(TokenSampler, u32)>,
    batch: DecodeBatch,
    scratch: SamplerScratch,
}

impl Rows<'_> {
    /// Feeds the last tokens of `some` of them, at `position`, and chooses the next.
    fn step(
        &mut self,
        executor: &mut ModelExecutor,
        some: Range<usize>,
        position: usize,
    ) -> anyhow::Result<()> {
        let first = some.start;
        let has_encoder = executor.limits().encoder.is_some();
        self.batch.clear();
        for row in some.clone() {
            let tokens = self.sources[row].len();
            let cross = has_encoder.then_some(CrossView { slot: row - first, tokens });
            self.batch.push(&[self.rows[row].1], row, position, cross);
            self.batch.want_logits();
        }
        executor.decode(&self.batch)?;
        for (output, (sampler, token)) in self.rows[some].iter_mut().enumerate() {
            *token = choose(executor, output, sampler, &mut self.scratch)?.token;
        }
        Ok(())
    }
}

/// What is the same for every number of rows.
struct Machine {
    threads: usize,
    load: Duration,
    /// Bytes that can be read in a second.
    bandwidth: f64,
}

fn print(
    arguments: &Arguments,
    manifest: &Manifest,
    results: &[Measured],
    machine: &Machine,
) -> anyhow::Result<()> {
    let step_bytes = manifest.decoder_weight_bytes();
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let share = |result: &Measured| step_bytes as f64 / result.step.as_secs_f64() / machine.bandwidth;
    let mut out = BufWriter::new(stdout().lock());
    if arguments.json {
        let rows: Vec<_> = results
            .iter()
            .map(|result| {
                json!({
                    "rows": result.rows,
                    "step_ms": milliseconds(result.step),
                    "tokens_per_second": result.tokens_per_second(),
                    "encode_ms": milliseconds(result.encode),
                    "total_ms": milliseconds(result.total),
                    "total_tokens_per_second": result.total_tokens_per_second(arguments.steps),
                    "bandwidth_share": share(result),
                })
            })
            .collect();
        writeln!(
            out,
            "{}",
            json!({
                "family": manifest.family, "threads": machine.threads,
                "source_tokens": arguments.source_tokens, "steps": arguments.steps,
                "load_ms": milliseconds(machine.load), "decoder_weight_bytes": step_bytes,
                "read_bandwidth_bytes_per_second": machine.bandwidth, "resident_bytes": resident_bytes(),
                "results": rows,
            })
        )?;
    } else {
        writeln!(
            out,
            "{} threads, inputs of {} tokens, {} tokens generated in each row, loaded in {:.1} s; \
             a step reads {:.1} MB of weights, the machine {:.1} GB/s",
            machine.threads,
            arguments.source_tokens,
            arguments.steps,
            machine.load.as_secs_f64(),
            step_bytes as f64 / 1e6,
            machine.bandwidth / 1e9
        )?;
        writeln!(
            out,
            "{:>5} {:>10} {:>12} {:>10} {:>10} {:>18} {:>16}",
            "rows", "step ms", "tokens/s", "encode ms", "total ms", "tokens/s of total", "bandwidth share"
        )?;
        for result in results {
            writeln!(
                out,
                "{:>5} {:>10.2} {:>12.0} {:>10.2} {:>10.1} {:>18.0} {:>15.0}%",
                result.rows,
                milliseconds(result.step),
                result.tokens_per_second(),
                milliseconds(result.encode),
                milliseconds(result.total),
                result.total_tokens_per_second(arguments.steps),
                share(result) * 100.0
            )?;
        }
    }
    Ok(out.flush()?)
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
