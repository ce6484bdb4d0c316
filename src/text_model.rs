//! An artifact folder brought to life: tokenizer, executor and engine put together. The backend keeps one for
//! each model instance, the command-line program one for each run.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use textgen_artifact::Manifest;

use crate::{
    engine::{Engine, EngineOptions, Observer},
    error::Result,
    tokenizer::Tokenizer,
};

/// How a model is run.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// ONNX Runtime's shared library.
    pub runtime_library: PathBuf,
    /// Threads of one step.
    pub intra_op_threads: usize,
    /// Sequences decoded at once.
    pub max_sequences: usize,
    /// Longest source in tokens.
    pub max_source_tokens: usize,
    /// Longest target in tokens.
    pub max_target_tokens: usize,
    /// Bounds of the engine.
    pub engine: EngineOptions,
}

/// A model that answers requests.
pub struct TextModel {
    /// What the artifact says of itself.
    pub manifest: Manifest,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// The running engine.
    pub engine: Engine,
}

impl TextModel {
    /// Loads the artifact in `dir` and starts its engine under `name`.
    pub fn load(dir: &Path, name: &str, options: &ModelOptions, observer: Arc<dyn Observer>) -> Result<Self> {
        let _ = (dir, name, options, observer);
        todo!()
    }
}
