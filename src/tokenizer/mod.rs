//! The only room that knows the `tokenizers` crate: text to ids, ids to text piece by piece.

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use textgen_artifact::{NORMALIZER_FILE, NormalizerSpec, TOKENIZER_FILE, TextNormalizer, TokenizerSpec};
use tokenizers::{
    DecoderWrapper, ModelWrapper, OffsetType, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use crate::error::{Error, Result};

mod detokenizer;
mod guard;
mod normalizer;
mod pieces;

pub use detokenizer::Detokenizer;
use guard::Guard;
pub use guard::{MARK, without_marks};
use normalizer::Normalizer;
use pieces::PieceTable;

/// The crate's tokenizer, with a normalizer that may be ours.
type Vocabulary =
    TokenizerImpl<ModelWrapper, Normalizer, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// The tokenizer of one model. Shared between threads.
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
    pieces: Arc<PieceTable>,
    guard: Guard,
    add_special_tokens: bool,
    source_suffix: Vec<u32>,
}

impl Tokenizer {
    /// Reads the tokenizer of the artifact in `dir`.
    ///
    /// A tokenizer whose decoder cannot be streamed is refused. Truncation and padding of the file are not
    /// applied: a source that is too long is refused elsewhere, never cut in silence.
    pub fn load(dir: &Path, spec: &TokenizerSpec) -> Result<Self> {
        let normalizer =
            if spec.normalizer { Some(load_normalizer(&dir.join(NORMALIZER_FILE))?) } else { None };
        let path = dir.join(TOKENIZER_FILE);
        Self::from_json(&read(&path)?, normalizer, spec).map_err(|error| error.context(path.display()))
    }

    fn from_json(json: &[u8], normalizer: Option<TextNormalizer>, spec: &TokenizerSpec) -> Result<Self> {
        let (vocabulary, guard) = guarded(|| {
            let mut vocabulary = Vocabulary::from_bytes(json)?;
            vocabulary.with_truncation(None)?.with_padding(None);
            if let Some(normalizer) = normalizer {
                vocabulary.with_normalizer(Some(Normalizer::SentencePiece(normalizer)));
            }
            let guard = Guard::new(&vocabulary)?;
            Ok((vocabulary, guard))
        })
        .map_err(|reason| {
            Error::invalid_argument(format!(
                "not a tokenizer.json that this build can read: {reason}; convert the model again"
            ))
        })?;
        let vocabulary = Arc::new(vocabulary);
        Ok(Self {
            pieces: Arc::new(PieceTable::new(Arc::clone(&vocabulary))?),
            vocabulary,
            guard,
            add_special_tokens: spec.add_special_tokens,
            source_suffix: spec.source_suffix.clone(),
        })
    }

    /// Ids of a source text, special tokens included.
    pub fn encode_source(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, self.add_special_tokens)?;
        ids.extend_from_slice(&self.source_suffix);
        Ok(ids)
    }

    /// Ids of a text to which no special tokens are added: a piece of target text, or a prompt that has its own.
    pub fn encode_target(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text, false)
    }

    /// `text` with marks, so that no special token in it is one when it has become a part of a prompt: see
    /// [`Self::encode_guarded`]. The marks are characters of the text, for templates too.
    pub fn guard<'t>(&self, text: &'t str) -> Result<Cow<'t, str>> {
        match guarded(|| Ok(self.guard.marked(text, &self.vocabulary))) {
            Ok(marked) => marked,
            Err(reason) => Err(not_encoded(text, &reason)),
        }
    }

    /// Ids of a prompt whose parts by a client went through [`Self::guard`]; special tokens are added unless it has its
    /// own. Where no part has any, they are those of [`Self::encode_target`] or [`Self::encode_source`].
    pub fn encode_guarded(&self, prompt: &str, has_special_tokens: bool) -> Result<Vec<u32>> {
        let add_special_tokens = !has_special_tokens && self.add_special_tokens;
        let mut ids = if self.guard.needs_care(prompt) {
            let encoded = guarded(|| {
                let mut parts = guard::parts(prompt, &self.vocabulary)?;
                parts.tokenize(|part| self.guard.cut(part.get(), &self.vocabulary))?;
                let encoding = parts.into_encoding(None, 0, OffsetType::None)?;
                let encoding = self.vocabulary.post_process(encoding, None, add_special_tokens)?;
                Ok(encoding.get_ids().to_vec())
            });
            encoded.map_err(|reason| not_encoded(prompt, &reason))?
        } else {
            self.encode(prompt, add_special_tokens)?
        };
        if !has_special_tokens {
            ids.extend_from_slice(&self.source_suffix);
        }
        Ok(ids)
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        guarded(|| Ok(self.vocabulary.encode_fast(text, add_special_tokens)?.get_ids().to_vec()))
            .map_err(|reason| not_encoded(text, &reason))
    }

    /// The text as it is cut into tokens, after the model's own normalization.
    pub fn normalized(&self, text: &str) -> Result<String> {
        guarded(|| normalizer::normalized(text, &self.vocabulary))
            .map_err(|reason| not_encoded(text, &reason))
    }

    /// Id of a token by its literal name.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.token_to_id(token)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// A detokenizer at the start of a text.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.pieces))
    }
}

fn not_encoded(text: &str, reason: &str) -> Error {
    Error::invalid_argument(format!(
        "text of {} bytes: the model's tokenizer cannot encode it: {reason}",
        text.len()
    ))
}

fn load_normalizer(path: &Path) -> Result<TextNormalizer> {
    let spec: NormalizerSpec = serde_json::from_slice(&read(path)?).map_err(|error| {
        Error::invalid_argument(format!(
            "{}: not a {NORMALIZER_FILE} that this build can read: {error}; convert the model again",
            path.display()
        ))
    })?;
    Ok(TextNormalizer::new(spec))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        let message =
            format!("{}: {error}; a model folder holds its tokenizer beside the manifest", path.display());
        match error.kind() {
            std::io::ErrorKind::NotFound => Error::not_found(message),
            _ => Error::invalid_argument(message),
        }
    })
}

/// Runs foreign code on input that a client or a file controls; a panic in there is an error like any other.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("panic in the tokenizer")
            .to_owned()),
    }
}

#[cfg(test)]
mod tests;
