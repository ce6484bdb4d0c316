//! Text before it is cut into pieces: as the tokenizer's own file says, or as SentencePiece does it.

use serde::Deserialize;
use textgen_artifact::TextNormalizer;
use tokenizers::{NormalizedString, Normalizer as _, NormalizerWrapper};

use super::Vocabulary;

/// What a tokenizer normalizes with. It sees what lies between two added tokens, never those.
#[derive(Deserialize)]
#[serde(from = "NormalizerWrapper")]
pub(super) enum Normalizer {
    HuggingFace(NormalizerWrapper),
    SentencePiece(TextNormalizer),
}

impl From<NormalizerWrapper> for Normalizer {
    fn from(normalizer: NormalizerWrapper) -> Self {
        Self::HuggingFace(normalizer)
    }
}

impl tokenizers::Normalizer for Normalizer {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        match self {
            Self::HuggingFace(normalizer) => normalizer.normalize(text),
            Self::SentencePiece(normalizer) => {
                // Where each character came from is lost; nobody asks for offsets.
                *text = normalizer.normalize(text.get()).into();
                Ok(())
            }
        }
    }
}

/// A text as a vocabulary normalizes it.
pub(super) fn normalized(text: &str, vocabulary: &Vocabulary) -> tokenizers::Result<String> {
    let mut text = NormalizedString::from(text);
    if let Some(normalizer) = vocabulary.get_normalizer() {
        normalizer.normalize(&mut text)?;
    }
    Ok(text.get().to_owned())
}
