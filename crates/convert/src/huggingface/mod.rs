//! The files of a Hugging Face checkpoint folder: JSON configurations, safetensors, tokenizers. Knows no
//! architecture.

mod generation;
mod safetensors;
mod special_tokens;
mod tensors;
mod tokenizer;
mod torch;

use std::{fs, io, path::Path};

use serde::de::DeserializeOwned;

use crate::error::{ConvertError, Result};

pub use generation::{GenerationConfig, check_token_ids};
pub use special_tokens::special_tokens;
pub use tensors::open_tensors;
pub use tokenizer::{CheckpointTokenizer, TokenizerFacts, ready_tokenizer};

pub const CONFIG_FILE: &str = "config.json";
pub const GENERATION_FILE: &str = "generation_config.json";
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

/// Reads a JSON file; none when it does not exist.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ConvertError::io(path)(error)),
    };
    let json = serde_json::from_slice(&text).map_err(|error| ConvertError::Syntax {
        path: path.display().to_string(),
        reason: error.to_string(),
    })?;
    Ok(Some(json))
}
