//! The same tokenizer as a `tokenizer.json`, for texts that are normalized already.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use textgen_artifact::ESCAPED_SPACE as SPACE;

use super::{
    SentencePiece,
    model::{Piece, PieceType},
};
use crate::{
    error::{ConvertError, Result},
    tokenizer_files::TokenizerFiles,
};

/// What the checkpoint says of its tokenizer beyond the model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenizerOptions {
    /// The piece appended to every text.
    pub eos_token_id: u32,
    /// Sentinels `<extra_id_0>` … after the pieces; the first has the highest id.
    pub sentinels: usize,
}

impl SentencePiece {
    /// The same tokenizer for an artifact.
    pub fn tokenizer_files(&self, options: TokenizerOptions) -> Result<TokenizerFiles> {
        let eos_id = options.eos_token_id;
        let Some(eos) = self.pieces.get(eos_id as usize) else {
            return Err(ConvertError::Tokenizer {
                path: self.path.clone(),
                reason: format!("the end-of-sequence id {eos_id} is not among its {} pieces", self.len()),
            });
        };
        let sentinels = (0..options.sentinels).rev().map(|n| format!("<extra_id_{n}>"));
        let sentinels: Vec<String> = sentinels.collect();
        if let Some(text) = sentinels.iter().find(|text| self.contains(text)) {
            return Err(ConvertError::Tokenizer {
                path: self.path.clone(),
                reason: format!("the sentinel `{text}` is a piece already; set `extra_ids` to 0"),
            });
        }
        let mut vocab: Vec<Value> =
            self.pieces.iter().map(|piece| json!([piece.text, self.score(piece)])).collect();
        vocab.extend(sentinels.iter().map(|text| json!([text, 0.0])));

        let special = self.pieces.iter().enumerate().filter_map(|(id, piece)| {
            let special = matches!(piece.kind, PieceType::Control | PieceType::Unknown);
            special.then(|| added_token(id, &piece.text))
        });
        let after = sentinels.iter().enumerate().map(|(i, text)| added_token(self.len() + i, text));
        let added: Vec<Value> = special.chain(after).collect();

        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": sequence("pretokenizers", self.pre_tokenizers(&sentinels)),
            "post_processor": append(&eos.text, eos_id),
            "decoder": sequence("decoders", self.decoders()),
            "model": {
                "type": "Unigram",
                "unk_id": self.unknown,
                "vocab": vocab,
                "byte_fallback": self.byte_fallback,
            },
        });
        Ok(TokenizerFiles { json: tokenizer.to_string(), normalizer: Some(self.normalizer.clone()) })
    }

    /// A user-defined piece gets the bonus that SentencePiece gives it while it searches, so that it wins over
    /// any other way to spell it; not below the least score, which both sides measure unknown pieces by.
    fn score(&self, piece: &Piece) -> f32 {
        if piece.kind != PieceType::UserDefined {
            return piece.score;
        }
        let normal = || self.pieces.iter().filter(|piece| piece.kind == PieceType::Normal);
        let max = normal().map(|piece| piece.score).fold(f32::NEG_INFINITY, f32::max);
        let min = normal().map(|piece| piece.score).fold(f32::INFINITY, f32::min);
        if max < min { 0.0 } else { (piece.text.len() as f32 * max - 0.1).max(min) }
    }

    /// Cuts that change nothing, where no piece reaches across them, but for what they are made.
    fn pre_tokenizers(&self, sentinels: &[String]) -> Vec<Value> {
        let mut steps = Vec::new();
        let is_text = |piece: &&Piece| matches!(piece.kind, PieceType::Normal | PieceType::UserDefined);
        let of_text = || self.pieces.iter().filter(is_text);
        // Normalized text may spell a piece of another kind, as `<0x41>` or a full-width `</s>`. A cut behind
        // the `<` keeps it from becoming that; one side is known, so that it parts no two unknown characters.
        let known = |text: &str| self.byte_fallback || self.contains(text);
        let others = self.pieces.iter().filter(|piece| !is_text(piece));
        let others = others.map(|piece| &piece.text).chain(sentinels);
        let after: BTreeSet<char> = others
            .filter_map(|text| text.strip_prefix('<')?.chars().next())
            .filter(|c| c.is_ascii_alphanumeric() || *c == '/')
            .collect();
        let after: String = after
            .into_iter()
            .filter(|c| known("<") || known(&c.to_string()))
            .filter(|c| !of_text().any(|piece| piece.text.contains(&format!("<{c}"))))
            .collect();
        if !after.is_empty() {
            steps.push(json!({
                "type": "Split",
                "pattern": {"Regex": format!("<(?=[{after}])")},
                "behavior": "MergedWithPrevious",
                "invert": false,
            }));
        }
        // Word by word is sooner.
        let across = |piece: &Piece| piece.text.chars().skip(1).any(|c| SPACE.contains(c));
        if self.contains(SPACE) && !of_text().any(across) {
            steps.push(metaspace("never", true));
        }
        steps
    }

    fn decoders(&self) -> Vec<Value> {
        let mut steps = Vec::new();
        if self.byte_fallback {
            steps.push(json!({"type": "ByteFallback"}));
        }
        // SentencePiece drops a space in front if either rule keeps texts from beginning with one of their own.
        let drops_first = self.normalizer.add_dummy_prefix || self.normalizer.remove_extra_whitespaces;
        steps.push(metaspace(if drops_first { "always" } else { "never" }, true));
        steps
    }
}

fn added_token(id: usize, content: &str) -> Value {
    json!({
        "id": id,
        "content": content,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": true,
    })
}

fn metaspace(prepend_scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prepend_scheme, "split": split})
}

/// A post-processor that appends one token to every text.
fn append(text: &str, id: u32) -> Value {
    let token = json!({"SpecialToken": {"id": text, "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    json!({
        "type": "TemplateProcessing",
        "single": [sequence("A"), token],
        "pair": [sequence("A"), token, sequence("B"), token],
        "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
    })
}

/// Nothing, the one step itself, or a `Sequence` of several.
fn sequence(key: &str, mut steps: Vec<Value>) -> Value {
    match steps.len() {
        0 => Value::Null,
        1 => steps.remove(0),
        _ => json!({"type": "Sequence", key: steps}),
    }
}
