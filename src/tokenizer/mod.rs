//! The only room that knows the `tokenizers` crate: text to ids, ids to text piece by piece.

use std::path::Path;

use crate::error::Result;

/// The tokenizer of one model.
pub struct Tokenizer {}

impl Tokenizer {
    /// Reads `tokenizer.json`. `add_special_tokens` lets its post-processor add its own; `source_suffix` is
    /// appended to every source after that.
    pub fn load(path: &Path, add_special_tokens: bool, source_suffix: &[u32]) -> Result<Self> {
        let _ = (path, add_special_tokens, source_suffix);
        todo!()
    }

    /// Ids of a source text, special tokens included.
    pub fn encode_source(&self, text: &str) -> Result<Vec<u32>> {
        let _ = text;
        todo!()
    }

    /// Ids of a piece of target text, without special tokens: a forced prefix.
    pub fn encode_target(&self, text: &str) -> Result<Vec<u32>> {
        let _ = text;
        todo!()
    }

    /// Id of a token by its literal name.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        let _ = token;
        todo!()
    }

    /// A detokenizer at the start of a text.
    pub fn detokenizer(&self) -> Detokenizer {
        todo!()
    }
}

/// Turns the tokens of one sequence into text, piece by piece; it holds back what is not final. The pieces
/// joined are the whole text, byte for byte.
pub struct Detokenizer {}

impl Detokenizer {
    /// Appends to `text` what is final after `token`.
    pub fn push(&mut self, token: u32, text: &mut String) {
        let _ = (token, text);
        todo!()
    }

    /// Appends what was held back.
    pub fn finish(&mut self, text: &mut String) {
        let _ = text;
        todo!()
    }
}
