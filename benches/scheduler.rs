//! What the engine itself costs: the model answers at once.

use std::{
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    time::Instant,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use triton_textgen::{
    decoding::SamplingParams,
    engine::{
        DecodeBatch, EncodeBatch, Engine, EngineOptions, EventSink, Executor, ExecutorLimits,
        GenerateRequest, NoObserver, Prompt, SequenceUpdate, TextDecoder, TextDecoderFactory,
    },
    error::{Error, Result},
};

const SLOTS: usize = 32;
const STEPS: usize = 256;

/// Says the same few words for ever.
struct Scripted {
    logits: Vec<f32>,
}

impl Executor for Scripted {
    fn limits(&self) -> ExecutorLimits {
        ExecutorLimits {
            slots: SLOTS,
            max_target_tokens: 4096,
            vocab_size: self.logits.len(),
            encoder: None,
            can_rewind: true,
        }
    }

    fn encode(&mut self, _: &EncodeBatch) -> Result<()> {
        Err(Error::internal("there is no encoder"))
    }

    fn decode(&mut self, _: &DecodeBatch) -> Result<()> {
        Ok(())
    }

    fn copy_prefix(&mut self, _: usize, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn logits_mut(&mut self, _: usize) -> Result<&mut [f32]> {
        Ok(&mut self.logits)
    }
}

struct Letters;

impl TextDecoder for Letters {
    fn push(&mut self, _: u32, text: &mut String) {
        text.push('a');
    }

    fn finish(&mut self, _: &mut String) {}
}

impl TextDecoderFactory for Letters {
    fn text_decoder(&self) -> Box<dyn TextDecoder> {
        Box::new(Letters)
    }
}

/// Tells when its request has ended.
struct End(Sender<()>);

impl EventSink for End {
    fn update(&mut self, _: &SequenceUpdate<'_>) {}

    fn choice_probabilities(&mut self, _: usize, _: &[f64]) {}

    fn complete(self: Box<Self>) {
        self.0.send(()).unwrap();
    }

    fn fail(self: Box<Self>, error: Error) {
        panic!("{error}");
    }

    fn given_up(&self) -> Option<Error> {
        None
    }
}

/// Runs requests of one prompt each to their ends.
fn run(engine: &Engine, prompts: impl Iterator<Item = Vec<u32>>, max_new_tokens: usize) {
    let params = Arc::new(SamplingParams { max_new_tokens, ..SamplingParams::default() });
    let (ended, ends) = channel();
    for source in prompts {
        engine.submit(GenerateRequest {
            prompts: vec![Prompt { source, decoder_prefix: Vec::new(), max_new_tokens: None }],
            params: params.clone(),
            arrival: Instant::now(),
            deadline: None,
            sink: Box::new(End(ended.clone())),
        });
    }
    drop(ended);
    ends.iter().for_each(drop);
}

fn schedule(criterion: &mut Criterion) {
    let executor = || Ok(Scripted { logits: (0..64).map(|i| i as f32).collect() });
    let options = EngineOptions::default();
    let engine = Engine::start("bench", executor, Arc::new(Letters), Arc::new(NoObserver), options).unwrap();

    let mut group = criterion.benchmark_group("scheduler/steps");
    group.throughput(Throughput::Elements(STEPS as u64));
    for rows in [1, 8, SLOTS] {
        group.bench_function(BenchmarkId::new("rows", rows), |bencher| {
            bencher.iter(|| run(&engine, (0..rows).map(|row| vec![row as u32]), STEPS));
        });
    }
    group.finish();

    // Prompts that come in parts beside streams, which end and make room for the next.
    let mut group = criterion.benchmark_group("scheduler/requests");
    group.throughput(Throughput::Elements(4 * SLOTS as u64));
    // No two begin alike, so that none is spared by a cache.
    let mut serial = 0;
    group.bench_function("prompts of 300 tokens", |bencher| {
        bencher.iter(|| {
            let prompts = (0..4 * SLOTS).map(|_| {
                serial += 1;
                vec![serial; 300]
            });
            run(&engine, prompts, 16);
        });
    });
}

criterion_group!(benches, schedule);
criterion_main!(benches);
