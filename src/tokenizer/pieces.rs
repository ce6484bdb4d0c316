//! What each token contributes to the text: the vocabulary after the tokenizer's own decoder, laid out flat.
//!
//! A decoder is a chain of stages over the list of all tokens. Those that treat each token by itself are run
//! here once for the whole vocabulary, by the crate's own code; what depends on neighbours (a run of
//! byte-fallback tokens, the first token, stripping the whole text) is left to the detokenizer.

use std::sync::Arc;

use tokenizers::{Decoder, DecoderWrapper};

use super::{Vocabulary, guarded, normalizer::Normalizer};
use crate::error::{Error, Result};

/// A vocabulary beyond this is taken for a damaged file.
const MAX_TOKENS: usize = 1 << 24;

/// Text of every token.
pub(super) struct PieceTable {
    vocabulary: Arc<Vocabulary>,
    plan: DecoderPlan,
    kinds: Vec<PieceKind>,
    /// Bytes of all tokens, one after the other, as they appear anywhere but first.
    bytes: Vec<u8>,
    /// `[tokens + 1]`; token `i` owns `bytes[offsets[i] .. offsets[i + 1]]`.
    offsets: Vec<usize>,
}

/// How a token takes part in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// Not at all: a special token, or none of the vocabulary.
    Skipped,
    /// By its piece.
    Text,
    /// As a byte of a run of such tokens.
    Byte(u8),
}

/// A decoder taken apart at the stages that look at more than one token.
#[derive(Default)]
struct DecoderPlan {
    /// Stages before byte fallback.
    before: Vec<DecoderWrapper>,
    byte_fallback: bool,
    /// A run of byte-fallback tokens is decoded character by character, as SentencePiece does, not as a whole.
    bytes_by_character: bool,
    /// Stages after it; they may treat the first element differently.
    after: Vec<DecoderWrapper>,
    /// GPT-2's characters for bytes are the last stage.
    byte_level: bool,
    /// This many of this character are cut from the start of the whole text.
    strip: Option<(char, usize)>,
    /// Written between two elements.
    separator: &'static str,
}

impl PieceTable {
    pub fn new(vocabulary: Arc<Vocabulary>) -> Result<Self> {
        let mut plan = DecoderPlan::new(vocabulary.get_decoder())?;
        // The tokenizer was a SentencePiece model before it was a `tokenizer.json`.
        plan.bytes_by_character = matches!(vocabulary.get_normalizer(), Some(Normalizer::SentencePiece(_)));
        let tokens = vocabulary.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if tokens > MAX_TOKENS {
            return Err(Error::invalid_argument(format!(
                "vocabulary: got a token with id {}, expected ids below {MAX_TOKENS}; convert the model again",
                tokens - 1
            )));
        }
        let mut table =
            Self { vocabulary, plan, kinds: Vec::with_capacity(tokens), bytes: Vec::new(), offsets: vec![0] };
        let mut texts = Vec::with_capacity(tokens);
        for id in 0..tokens as u32 {
            let text = table.text_before_fallback(id)?;
            table.kinds.push(match &text {
                None => PieceKind::Skipped,
                Some(text) => table.plan.fallback_byte(text).map_or(PieceKind::Text, PieceKind::Byte),
            });
            texts.push(text.unwrap_or_default());
        }
        for text in table.plan.elements(texts, false)? {
            match table.plan.byte_level.then(|| byte_level(&text)).flatten() {
                Some(bytes) => table.bytes.extend(bytes),
                None => table.bytes.extend(text.as_bytes()),
            }
            table.offsets.push(table.bytes.len());
        }
        Ok(table)
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    pub fn kind(&self, token: u32) -> PieceKind {
        self.kinds.get(token as usize).copied().unwrap_or(PieceKind::Skipped)
    }

    /// Bytes of a token anywhere but at the start of the text.
    pub fn bytes(&self, token: u32) -> &[u8] {
        let token = token as usize;
        match (self.offsets.get(token), self.offsets.get(token + 1)) {
            (Some(&start), Some(&end)) => self.bytes.get(start..end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Text of a token at the start of the text; none where that makes no difference.
    pub fn first_text(&self, token: u32) -> Option<String> {
        if self.plan.after.is_empty() {
            return None;
        }
        let text = self.text_before_fallback(token).ok()??;
        Some(self.plan.elements(vec![text], true).ok()?.concat())
    }

    /// True when the characters of a run of byte-fallback tokens do not depend on the bytes after them.
    pub fn bytes_by_character(&self) -> bool {
        self.plan.bytes_by_character
    }

    /// Texts of a whole run of byte-fallback tokens, as the crate's `ByteFallback` makes them: one text when the run
    /// is UTF-8, else one replacement character for each byte.
    pub fn run_texts(&self, run: &[u8], first: bool) -> Vec<String> {
        let texts = match std::str::from_utf8(run) {
            Ok(text) => vec![text.to_owned()],
            Err(_) => vec![char::REPLACEMENT_CHARACTER.to_string(); run.len()],
        };
        // No decoder failed on the whole vocabulary, so none is expected to fail here.
        self.plan.elements(texts.clone(), first).unwrap_or(texts)
    }

    pub fn strip(&self) -> Option<(char, usize)> {
        self.plan.strip
    }

    pub fn separator(&self) -> &'static str {
        self.plan.separator
    }

    /// None for a token that has no part in the text.
    fn text_before_fallback(&self, token: u32) -> Result<Option<String>> {
        let Some(name) = self.vocabulary.id_to_token(token) else { return Ok(None) };
        if self.vocabulary.get_added_vocabulary().is_special_token(&name) {
            return Ok(None);
        }
        Ok(Some(run_stages(&self.plan.before, vec![name])?.concat()))
    }
}

impl DecoderPlan {
    fn new(decoder: Option<&DecoderWrapper>) -> Result<Self> {
        let Some(decoder) = decoder else {
            return Ok(Self { separator: " ", ..Self::default() });
        };
        let mut stages = Vec::new();
        flatten(decoder, &mut stages);
        let mut plan = Self::default();
        let mut fused = false;
        for &stage in &stages {
            match stage {
                DecoderWrapper::Fuse(_) => fused = true,
                DecoderWrapper::ByteFallback(_) if !fused && !plan.byte_fallback => {
                    // What was taken for the last part comes before byte fallback after all.
                    plan.before = std::mem::take(&mut plan.after);
                    if plan.before.iter().any(|stage| matches!(stage, DecoderWrapper::Metaspace(_))) {
                        return Err(unsupported(stage, "after Metaspace"));
                    }
                    plan.byte_fallback = true;
                }
                DecoderWrapper::Strip(strip) if strip.stop > 0 => {
                    return Err(unsupported(stage, "that strips the end of a text"));
                }
                DecoderWrapper::Strip(strip) if fused && plan.strip.is_none() => {
                    plan.strip = Some((strip.content, strip.start));
                }
                DecoderWrapper::Replace(_) | DecoderWrapper::Strip(_) | DecoderWrapper::Metaspace(_)
                    if !fused =>
                {
                    plan.after.push(stage.clone());
                }
                DecoderWrapper::ByteLevel(_) if stages.len() == 1 => plan.byte_level = true,
                _ => return Err(unsupported(stage, "at this place of the decoder")),
            }
        }
        Ok(plan)
    }

    /// The byte that a token stands for, by the same rule as the crate's `ByteFallback`.
    fn fallback_byte(&self, text: &str) -> Option<u8> {
        if !self.byte_fallback || text.len() != 6 || !text.starts_with("<0x") || !text.ends_with('>') {
            return None;
        }
        u8::from_str_radix(text.get(3..5)?, 16).ok()
    }

    /// Runs the stages after byte fallback; `first` says that the text begins with these elements.
    fn elements(&self, mut texts: Vec<String>, first: bool) -> Result<Vec<String>> {
        if !first {
            texts.insert(0, String::new());
        }
        let mut texts = run_stages(&self.after, texts)?;
        if !first && !texts.is_empty() {
            texts.remove(0);
        }
        Ok(texts)
    }
}

fn run_stages(stages: &[DecoderWrapper], texts: Vec<String>) -> Result<Vec<String>> {
    guarded(|| stages.iter().try_fold(texts, |texts, stage| stage.decode_chain(texts))).map_err(|reason| {
        Error::invalid_argument(format!("the tokenizer's decoder fails on its vocabulary: {reason}"))
    })
}

fn flatten<'a>(decoder: &'a DecoderWrapper, stages: &mut Vec<&'a DecoderWrapper>) {
    match decoder {
        DecoderWrapper::Sequence(sequence) => {
            for decoder in sequence.get_decoders() {
                flatten(decoder, stages);
            }
        }
        decoder => stages.push(decoder),
    }
}

fn unsupported(stage: &DecoderWrapper, place: &str) -> Error {
    let name = match stage {
        DecoderWrapper::BPE(_) => "BPEDecoder",
        DecoderWrapper::ByteLevel(_) => "ByteLevel",
        DecoderWrapper::WordPiece(_) => "WordPiece",
        DecoderWrapper::Metaspace(_) => "Metaspace",
        DecoderWrapper::CTC(_) => "CTC",
        DecoderWrapper::Sequence(_) => "Sequence",
        DecoderWrapper::Replace(_) => "Replace",
        DecoderWrapper::Fuse(_) => "Fuse",
        DecoderWrapper::Strip(_) => "Strip",
        DecoderWrapper::ByteFallback(_) => "ByteFallback",
    };
    Error::unsupported(format!(
        "tokenizer decoder: got {name} {place}, expected none, ByteLevel, or a sequence of Replace, ByteFallback, \
         Metaspace, Fuse and Strip of the start; text from it cannot be streamed"
    ))
}

/// The bytes that GPT-2 writes as these characters; none when one of them stands for no byte.
fn byte_level(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte_of).collect()
}

/// Bytes that print stand for themselves; the others were given the characters from U+0100 on, in order.
pub(super) fn byte_of(character: char) -> Option<u8> {
    let prints = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match u8::try_from(u32::from(character)) {
        Ok(byte) => prints(byte).then_some(byte),
        Err(_) => {
            let index = usize::try_from(u32::from(character) - 0x100).ok()?;
            (0..=u8::MAX).filter(|&byte| !prints(byte)).nth(index)
        }
    }
}
