//! `textgen generate`

use std::{
    io::{BufWriter, Write, stdin, stdout},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc, Weak,
        mpsc::{Receiver, Sender, channel},
    },
    time::Instant,
};

use clap::Args;
use serde_json::{Map, Value, json};
use textgen_languages::Languages;
use triton_textgen::{
    engine::{EventSink, Finished, GenerateRequest, NoObserver, SequenceUpdate},
    error::Error,
    options::RequestOptions,
    prompt::{PromptInput, PromptTemplate},
    text_model::TextModel,
};

use crate::{
    jsonl::{self, Source},
    runtime::RuntimeArguments,
};

#[derive(Args)]
pub struct Arguments {
    /// Folder of the artifact
    dir: PathBuf,
    /// Texts to generate from, one line of output for each sequence
    #[arg(required_unless_present = "jsonl", conflicts_with = "jsonl")]
    text: Vec<String>,
    /// Read one JSON object a line from standard input: `text_input`, `messages` or `input_ids`, and any option by
    /// its name
    #[arg(long)]
    jsonl: bool,
    /// Set an option by its name, as in `--set temperature=0.8 --set 'stop_words=["end", "."]'`; a line of
    /// --jsonl that gives the option too has its own way
    #[arg(long = "set", value_name = "NAME=VALUE")]
    options: Vec<String>,
    /// Template around each text, as the configuration key `prompt_template` has it
    #[arg(long, value_name = "JINJA")]
    prompt_template: Option<String>,
    /// Languages that the template can name, as the configuration key `languages` has them
    #[arg(long, value_name = "LIST", requires = "prompt_template")]
    languages: Option<String>,
    #[command(flatten)]
    runtime: RuntimeArguments,
}

/// What comes of a request.
#[derive(Default)]
struct Generated {
    sequences: Vec<Sequence>,
    /// Of the guide's choices, in their order; none unless asked for.
    choice_probabilities: Option<Vec<f64>>,
}

/// One sequence as it comes out of the engine.
#[derive(Default)]
struct Sequence {
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    finished: Option<Finished>,
}

type Outcome = Result<Generated, Error>;

/// A request in the engine; dropped, it is cancelled.
struct Job {
    outcome: Receiver<Outcome>,
    /// The texts of its guide.
    choices: Arc<[String]>,
    _wanted: Arc<()>,
}

impl Job {
    fn wait(&self) -> anyhow::Result<Outcome> {
        Ok(self.outcome.recv()?)
    }
}

/// Collects the sequences of one request and hands them over when they are complete.
struct Collector {
    generated: Generated,
    done: Sender<Outcome>,
    wanted: Weak<()>,
}

impl EventSink for Collector {
    fn update(&mut self, update: &SequenceUpdate<'_>) {
        let Some(sequence) = self.generated.sequences.get_mut(update.sequence_index) else { return };
        sequence.text.push_str(update.text);
        sequence.token_ids.extend_from_slice(update.token_ids);
        sequence.logprobs.extend_from_slice(update.logprobs);
        sequence.finished = update.finished;
    }

    fn choice_probabilities(&mut self, _: usize, probabilities: &[f64]) {
        self.generated.choice_probabilities = Some(probabilities.to_vec());
    }

    fn complete(self: Box<Self>) {
        // Nobody listens when the program is on its way out.
        let _ = self.done.send(Ok(self.generated));
    }

    fn fail(self: Box<Self>, error: Error) {
        let _ = self.done.send(Err(error));
    }

    fn given_up(&self) -> Option<Error> {
        (self.wanted.strong_count() == 0).then(|| Error::cancelled("nobody reads the output any more"))
    }
}

impl Arguments {
    fn prompt_template(&self) -> Result<Option<Arc<PromptTemplate>>, Error> {
        let Some(source) = &self.prompt_template else { return Ok(None) };
        let languages = self
            .languages
            .as_deref()
            .map_or(Ok(Languages::default()), Languages::parse)
            .map_err(|error| Error::invalid_argument(format!("--languages: {error}")))?;
        let template =
            PromptTemplate::compile(source, languages).map_err(|error| error.context("--prompt-template"))?;
        Ok(Some(Arc::new(template)))
    }
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut defaults = RequestOptions::default();
    for option in &arguments.options {
        let (name, value) =
            option.split_once('=').ok_or_else(|| anyhow::anyhow!("--set {option}: expected NAME=VALUE"))?;
        // A list is written as in JSON; any other value is read as the option's type wants it.
        let value = serde_json::from_str(value).map_or_else(|_| Value::from(value), Value::Array);
        let object = Map::from_iter([(name.to_owned(), value)]);
        defaults.set_json(&Value::Object(object).to_string()).map_err(|error| error.context("--set"))?;
    }
    let mut options = arguments.runtime.model()?;
    options.prompt.template = arguments.prompt_template()?;
    let model = TextModel::load(&arguments.dir, "textgen", &options, Arc::new(NoObserver))?;
    if arguments.jsonl {
        run_jsonl(&model, &defaults, options.executor.max_sequences)
    } else {
        run_texts(&model, &defaults, &arguments.text)
    }
}

fn run_texts(model: &TextModel, options: &RequestOptions, texts: &[String]) -> anyhow::Result<ExitCode> {
    let mut jobs = Vec::new();
    for text in texts {
        jobs.push(submit(model, options, Source::Input(PromptInput::Text(text.clone())))?);
    }
    let mut out = BufWriter::new(stdout().lock());
    for job in jobs {
        for sequence in job.wait()??.sequences {
            writeln!(out, "{}", sequence.text)?;
        }
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Requests of a long input that are in the engine at once, for each of its slots: enough to keep them full, few
/// enough that the input does not pile up in memory.
const IN_FLIGHT: usize = 8;

fn run_jsonl(model: &TextModel, defaults: &RequestOptions, max_sequences: usize) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(stdout().lock());
    let mut jobs = std::collections::VecDeque::new();
    let mut failed = false;
    for line in jsonl::read(stdin().lock()) {
        let line = line?;
        if jobs.len() >= IN_FLIGHT * max_sequences
            && let Some((id, job)) = jobs.pop_front()
        {
            failed |= print(&mut out, &id, job)?;
        }
        let job = line.object.and_then(|object| start(model, defaults, object));
        jobs.push_back((line.id, job));
    }
    for (id, job) in jobs {
        failed |= print(&mut out, &id, job)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn start(
    model: &TextModel,
    defaults: &RequestOptions,
    mut object: Map<String, Value>,
) -> Result<Job, String> {
    let source = jsonl::source(&mut object, &model.text)?;
    let mut options = RequestOptions::default();
    options.set_json(&Value::Object(object).to_string()).map_err(|error| error.to_string())?;
    submit(model, &options.over(defaults.clone()), source).map_err(|error| error.to_string())
}

fn submit(model: &TextModel, options: &RequestOptions, source: Source) -> Result<Job, Error> {
    let mut options = options.resolve(&model.text.manifest.generation, &model.text.tokenizer)?;
    let prompt = match source {
        Source::Input(input) => model.prompt(&input, &options)?,
        Source::Ids(ids) => model.prompt_from_ids(ids, &options),
    };
    // They are always printed.
    options.params.logprobs = true;
    let (done, outcome) = channel();
    let wanted = Arc::new(());
    let sequences =
        std::iter::repeat_with(Sequence::default).take(options.params.num_return_sequences).collect();
    model.engine.submit(GenerateRequest {
        prompts: vec![prompt],
        params: Arc::new(options.params),
        arrival: Instant::now(),
        deadline: None,
        sink: Box::new(Collector {
            generated: Generated { sequences, choice_probabilities: None },
            done,
            wanted: Arc::downgrade(&wanted),
        }),
    });
    Ok(Job { outcome, choices: options.choices.unwrap_or_default(), _wanted: wanted })
}

/// Writes the objects of one request, in the order of the input; true when it failed.
fn print(out: &mut impl Write, id: &Value, job: Result<Job, String>) -> anyhow::Result<bool> {
    let outcome = match job {
        Ok(job) => job.wait()?.map(|generated| (generated, job.choices)).map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    let (generated, choices) = match outcome {
        Ok(generated) => generated,
        Err(error) => {
            writeln!(out, "{}", json!({"id": id, "error": error}))?;
            out.flush()?;
            return Ok(true);
        }
    };
    let choice_probabilities = generated.choice_probabilities.map(|probabilities| {
        let pairs = choices.iter().zip(probabilities);
        let list = pairs.map(|(choice, probability)| json!({"choice": choice, "probability": probability}));
        Value::Array(list.collect())
    });
    for (index, sequence) in generated.sequences.into_iter().enumerate() {
        let finished = sequence.finished;
        let mut object = json!({
                "id": id,
                "sequence_index": index,
                "text_output": sequence.text,
                "token_ids": sequence.token_ids,
                "logprobs": sequence.logprobs,
                "finish_reason": finished.map(|finished| finished.reason.as_str()),
                "cumulative_logprob": finished.map(|finished| finished.cumulative_logprob),
                "num_input_tokens": finished.map(|finished| finished.num_input_tokens),
                "num_output_tokens": finished.map(|finished| finished.num_output_tokens),
        });
        if let Some(list) = &choice_probabilities {
            object["choice_probabilities"] = list.clone();
        }
        writeln!(out, "{object}")?;
    }
    out.flush()?;
    Ok(false)
}
