//! `textgen score`

use std::{
    io::{BufWriter, Write, stdin, stdout},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use serde_json::{Map, Value, json};
use triton_textgen::{
    engine::{Executor, score},
    model::{ModelExecutor, Runtime},
    prompt::{PromptOptions, PromptSettings},
    text_model::TextSide,
};

use crate::{
    jsonl::{self, Source},
    runtime::RuntimeArguments,
};

#[derive(Args)]
pub struct Arguments {
    /// Folder of the artifact
    dir: PathBuf,
    /// Read one JSON object a line from standard input: `text_input`, `messages` or `input_ids`, and `text_output`
    /// or `target_ids`. A `text_output` is scored with the end-of-sequence token after it, `target_ids` as they are
    #[arg(long, required = true)]
    jsonl: bool,
    #[command(flatten)]
    runtime: RuntimeArguments,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let model = TextSide::load(&arguments.dir, PromptSettings::default())?;
    let runtime = Runtime::load(&arguments.runtime.library()?)?;
    let mut options = arguments.runtime.executor();
    options.max_sequences = 1;
    let mut executor = ModelExecutor::load(runtime, &arguments.dir, &model.manifest, &options)?;
    let mut out = BufWriter::new(stdout().lock());
    let mut failed = false;
    for line in jsonl::read(stdin().lock()) {
        let line = line?;
        let scored = line.object.and_then(|object| score_line(&mut executor, &model, object));
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
    model: &TextSide,
    mut object: Map<String, Value>,
) -> Result<(Vec<u32>, Vec<f32>), String> {
    let source = jsonl::source(&mut object, model)?;
    let target = jsonl::target(&mut object, model)?;
    if let Some(key) = object.keys().next() {
        return Err(format!(
            "{key}: unknown key; known are id, text_input, messages, input_ids, text_output and target_ids"
        ));
    }
    let source = match source {
        Source::Input(input) => {
            model.source(&input, &PromptOptions::default()).map_err(|error| error.to_string())?
        }
        Source::Ids(ids) => ids,
    };
    let logprobs = score(executor, &source, &target).map_err(|error| error.to_string())?;
    Ok((target, logprobs))
}
