//! The model file: pieces, scores, and how text is normalized.

use std::{collections::HashSet, fs, path::Path};

use prost::Message;
use textgen_artifact::{Charsmap, CharsmapError, NormalizerSpec};

use crate::error::{ConvertError, Result};

/// What this module reads of `sentencepiece_model.proto`.
#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpecProto>,
    #[prost(message, optional, tag = "5")]
    denormalizer_spec: Option<NormalizerSpecProto>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "PieceType", optional, tag = "3", default = "Normal")]
    r#type: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24", default = "false")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35", default = "false")]
    byte_fallback: Option<bool>,
    #[prost(string, optional, tag = "47", default = "</s>")]
    eos_piece: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpecProto {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}

/// Kind of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum PieceType {
    Normal = 1,
    Unknown = 2,
    /// `</s>`, `<pad>`: never the result of text.
    Control = 3,
    /// Always one token where it occurs.
    UserDefined = 4,
    Unused = 5,
    /// `<0x41>`: one byte of a character that has no piece.
    Byte = 6,
}

const UNIGRAM: i32 = 1;

/// A piece of the vocabulary; its id is its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: PieceType,
}

/// A Unigram model.
#[derive(Debug, Clone, PartialEq)]
pub struct SentencePiece {
    pub(super) path: String,
    pub(super) pieces: Vec<Piece>,
    pub(super) unknown: usize,
    eos: Option<u32>,
    pub(super) byte_fallback: bool,
    pub(super) normalizer: NormalizerSpec,
}

impl SentencePiece {
    /// Reads `spiece.model` or a file like it.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(ConvertError::io(path))?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    fn parse(path: &str, bytes: &[u8]) -> Result<Self> {
        let proto = ModelProto::decode(bytes).map_err(|error| ConvertError::Syntax {
            path: path.to_owned(),
            reason: format!("not a SentencePiece model: {error}"),
        })?;
        let unsupported = |what: &str, got: &str, expected: &str| ConvertError::Unsupported {
            path: path.to_owned(),
            what: what.to_owned(),
            got: got.to_owned(),
            expected: expected.to_owned(),
        };
        let trainer = proto.trainer_spec.unwrap_or_default();
        if trainer.model_type() != UNIGRAM {
            let got = match trainer.model_type() {
                2 => "BPE".to_owned(),
                3 => "WORD".to_owned(),
                4 => "CHAR".to_owned(),
                other => other.to_string(),
            };
            return Err(unsupported("the SentencePiece model type", &got, "UNIGRAM"));
        }
        if trainer.treat_whitespace_as_suffix() {
            return Err(unsupported("treat_whitespace_as_suffix", "true", "false"));
        }
        let normalizer = proto.normalizer_spec.unwrap_or_default();
        if !normalizer.escape_whitespaces() {
            return Err(unsupported("escape_whitespaces", "false", "true"));
        }
        if proto.denormalizer_spec.is_some_and(|spec| !spec.precompiled_charsmap().is_empty()) {
            return Err(unsupported("the denormalizer", "a rule map", "none"));
        }
        let charsmap = charsmap(path, normalizer.precompiled_charsmap())?;
        let pieces = pieces(path, proto.pieces)?;
        let mut unknowns = (0..pieces.len()).filter(|&id| pieces[id].kind == PieceType::Unknown);
        let (Some(unknown), None) = (unknowns.next(), unknowns.next()) else {
            return Err(damaged(path, "the number of unknown pieces", "not one", "one"));
        };
        if let Some(piece) = pieces.iter().find(|piece| piece.kind == PieceType::Unused) {
            return Err(unsupported(&format!("the piece `{}`", piece.text), "unused", "pieces in use"));
        }
        let is_eos = |piece: &Piece| piece.kind == PieceType::Control && piece.text == trainer.eos_piece();
        let eos = pieces.iter().position(is_eos).map(|id| id as u32);
        let user_defined = pieces.iter().filter(|piece| piece.kind == PieceType::UserDefined);
        let user_defined_symbols = user_defined.map(|piece| piece.text.clone()).collect();
        Ok(Self {
            path: path.to_owned(),
            pieces,
            unknown,
            eos,
            byte_fallback: trainer.byte_fallback(),
            normalizer: NormalizerSpec {
                charsmap,
                add_dummy_prefix: normalizer.add_dummy_prefix(),
                remove_extra_whitespaces: normalizer.remove_extra_whitespaces(),
                user_defined_symbols,
            },
        })
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The id of a piece.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.pieces.iter().position(|piece| piece.text == text).map(|id| id as u32)
    }

    /// The piece that the model itself ends texts with.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// True when the sentinels are among the pieces, as in mT5.
    pub fn has_sentinels(&self) -> bool {
        self.contains("<extra_id_0>") || self.contains("▁<extra_id_0>")
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        self.id(text).is_some()
    }
}

/// None for an empty one.
fn charsmap(path: &str, bytes: &[u8]) -> Result<Option<Charsmap>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let damage =
        |error: CharsmapError| damaged(path, "the normalizer's rule map", &error.got, error.expected);
    Charsmap::decode(bytes).map(Some).map_err(damage)
}

fn pieces(path: &str, protos: Vec<PieceProto>) -> Result<Vec<Piece>> {
    let mut pieces = Vec::with_capacity(protos.len());
    let mut seen = HashSet::with_capacity(protos.len());
    for (id, proto) in protos.into_iter().enumerate() {
        let score = proto.score();
        let kind = proto.r#type.unwrap_or(PieceType::Normal as i32);
        let kind = PieceType::try_from(kind)
            .map_err(|_| damaged(path, &format!("the type of piece {id}"), &kind.to_string(), "1 to 6"))?;
        let text = proto.piece.unwrap_or_default();
        if text.is_empty() {
            return Err(damaged(path, &format!("piece {id}"), "empty", "a text"));
        }
        if !score.is_finite() {
            let what = format!("the score of piece {id}");
            return Err(damaged(path, &what, &score.to_string(), "a finite number"));
        }
        if !seen.insert(text.clone()) {
            return Err(damaged(path, &format!("piece {id}"), &format!("`{text}` again"), "a new text"));
        }
        pieces.push(Piece { text, score, kind });
    }
    Ok(pieces)
}

fn damaged(path: &str, what: &str, got: &str, expected: &str) -> ConvertError {
    ConvertError::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
        got: got.to_owned(),
        expected: expected.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelProto {
        let piece = |text: &str, kind: PieceType| PieceProto {
            piece: Some(text.to_owned()),
            score: Some(-1.0),
            r#type: Some(kind as i32),
        };
        ModelProto {
            pieces: vec![piece("<unk>", PieceType::Unknown), piece("▁a", PieceType::Normal)],
            ..ModelProto::default()
        }
    }

    fn error(change: impl FnOnce(&mut ModelProto)) -> String {
        let mut proto = model();
        change(&mut proto);
        SentencePiece::parse("m", &proto.encode_to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_those_of_the_format() {
        let model = SentencePiece::parse("m", &model().encode_to_vec()).unwrap();
        assert!(model.normalizer.add_dummy_prefix && model.normalizer.remove_extra_whitespaces);
        assert!(!model.byte_fallback);
        assert_eq!((model.len(), model.unknown), (2, 0));
    }

    #[test]
    fn the_end_is_the_control_piece_that_the_model_names() {
        let eos = |kind: PieceType, named: Option<&str>| {
            let mut model = model();
            for (text, kind) in [("</s>", PieceType::Control), ("<eos>", kind)] {
                let (piece, score) = (Some(text.to_owned()), Some(0.0));
                model.pieces.push(PieceProto { piece, score, r#type: Some(kind as i32) });
            }
            model.trainer_spec =
                Some(TrainerSpec { eos_piece: named.map(str::to_owned), ..Default::default() });
            SentencePiece::parse("m", &model.encode_to_vec()).unwrap().eos()
        };
        assert_eq!(eos(PieceType::Control, None), Some(2));
        assert_eq!(eos(PieceType::Control, Some("<eos>")), Some(3));
        assert_eq!(eos(PieceType::Normal, Some("<eos>")), None);
    }

    #[test]
    fn what_cannot_be_the_same_is_refused() {
        let trainer = |spec: TrainerSpec| error(|model| model.trainer_spec = Some(spec));
        assert!(trainer(TrainerSpec { model_type: Some(2), ..Default::default() }).contains("BPE"));
        let suffix = TrainerSpec { treat_whitespace_as_suffix: Some(true), ..Default::default() };
        assert!(trainer(suffix).contains("treat_whitespace_as_suffix"));
        assert!(error(|model| model.pieces[1].r#type = Some(5)).contains("unused"));
        assert!(error(|model| model.pieces[1].r#type = Some(9)).contains("the type of piece 1"));
        assert!(error(|model| model.pieces[1].score = Some(f32::NAN)).contains("the score of piece 1"));
        assert!(error(|model| model.pieces[1].piece = Some("<unk>".into())).contains("`<unk>` again"));
        assert!(error(|model| _ = model.pieces.remove(0)).contains("unknown pieces"));
    }

    #[test]
    fn a_damaged_rule_map_is_refused() {
        let map = |bytes: &[u8]| NormalizerSpecProto {
            precompiled_charsmap: Some(bytes.to_vec()),
            ..Default::default()
        };
        let error = error(|model| model.normalizer_spec = Some(map(b"abc")));
        assert!(error.starts_with("m: damaged: the normalizer's rule map is 3 bytes"), "{error}");
    }

    #[test]
    fn user_defined_pieces_are_left_as_they_are() {
        let mut proto = model();
        proto.pieces[1].r#type = Some(PieceType::UserDefined as i32);
        let model = SentencePiece::parse("m", &proto.encode_to_vec()).unwrap();
        assert_eq!(model.normalizer.user_defined_symbols, ["▁a"]);
    }
}
