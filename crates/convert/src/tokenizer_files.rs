//! The tokenizer of an artifact, before it is written.

use std::{fs, path::Path};

use textgen_artifact::{NORMALIZER_FILE, NormalizerSpec, TOKENIZER_FILE};

use crate::error::{ConvertError, Result};

#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerFiles {
    /// The text of `tokenizer.json`.
    pub json: String,
    /// Where it takes the place of the tokenizer's own.
    pub normalizer: Option<NormalizerSpec>,
}

impl TokenizerFiles {
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(TOKENIZER_FILE);
        fs::write(&path, &self.json).map_err(ConvertError::io(&path))?;
        let Some(normalizer) = &self.normalizer else { return Ok(()) };
        let path = dir.join(NORMALIZER_FILE);
        let json = serde_json::to_vec(normalizer).map_err(|error| ConvertError::io(&path)(error.into()))?;
        fs::write(&path, json).map_err(ConvertError::io(&path))
    }
}
