//! `textgen bench --texts`: real texts through the whole engine.
//!
//! What is timed is from texts to texts: tokenizer, queue, batching, sampling, detokenizer; no server. The texts of the
//! file are taken so many at a time, the next ones once all of these are done.

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;
use triton_textgen::{
    engine::{EventSink, GenerateRequest, NoObserver, SequenceUpdate},
    error::Error,
    options::RequestOptions,
    prompt::PromptInput,
    text_model::{ModelOptions, TextModel},
};

use crate::memory::resident_bytes;

/// Passes over the file, after one that does not count.
const PASSES: usize = 3;

/// Sends the tokens of a request when it is complete.
struct Counter {
    tokens: usize,
    done: Sender<Result<usize, Error>>,
}

impl EventSink for Counter {
    fn update(&mut self, update: &SequenceUpdate<'_>) {
        self.tokens += update.token_ids.len();
    }

    fn choice_probabilities(&mut self, _: usize, _: &[f64]) {}

    fn complete(self: Box<Self>) {
        let _ = self.done.send(Ok(self.tokens));
    }

    fn fail(self: Box<Self>, error: Error) {
        let _ = self.done.send(Err(error));
    }

    fn given_up(&self) -> Option<Error> {
        None
    }
}

/// Prints one JSON object: for each number in `rows` the median time of so many texts, and their tokens.
pub fn run(dir: &Path, file: &Path, rows: &[usize], options: &ModelOptions) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("--texts {}", file.display()))?;
    let texts: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let loading = Instant::now();
    let model = TextModel::load(dir, "textgen", options, Arc::new(NoObserver))?;
    let load = loading.elapsed();
    let mut results = Vec::new();
    for &rows in rows {
        anyhow::ensure!(
            (1..=texts.len()).contains(&rows),
            "--rows {rows}: expected 1 to {}, the texts of {}",
            texts.len(),
            file.display()
        );
        let mut times = Vec::new();
        let mut tokens = 0;
        for pass in 0..=PASSES {
            for group in texts.chunks_exact(rows) {
                let (time, generated) = generate(&model, group)?;
                if pass > 0 {
                    times.push(time);
                    tokens += generated;
                }
            }
        }
        let total: Duration = times.iter().sum();
        times.sort();
        results.push(json!({
            "rows": rows,
            "total_ms": times[times.len() / 2].as_secs_f64() * 1e3,
            "total_tokens_per_second": tokens as f64 / total.as_secs_f64(),
        }));
    }
    let load_ms = load.as_secs_f64() * 1e3;
    let threads = options.executor.intra_op_threads;
    let resident = resident_bytes();
    println!(
        "{}",
        json!({"threads": threads, "load_ms": load_ms, "resident_bytes": resident, "results": results})
    );
    Ok(())
}

/// Time and tokens of all the texts, asked for together.
fn generate(model: &TextModel, texts: &[&str]) -> anyhow::Result<(Duration, usize)> {
    let start = Instant::now();
    let (done, outcomes) = channel();
    for text in texts {
        let options = RequestOptions::default();
        let options = options.resolve(&model.text.manifest.generation, &model.text.tokenizer)?;
        let prompt = model.prompt(&PromptInput::Text((*text).to_owned()), &options)?;
        model.engine.submit(GenerateRequest {
            prompts: vec![prompt],
            params: Arc::new(options.params),
            arrival: Instant::now(),
            deadline: None,
            sink: Box::new(Counter { tokens: 0, done: done.clone() }),
        });
    }
    drop(done);
    let mut tokens = 0;
    for outcome in outcomes {
        tokens += outcome?;
    }
    Ok((start.elapsed(), tokens))
}
