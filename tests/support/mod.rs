//! What the tests that run real graphs share: fixtures converted on the spot, and ONNX Runtime.

#![allow(dead_code)]

pub mod golden;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use textgen_convert::{ConvertOptions, Precision, Target, vocabulary::Keep};
use triton_textgen::{
    decoding::SamplingParams,
    engine::{
        EngineLoad, EngineOptions, EventSink, Finished, GenerateRequest, NoObserver, Observer,
        Outcome as EngineOutcome, Prompt, SequenceUpdate, StepStats,
    },
    error::Error,
    model::{CudaOptions, ExecutorOptions, MayShrink, ModelExecutor, Placement, Runtime},
    prompt::PromptSettings,
    text_model::{ModelOptions, TextModel},
};

/// ONNX Runtime's library; the tests do not run without it.
pub fn runtime_library() -> PathBuf {
    std::env::var_os("TEXTGEN_RUNTIME_LIBRARY")
        .map(PathBuf::from)
        .expect("TEXTGEN_RUNTIME_LIBRARY must name libonnxruntime.so; `make test` sets it")
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// An artifact in a folder of its own.
pub struct Artifact {
    folder: TempDir,
}

impl Artifact {
    pub fn convert(source: &Path, precision: Precision) -> Result<Self, textgen_convert::ConvertError> {
        Self::convert_keeping(source, precision, None)
    }

    /// With a part of the vocabulary.
    pub fn convert_keeping(
        source: &Path,
        precision: Precision,
        keep: Option<Keep>,
    ) -> Result<Self, textgen_convert::ConvertError> {
        let folder = tempfile::tempdir().unwrap();
        textgen_convert::convert(&ConvertOptions {
            source: source.to_owned(),
            target: Target::Folder(folder.path().join("artifact")),
            plan: precision.into(),
            keep,
            force: false,
        })?;
        Ok(Self { folder })
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("artifact")
    }

    pub fn executor(&self, max_sequences: usize, threads: usize) -> ModelExecutor {
        let manifest = textgen_artifact::Manifest::read(&self.dir()).unwrap();
        let runtime = Runtime::load(&runtime_library()).unwrap();
        ModelExecutor::load(runtime, &self.dir(), &manifest, &executor_options(max_sequences, threads))
            .unwrap()
    }

    pub fn model(&self, max_sequences: usize) -> TextModel {
        self.model_with(max_sequences, EngineOptions::default())
    }

    pub fn model_with(&self, max_sequences: usize, engine: EngineOptions) -> TextModel {
        self.observed_model(max_sequences, engine, Arc::new(NoObserver))
    }

    pub fn observed_model(
        &self,
        max_sequences: usize,
        engine: EngineOptions,
        observer: Arc<dyn Observer>,
    ) -> TextModel {
        let options = ModelOptions {
            runtime_library: runtime_library(),
            executor: executor_options(max_sequences, 2),
            engine,
            prompt: PromptSettings::default(),
        };
        TextModel::load(&self.dir(), "test", &options, observer).unwrap()
    }
}

/// Counts drafted tokens, and those that were right.
#[derive(Default)]
pub struct DraftCounter {
    pub drafted: AtomicUsize,
    pub accepted: AtomicUsize,
}

impl Observer for DraftCounter {
    fn drafted_tokens(&self, drafted: usize, accepted: usize) {
        self.drafted.fetch_add(drafted, Ordering::Relaxed);
        self.accepted.fetch_add(accepted, Ordering::Relaxed);
    }

    fn request_started(&self, _: Duration) {}
    fn request_ended(&self, _: EngineOutcome, _: Duration) {}
    fn first_token(&self, _: Duration) {}
    fn inter_token(&self, _: Duration) {}
    fn prompt_tokens(&self, _: usize) {}
    fn prefix_reuse(&self, _: usize, _: usize) {}
    fn generated_tokens(&self, _: usize) {}
    fn step(&self, _: StepStats) {}
    fn load(&self, _: EngineLoad) {}
}

fn executor_options(max_sequences: usize, intra_op_threads: usize) -> ExecutorOptions {
    ExecutorOptions {
        intra_op_threads,
        max_sequences,
        max_source_tokens: 512,
        max_target_tokens: 256,
        max_context_tokens: 512,
        may_shrink: MayShrink::default(),
        placement: Placement::default(),
        cuda: CudaOptions::default(),
    }
}

pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// What one sequence came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generated {
    pub text: String,
    pub token_ids: Vec<u32>,
    /// Bits of the log-probabilities: equal means equal to the last bit.
    pub logprob_bits: Vec<u32>,
    pub finished: Option<Finished>,
    /// Bits of the probabilities of its prompt's choices; empty unless asked for.
    pub choice_probability_bits: Vec<u64>,
}

pub type Outcome = Result<Vec<Generated>, Error>;

struct Collector {
    sequences: Vec<Generated>,
    done: Sender<Outcome>,
}

impl EventSink for Collector {
    fn update(&mut self, update: &SequenceUpdate<'_>) {
        let sequence = &mut self.sequences[update.sequence_index];
        assert_eq!(sequence.finished, None, "an update after the end of a sequence");
        sequence.text.push_str(update.text);
        sequence.token_ids.extend(update.token_ids);
        sequence.logprob_bits.extend(update.logprobs.iter().map(|logprob| logprob.to_bits()));
        sequence.finished = update.finished;
    }

    fn choice_probabilities(&mut self, prompt: usize, probabilities: &[f64]) {
        assert_eq!(prompt, 0, "requests of one prompt");
        for sequence in &mut self.sequences {
            sequence.choice_probability_bits = probabilities.iter().map(|value| value.to_bits()).collect();
        }
    }

    fn complete(self: Box<Self>) {
        let _ = self.done.send(Ok(self.sequences));
    }

    fn fail(self: Box<Self>, error: Error) {
        let _ = self.done.send(Err(error));
    }

    fn given_up(&self) -> Option<Error> {
        None
    }
}

/// Hands a request of one prompt to the model.
pub fn submit(
    model: &TextModel,
    source: Vec<u32>,
    prefix: &[u32],
    params: SamplingParams,
) -> Receiver<Outcome> {
    let (done, outcome) = channel();
    model.engine.submit(GenerateRequest {
        prompts: vec![Prompt { source, decoder_prefix: prefix.to_vec(), max_new_tokens: None }],
        sink: Box::new(Collector {
            sequences: vec![Generated::default(); params.num_return_sequences],
            done,
        }),
        params: Arc::new(params),
        arrival: Instant::now(),
        deadline: None,
    });
    outcome
}

/// The sequences of a request; a minute means that it hangs.
pub fn wait(outcome: &Receiver<Outcome>) -> Vec<Generated> {
    outcome.recv_timeout(Duration::from_secs(60)).expect("the request hangs").expect("the request failed")
}
