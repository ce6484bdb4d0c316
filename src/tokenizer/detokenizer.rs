//! The tokens of one sequence to text, as far as it is final.

use std::sync::Arc;

use super::pieces::{PieceKind, PieceTable};

/// Turns the tokens of one sequence into text, piece by piece; it holds back what is not final. The pieces
/// joined are the whole text, byte for byte: what the tokenizer's own decoder makes of all tokens at once,
/// special ones skipped.
///
/// An incomplete character is held back. So is a run of byte-fallback tokens until it ends, since the crate's
/// decoder turns the whole run into replacement characters if a single byte does not fit. SentencePiece replaces
/// that byte only: there each character of a run is final once it is complete.
pub struct Detokenizer {
    pieces: Arc<PieceTable>,
    /// A token has had a part in the text, even if an empty one.
    started: bool,
    /// Bytes of byte-fallback tokens that are not final.
    run: Vec<u8>,
    /// Beginning of a character.
    incomplete: Vec<u8>,
    /// How many characters may still be cut from the start of the text.
    strip_left: usize,
}

impl Detokenizer {
    pub(super) fn new(pieces: Arc<PieceTable>) -> Self {
        let strip_left = pieces.strip().map_or(0, |(_, count)| count);
        Self { pieces, started: false, run: Vec::new(), incomplete: Vec::new(), strip_left }
    }

    /// Appends to `text` what is final after `token`. A token beyond the vocabulary has no text.
    pub fn push(&mut self, token: u32, text: &mut String) {
        match self.pieces.kind(token) {
            PieceKind::Skipped => {}
            PieceKind::Byte(byte) => {
                self.run.push(byte);
                if self.pieces.bytes_by_character() {
                    self.characters_of_run(false, text);
                }
            }
            PieceKind::Text => {
                self.end_run(text);
                let pieces = Arc::clone(&self.pieces);
                let first = if self.started { None } else { pieces.first_text(token) };
                self.element(first.as_ref().map_or(pieces.bytes(token), |first| first.as_bytes()), text);
            }
        }
    }

    /// Appends what was held back.
    pub fn finish(&mut self, text: &mut String) {
        self.end_run(text);
        let rest = std::mem::take(&mut self.incomplete);
        self.write(&String::from_utf8_lossy(&rest), text);
    }

    fn end_run(&mut self, text: &mut String) {
        if self.run.is_empty() {
            return;
        }
        if self.pieces.bytes_by_character() {
            return self.characters_of_run(true, text);
        }
        for element in self.pieces.run_texts(&self.run, !self.started) {
            self.element(element.as_bytes(), text);
        }
        self.run.clear();
    }

    /// Writes the characters of the run, and a replacement character for each byte that belongs to none. What may
    /// become a character is kept unless the run has `ended`.
    fn characters_of_run(&mut self, ended: bool, text: &mut String) {
        self.started = true;
        let run = std::mem::take(&mut self.run);
        let mut rest = run.as_slice();
        while !rest.is_empty() {
            let (valid, others) = match std::str::from_utf8(rest) {
                Ok(valid) => (valid, &[][..]),
                Err(error) => {
                    let (valid, others) = rest.split_at(error.valid_up_to());
                    if !ended && error.error_len().is_none() {
                        self.run = others.to_vec();
                        rest = valid;
                        continue;
                    }
                    (std::str::from_utf8(valid).unwrap_or_default(), others)
                }
            };
            self.write(valid, text);
            rest = match others.split_first() {
                Some((_, after)) => {
                    self.write("\u{fffd}", text);
                    after
                }
                None => others,
            };
        }
    }

    fn element(&mut self, bytes: &[u8], text: &mut String) {
        if self.started {
            self.write(self.pieces.separator(), text);
        }
        self.started = true;
        let mut all = std::mem::take(&mut self.incomplete);
        all.extend_from_slice(bytes);
        let mut rest = all.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.write(valid, text);
                    break;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    self.write(&String::from_utf8_lossy(valid), text);
                    let Some(length) = error.error_len() else {
                        self.incomplete = invalid.to_vec();
                        break;
                    };
                    self.write("\u{fffd}", text);
                    rest = invalid.get(length..).unwrap_or_default();
                }
            }
        }
    }

    fn write(&mut self, piece: &str, text: &mut String) {
        let mut piece = piece;
        if let Some((content, _)) = self.pieces.strip() {
            while self.strip_left > 0 && !piece.is_empty() {
                match piece.strip_prefix(content) {
                    Some(rest) => {
                        piece = rest;
                        self.strip_left -= 1;
                    }
                    None => self.strip_left = 0,
                }
            }
        }
        text.push_str(piece);
    }
}
