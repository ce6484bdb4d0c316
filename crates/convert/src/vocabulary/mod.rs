//! A part of a model's vocabulary in place of all: which tokens stay, and the tokenizer that knows no others.
//!
//! The tokenizer is exact on what is kept. A Unigram model takes the most probable way to write a text in pieces,
//! so that two rules suffice:
//!
//! - By script: each piece stays that has no character of another script. Every piece that a normalized text of these
//!   scripts holds is then there, and so is every way to write it.
//! - By corpus: the pieces that its texts are written in stay. A text's best way is still there, and what is
//!   left of the others is no better than before.
//!
//! Where a character has no piece of its own, an unknown one competes, which counts as a little less probable than
//! the least probable piece; that piece therefore stays too. Control tokens, the unknown token, bytes, sentinels,
//! user-defined symbols and added tokens always stay, and so do the ids that a configuration names.
//!
//! A character that no piece is left for becomes bytes where the model falls back to them, else the unknown
//! token, as any character that the model never knew.

mod corpus;
mod script;
mod unigram;

use std::path::PathBuf;

use textgen_artifact::TrimSpec;

pub use script::{Script, UnknownScript};
pub use unigram::trim;

/// Which tokens to keep: those of any of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// Characters of Unicode's scripts `Common` and `Inherited`, such as digits and punctuation, go with each.
    pub scripts: Vec<Script>,
    /// A file of texts in UTF-8, one a line.
    pub corpus: Option<PathBuf>,
}

impl Keep {
    /// As the manifest says it.
    pub fn spec(&self, original_vocab_size: usize) -> TrimSpec {
        let name =
            |path: &PathBuf| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        TrimSpec {
            original_vocab_size,
            scripts: self.scripts.iter().map(Script::to_string).collect(),
            corpus: self.corpus.as_ref().map(name),
        }
    }
}
