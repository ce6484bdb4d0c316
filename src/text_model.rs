//! An artifact folder brought to life: tokenizer, executor and engine put together. The backend keeps one for
//! each model instance, the command-line program one for each run.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use textgen_artifact::{CHAT_TEMPLATE_FILE, Manifest};

use crate::{
    engine::{Engine, EngineOptions, Observer, Prompt, TextDecoder, TextDecoderFactory},
    error::{Error, Result},
    model::{ExecutorOptions, ModelExecutor, Runtime},
    options::ResolvedOptions,
    prompt::{ChatTemplate, PromptInput, PromptOptions, PromptSettings, Prompts},
    tokenizer::{Detokenizer, Tokenizer, without_marks},
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
    /// How texts become prompts.
    pub prompt: PromptSettings,
}

/// A model that answers requests.
pub struct TextModel {
    /// What works on texts.
    pub text: TextSide,
    /// The running engine.
    pub engine: Engine,
}

impl TextModel {
    /// Loads the artifact in `dir` and starts its engine under `name`.
    pub fn load(dir: &Path, name: &str, options: &ModelOptions, observer: Arc<dyn Observer>) -> Result<Self> {
        let text = TextSide::load(dir, options.prompt.clone())?;
        let runtime = Runtime::load(&options.runtime_library)?;
        let (dir, manifest, sizes) = (dir.to_owned(), text.manifest.clone(), options.executor.clone());
        let executor = move || ModelExecutor::load(runtime, &dir, &manifest, &sizes);
        let vocabulary = Arc::new(Vocabulary(text.tokenizer.clone()));
        let engine = Engine::start(name, executor, vocabulary, observer, options.engine.clone())?;
        Ok(Self { text, engine })
    }

    /// The prompt of an input.
    pub fn prompt(&self, input: &PromptInput, options: &ResolvedOptions) -> Result<Prompt> {
        let source = self.text.source(input, &options.prompt)?;
        Ok(self.prompt_from_ids(source, options))
    }

    /// A prompt of source ids, special tokens included.
    pub fn prompt_from_ids(&self, source: Vec<u32>, options: &ResolvedOptions) -> Prompt {
        // A choice from a guide is as long as it is, however short the source.
        let factor = match options.params.guide {
            Some(_) => None,
            None => self.text.manifest.generation.max_new_tokens_per_source_token,
        };
        let max_new_tokens = factor.map(|factor| ((source.len() as f32 * factor) as usize).max(1));
        Prompt { source, decoder_prefix: options.decoder_prefix.clone(), max_new_tokens }
    }
}

/// The part of a model that works on texts, without weights.
pub struct TextSide {
    /// What the artifact says of itself.
    pub manifest: Manifest,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Texts and conversations to prompts.
    pub prompts: Prompts,
}

impl TextSide {
    /// Loads it from the artifact in `dir`.
    pub fn load(dir: &Path, mut settings: PromptSettings) -> Result<Self> {
        let manifest = Manifest::read(dir).map_err(|error| match error {
            textgen_artifact::ManifestError::Io { .. } => Error::not_found(format!(
                "{error}; expected an artifact made by `textgen convert` in this folder"
            )),
            _ => Error::invalid_argument(error.to_string()),
        })?;
        let tokenizer = Arc::new(Tokenizer::load(dir, &manifest.tokenizer)?);
        let chat = match &manifest.chat {
            Some(chat) => {
                Some(ChatTemplate::load(&dir.join(CHAT_TEMPLATE_FILE), chat.special_tokens.clone())?)
            }
            None => None,
        };
        // An encoder's texts name languages and places by special tokens, as its training data did.
        settings.parse_special_tokens |= !manifest.is_decoder_only();
        Ok(Self { manifest, tokenizer, prompts: Prompts::new(chat, settings)? })
    }

    /// Source ids of an input: its prompt, tokenized.
    pub fn source(&self, input: &PromptInput, options: &PromptOptions) -> Result<Vec<u32>> {
        let prompt =
            self.prompts.build(input, options, &|text| self.tokenizer.guard(text)).map_err(|error| {
                // A template that raises may repeat the text.
                Error { message: without_marks(&error.message), ..error }
            })?;
        match prompt.is_guarded {
            true => self.tokenizer.encode_guarded(&prompt.text, prompt.has_special_tokens),
            false if prompt.has_special_tokens => self.tokenizer.encode_target(&prompt.text),
            false => self.tokenizer.encode_source(&prompt.text),
        }
    }
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
