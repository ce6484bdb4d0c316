//! An artifact folder brought to life: tokenizer, executor and engine put together. The backend keeps one for
//! each model instance, the command-line program one for each run.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use textgen_artifact::Manifest;

use crate::{
    engine::{Engine, EngineOptions, Observer, Prompt, TextDecoder, TextDecoderFactory},
    error::{Error, Result},
    model::{EncoderDecoder, ExecutorOptions, Runtime},
    tokenizer::{Detokenizer, Tokenizer},
};

/// How a model is run.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// ONNX Runtime's shared library.
    pub runtime_library: PathBuf,
    /// Sizes and threads of the executor.
    pub executor: ExecutorOptions,
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
        let (manifest, tokenizer) = load_text_side(dir)?;
        let runtime = Runtime::load(&options.runtime_library)?;
        let executor = EncoderDecoder::load(runtime, dir, &manifest, &options.executor)?;
        let vocabulary = Arc::new(Vocabulary(tokenizer.clone()));
        let engine = Engine::start(name, Box::new(executor), vocabulary, observer, options.engine.clone())?;
        Ok(Self { manifest, tokenizer, engine })
    }

    /// Tokenizes a source text. `decoder_prefix` is forced before anything is generated.
    pub fn prompt(&self, text: &str, decoder_prefix: &[u32]) -> Result<Prompt> {
        Ok(self.prompt_from_ids(self.tokenizer.encode_source(text)?, decoder_prefix))
    }

    /// A prompt of source ids, special tokens included.
    pub fn prompt_from_ids(&self, source: Vec<u32>, decoder_prefix: &[u32]) -> Prompt {
        let max_new_tokens = self
            .manifest
            .generation
            .max_new_tokens_per_source_token
            .map(|factor| ((source.len() as f32 * factor) as usize).max(1));
        Prompt { source, decoder_prefix: decoder_prefix.to_vec(), max_new_tokens }
    }
}

/// Manifest and tokenizer of the artifact in `dir`.
pub fn load_text_side(dir: &Path) -> Result<(Manifest, Arc<Tokenizer>)> {
    let manifest = Manifest::read(dir).map_err(|error| match error {
        textgen_artifact::ManifestError::Io { .. } => Error::not_found(format!(
            "{error}; expected an artifact made by `textgen convert` in this folder"
        )),
        _ => Error::invalid_argument(error.to_string()),
    })?;
    let tokenizer = Tokenizer::load(dir, &manifest.tokenizer)?;
    Ok((manifest, Arc::new(tokenizer)))
}

/// The tokenizer as the engine sees it.
struct Vocabulary(Arc<Tokenizer>);

impl TextDecoderFactory for Vocabulary {
    fn text_decoder(&self) -> Box<dyn TextDecoder> {
        Box::new(self.0.detokenizer())
    }
}

impl TextDecoder for Detokenizer {
    fn push(&mut self, token: u32, text: &mut String) {
        Detokenizer::push(self, token, text);
    }

    fn finish(&mut self, text: &mut String) {
        Detokenizer::finish(self, text);
    }
}
