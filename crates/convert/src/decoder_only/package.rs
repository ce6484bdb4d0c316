//! What a decoder-only checkpoint gives, whatever files it comes in.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{huggingface::GenerationConfig, tokenizer_files::TokenizerFiles, weights::TensorSource};

/// See the module.
pub struct Package {
    /// File of the configuration, for messages.
    pub path: String,
    /// As `config.json` has it.
    pub config: Value,
    pub generation: GenerationConfig,
    /// Under the names that Hugging Face checkpoints have.
    pub tensors: Box<dyn TensorSource>,
    pub tokenizer: TokenizerFiles,
    /// The tokenizer's text for the end of a text.
    pub eos_token: Option<String>,
    pub chat: Option<Chat>,
}

/// A chat template (Jinja), and the texts of the special tokens that it names.
pub struct Chat {
    pub template: String,
    pub special_tokens: BTreeMap<String, String>,
}
