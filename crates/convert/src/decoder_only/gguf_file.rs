//! A decoder-only checkpoint as a GGUF file.

use std::path::Path;

use super::{Chat, Package};
use crate::{error::Result, gguf::Gguf};

/// Opens the file.
pub fn package(path: &Path) -> Result<Package> {
    let gguf = Gguf::open(path)?;
    let chat = match gguf.chat_template()? {
        None => None,
        Some(template) => Some(Chat { template, special_tokens: gguf.special_tokens()? }),
    };
    Ok(Package {
        path: path.display().to_string(),
        config: gguf.config()?,
        generation: gguf.generation()?,
        tokenizer: gguf.tokenizer()?,
        tensors: Box::new(gguf),
        chat,
        // Is among those of `generation`.
        eos_token: None,
    })
}
