//! `textgen score`

use std::{
    io::{BufWriter, Write, stdin, stdout},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use serde_json::{Map, Value, json};
use textgen_artifact::Manifest;
use triton_textgen::{
    engine::{Executor, score},
    model::{EncoderDecoder, Runtime},
    text_model::load_text_side,
    tokenizer::Tokenizer,
};

use crate::{jsonl, runtime::RuntimeArguments};

#[derive(Args)]
pub struct Arguments {
    /// Folder of the artifact
    dir: PathBuf,
    /// Read one JSON object a line from standard input: `text_input` or `input_ids`, and `text_output` or
    /// `target_ids`. A `text_output` is scored with the end-of-sequence token after it, `target_ids` as they are
    #[arg(long, required = true)]
    jsonl: bool,
    #[command(flatten)]
    runtime: RuntimeArguments,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (manifest, tokenizer) = load_text_side(&arguments.dir)?;
    let runtime = Runtime::load(&arguments.runtime.library()?)?;
    let mut options = arguments.runtime.executor();
    options.max_sequences = 1;
    let mut executor = EncoderDecoder::load(runtime, &arguments.dir, &manifest, &options)?;
    let mut out = BufWriter::new(stdout().lock());
    let mut failed = false;
    for line in jsonl::read(stdin().lock()) {
        let line = line?;
        let scored = line.object.and_then(|object| score_line(&mut executor, &manifest, &tokenizer, object));
        failed |= scored.is_err();
        let object = match scored {
            Ok((target, logprobs)) => json!({
                "id": line.id,
                "target_ids": target,
                "logprobs": logprobs,
                "sum": logprobs.iter().map(|&logprob| f64::from(logprob)).sum::<f64>(),
            }),
            Err(error) => json!({"id": line.id, "error": error}),
        };
        writeln!(out, "{object}")?;
        out.flush()?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn score_line(
    executor: &mut dyn Executor,
    manifest: &Manifest,
    tokenizer: &Tokenizer,
    mut object: Map<String, Value>,
) -> Result<(Vec<u32>, Vec<f32>), String> {
    let source = jsonl::source(&mut object, manifest, tokenizer)?;
    let target = jsonl::target(&mut object, manifest, tokenizer)?;
    if let Some(key) = object.keys().next() {
        return Err(format!(
            "{key}: unknown key; known are id, text_input, input_ids, text_output and target_ids"
        ));
    }
    let logprobs = score(executor, &source, &target).map_err(|error| error.to_string())?;
    Ok((target, logprobs))
}
