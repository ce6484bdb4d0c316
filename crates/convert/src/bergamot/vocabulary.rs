//! The tokenizer of a Bergamot model.

use std::{fs, path::Path};

use prost::Message;
use textgen_artifact::TOKENIZER_FILE;
use tokenizers::Tokenizer;

use super::Package;
use crate::error::{ConvertError, Result};

/// Marian ends sources and targets with it.
pub const EOS: u32 = 0;
const EOS_PIECE: &str = "</s>";
const UNKNOWN_PIECE: &str = "<unk>";

/// A checked tokenizer.
#[derive(Debug)]
pub struct Vocabulary {
    json: Vec<u8>,
    /// Number of tokens; the first id that is none.
    pub size: u32,
    /// Marian never generates it.
    pub unknown: Option<u32>,
}

/// The part of a SentencePiece model that numbers the pieces.
#[derive(Clone, PartialEq, Message)]
struct PieceList {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    piece: String,
}

impl Vocabulary {
    /// Reads the package's tokenizer; its ids must be the model's, and those of the SentencePiece model where
    /// that is present too.
    pub fn read(package: &Package, vocab_size: usize) -> Result<Self> {
        let Some(path) = &package.tokenizer else {
            return Err(ConvertError::MissingFile {
                path: package.folder.display().to_string(),
                what: TOKENIZER_FILE.to_owned(),
                remedy: "put the vocabulary beside the model in this form".to_owned(),
            });
        };
        let refuse = |reason: String| ConvertError::Tokenizer { path: path.display().to_string(), reason };
        let json = fs::read(path).map_err(ConvertError::io(path))?;
        let tokenizer = Tokenizer::from_bytes(&json).map_err(|error| refuse(error.to_string()))?;
        let size = tokenizer.get_vocab_size(true);
        if size != vocab_size {
            return Err(refuse(format!("it has {size} tokens, the model {vocab_size}")));
        }
        let size = u32::try_from(size).map_err(|error| refuse(error.to_string()))?;
        if tokenizer.id_to_token(EOS).as_deref() != Some(EOS_PIECE) {
            let got = tokenizer.id_to_token(EOS);
            return Err(refuse(format!("token {EOS} is {got:?}, expected `{EOS_PIECE}`")));
        }
        if let Some(vocabulary) = &package.vocabulary {
            let bytes = fs::read(vocabulary).map_err(ConvertError::io(vocabulary))?;
            let list = PieceList::decode(bytes.as_slice()).map_err(|error| ConvertError::Syntax {
                path: vocabulary.display().to_string(),
                reason: error.to_string(),
            })?;
            if let Some(difference) = difference(&tokenizer, &list) {
                return Err(refuse(format!("{difference} in {}", vocabulary.display())));
            }
        }
        let unknown = tokenizer.token_to_id(UNKNOWN_PIECE);
        Ok(Self { json, size, unknown })
    }

    /// Writes `tokenizer.json` into an artifact.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(TOKENIZER_FILE);
        fs::write(&path, &self.json).map_err(ConvertError::io(&path))
    }
}

/// The first difference between a tokenizer and the SentencePiece model it should be equal to.
fn difference(tokenizer: &Tokenizer, list: &PieceList) -> Option<String> {
    let (size, pieces) = (tokenizer.get_vocab_size(true), list.pieces.len());
    if size != pieces {
        return Some(format!("it has {size} tokens, but there are {pieces}"));
    }
    (0..).zip(&list.pieces).find_map(|(id, Piece { piece })| {
        let token = tokenizer.id_to_token(id).unwrap_or_default();
        (token != *piece).then(|| format!("token {id} is `{token}`, but `{piece}`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": 1, "vocab": [["</s>", 0], ["<unk>", 0], ["a", -1]], "byte_fallback": false}
    }"#;

    fn package(pieces: &[&str]) -> (tempfile::TempDir, Package) {
        let dir = tempfile::tempdir().unwrap();
        let pieces = pieces.iter().map(|&piece| Piece { piece: piece.to_owned() }).collect();
        let package = Package {
            folder: dir.path().to_owned(),
            model: dir.path().join("model.bin"),
            tokenizer: Some(dir.path().join(TOKENIZER_FILE)),
            vocabulary: Some(dir.path().join("vocab.spm")),
        };
        fs::write(dir.path().join(TOKENIZER_FILE), JSON).unwrap();
        fs::write(dir.path().join("vocab.spm"), PieceList { pieces }.encode_to_vec()).unwrap();
        (dir, package)
    }

    #[test]
    fn equal_vocabularies_are_taken() {
        let (_dir, package) = package(&["</s>", "<unk>", "a"]);
        assert_eq!(Vocabulary::read(&package, 3).unwrap().unknown, Some(1));
    }

    #[test]
    fn another_id_or_size_is_refused() {
        for (pieces, size, reason) in [
            (&["</s>", "<unk>", "b"][..], 3, "token 2 is `a`, but `b` in "),
            (&["</s>", "<unk>"], 3, "it has 3 tokens, but there are 2 in "),
            (&["</s>", "<unk>", "a"], 4, "it has 3 tokens, the model 4"),
        ] {
            let (_dir, package) = package(pieces);
            let error = Vocabulary::read(&package, size).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
