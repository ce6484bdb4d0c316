//! The tokenizer of a Bergamot model.

use std::{fs, path::Path};

use textgen_artifact::TOKENIZER_FILE;
use tokenizers::Tokenizer;

use super::Package;
use crate::{
    error::{ConvertError, Result},
    sentencepiece::{SentencePiece, TokenizerOptions},
    tokenizer_files::TokenizerFiles,
};

/// Marian ends sources and targets with it.
pub const EOS: u32 = 0;
const EOS_PIECE: &str = "</s>";
const UNKNOWN_PIECE: &str = "<unk>";

/// A checked tokenizer.
#[derive(Debug)]
pub struct Vocabulary {
    pub files: TokenizerFiles,
    /// Number of tokens; the first id that is none.
    pub size: u32,
    /// Marian never generates it.
    pub unknown: Option<u32>,
}

impl Vocabulary {
    /// Makes a tokenizer of the package's SentencePiece model, which is what Marian itself reads, or takes the
    /// `tokenizer.json` where there is no such model. The ids must be the model's, and both files must agree
    /// where both are there.
    pub fn read(package: &Package, vocab_size: usize) -> Result<Self> {
        let made = package.vocabulary.as_deref().map(from_sentencepiece).transpose()?;
        let ready = package.tokenizer.as_deref().map(ready).transpose()?;
        let (Some((path, files)), other) = (if made.is_some() { (made, ready) } else { (ready, None) })
        else {
            return Err(ConvertError::MissingFile {
                path: package.folder.display().to_string(),
                what: format!("the vocabulary (`*.spm` or `{TOKENIZER_FILE}`)"),
                remedy: "fetch the whole model".to_owned(),
            });
        };
        let tokenizer = load(path, &files)?;
        let refuse = |reason: String| ConvertError::Tokenizer { path: path.display().to_string(), reason };
        let size = tokenizer.get_vocab_size(true);
        if size != vocab_size {
            return Err(refuse(format!("it has {size} tokens, the model {vocab_size}")));
        }
        let size = u32::try_from(size).map_err(|error| refuse(error.to_string()))?;
        if tokenizer.id_to_token(EOS).as_deref() != Some(EOS_PIECE) {
            let got = tokenizer.id_to_token(EOS).unwrap_or_default();
            return Err(refuse(format!("token {EOS} is `{got}`, expected `{EOS_PIECE}`")));
        }
        if let Some((other, files)) = &other
            && let Some(difference) = difference(&tokenizer, &load(other, files)?)
        {
            return Err(refuse(format!("{difference} in {}", other.display())));
        }
        let unknown = tokenizer.token_to_id(UNKNOWN_PIECE);
        Ok(Self { files, size, unknown })
    }
}

/// The tokenizer of a SentencePiece model, with the file's path.
fn from_sentencepiece(path: &Path) -> Result<(&Path, TokenizerFiles)> {
    let options = TokenizerOptions { eos_token_id: EOS, sentinels: 0 };
    Ok((path, SentencePiece::read(path)?.tokenizer_files(options)?))
}

/// A `tokenizer.json` as it is, with the file's path.
fn ready(path: &Path) -> Result<(&Path, TokenizerFiles)> {
    let json = fs::read_to_string(path).map_err(ConvertError::io(path))?;
    Ok((path, TokenizerFiles { json, normalizer: None }))
}

fn load(path: &Path, files: &TokenizerFiles) -> Result<Tokenizer> {
    Tokenizer::from_bytes(&files.json).map_err(|error| ConvertError::Tokenizer {
        path: path.display().to_string(),
        reason: error.to_string(),
    })
}

/// The first difference between the ids of two tokenizers.
fn difference(tokenizer: &Tokenizer, other: &Tokenizer) -> Option<String> {
    let sizes = [tokenizer, other].map(|tokenizer| tokenizer.get_vocab_size(true));
    if sizes[0] != sizes[1] {
        return Some(format!("it has {} tokens, but there are {}", sizes[0], sizes[1]));
    }
    (0..u32::try_from(sizes[0]).ok()?).find_map(|id| {
        let [ours, theirs] =
            [tokenizer, other].map(|tokenizer| tokenizer.id_to_token(id).unwrap_or_default());
        (ours != theirs).then(|| format!("token {id} is `{ours}`, but `{theirs}`"))
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    const JSON: &str = r#"{
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": 1, "vocab": [["</s>", 0], ["<unk>", 0], ["a", -1]], "byte_fallback": false}
    }"#;

    /// The part of a SentencePiece model that says anything here.
    #[derive(Clone, PartialEq, Message)]
    struct Model {
        #[prost(message, repeated, tag = "1")]
        pieces: Vec<Piece>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Piece {
        #[prost(string, tag = "1")]
        piece: String,
        #[prost(float, tag = "2")]
        score: f32,
        #[prost(int32, tag = "3")]
        r#type: i32,
    }

    fn package(pieces: &[&str]) -> (tempfile::TempDir, Package) {
        let dir = tempfile::tempdir().unwrap();
        let pieces = pieces.iter().enumerate().map(|(id, &piece)| Piece {
            piece: piece.to_owned(),
            score: -(id as f32),
            // A control symbol, the unknown piece, pieces of text.
            r#type: [3, 2, 1][id.min(2)],
        });
        let package = Package {
            folder: dir.path().to_owned(),
            model: dir.path().join("model.bin"),
            tokenizer: Some(dir.path().join(TOKENIZER_FILE)),
            vocabulary: Some(dir.path().join("vocab.spm")),
        };
        fs::write(dir.path().join(TOKENIZER_FILE), JSON).unwrap();
        fs::write(dir.path().join("vocab.spm"), Model { pieces: pieces.collect() }.encode_to_vec()).unwrap();
        (dir, package)
    }

    #[test]
    fn of_equal_vocabularies_the_sentencepiece_model_is_taken() {
        let (_dir, package) = package(&["</s>", "<unk>", "a"]);
        let vocabulary = Vocabulary::read(&package, 3).unwrap();
        assert_eq!((vocabulary.size, vocabulary.unknown), (3, Some(1)));
        assert!(vocabulary.files.normalizer.is_some_and(|normalizer| normalizer.add_dummy_prefix));
    }

    #[test]
    fn one_of_the_two_is_enough() {
        let (_dir, package) = package(&["</s>", "<unk>", "▁a", "b"]);
        let alone = Package { tokenizer: None, ..package.clone() };
        assert!(Vocabulary::read(&alone, 4).unwrap().files.normalizer.is_some());
        let files = Vocabulary::read(&Package { vocabulary: None, ..package }, 3).unwrap().files;
        assert_eq!(files, TokenizerFiles { json: JSON.to_owned(), normalizer: None });
    }

    #[test]
    fn another_id_or_size_is_refused() {
        for (pieces, size, reason) in [
            (&["</s>", "<unk>", "b"][..], 3, "token 2 is `b`, but `a` in "),
            (&["</s>", "<unk>"], 3, "it has 2 tokens, the model 3"),
            (&["</s>", "<unk>", "a"], 4, "it has 3 tokens, the model 4"),
        ] {
            let (_dir, package) = package(pieces);
            let error = Vocabulary::read(&package, size).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let (_dir, package) = package(&[]);
        let error =
            Vocabulary::read(&Package { tokenizer: None, vocabulary: None, ..package }, 3).unwrap_err();
        assert!(matches!(error, ConvertError::MissingFile { .. }), "{error}");
    }
}
