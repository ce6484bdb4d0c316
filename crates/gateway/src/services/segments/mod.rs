//! Cuts a text into segments that a model can work on, and keeps all that stands between them, so that the answers take the
//! places of their sources.
//!
//! A text has lines, a line has cells (columns, in most texts one), a cell has sentences. What has no words to translate is
//! no segment: it belongs to what stands between them and reaches no model.

mod abbreviations;
mod kept;
mod layout;
mod sentences;

use std::{borrow::Cow, ops::Range};

use unicode_segmentation::UnicodeSegmentation;

use self::{abbreviations::Abbreviations, kept::Place};
use crate::settings::SegmentKind;

/// A text that was cut. Everything in order, `before` and each segment with what follows it, is the text again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segments {
    /// What stands before the first segment: the whole text where it has none.
    pub before: String,
    /// In the order of the text; none where there is nothing to ask a model for.
    pub list: Vec<Segment>,
}

/// A piece for the model, and what follows it in the source as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What the model gets: without blanks at its ends, never empty.
    pub text: String,
    /// All that stands between it and the next one, or the end.
    after: String,
    seam: Seam,
    /// True for a heading, or for text before an emoji, that ends without a full stop.
    pub lacks_stop: bool,
}

/// What separates a segment from the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seam {
    /// Line breaks, columns, marks, what is kept as it is: or the end.
    Fixed,
    /// Blanks or nothing, between two sentences or parts of one.
    Sentence,
    /// Nothing, in the midst of a word.
    Word,
}

/// What becomes of the blanks between two sentences when the language changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blanks {
    /// They stay as they are.
    Kept,
    /// The new language has none there.
    Dropped,
    /// The new language has one where the source has none.
    Added,
}

impl Blanks {
    /// From one language, if it is known, into another, both by code.
    pub fn between(source: Option<&str>, target: &str) -> Self {
        match (source, joins_sentences(target)) {
            (Some(source), _) if source == target => Self::Kept,
            (Some(source), true) if joins_sentences(source) => Self::Kept,
            (_, true) => Self::Dropped,
            (_, false) => Self::Added,
        }
    }
}

/// True when no blank stands between the sentences of the language. Thai, Khmer, Burmese and Tibetan have none between
/// words, but one between sentences.
fn joins_sentences(code: &str) -> bool {
    matches!(code.split('-').next(), Some("zh" | "yue" | "ja"))
}

impl Segment {
    /// The text for a model of sentences: a title gets a full stop, because the model takes one without it for part of a
    /// sentence. [`take_stop`] takes it from the answer.
    pub fn sentence(&self) -> Cow<'_, str> {
        if !self.lacks_stop {
            return Cow::Borrowed(&self.text);
        }
        let is_wide = self.text.ends_with(|last| matches!(last, '\u{3040}'..='\u{9fff}'));
        Cow::Owned(format!("{}{}", self.text, if is_wide { '。' } else { '.' }))
    }

    /// What goes after the model's answer.
    pub fn joint(&self, blanks: Blanks) -> &str {
        match (self.seam, blanks) {
            (Seam::Sentence, Blanks::Dropped) => "",
            // The blank of Chinese and Japanese is as wide as a character.
            (Seam::Sentence, Blanks::Added) if self.after.trim_start_matches('\u{3000}').is_empty() => " ",
            _ => &self.after,
        }
    }
}

/// The full stop at the end of a text, in whatever script, which the text loses.
pub fn take_stop(text: &mut String) -> Option<char> {
    let stop = text.chars().next_back().filter(|last| sentences::is_full_stop(*last))?;
    text.pop();
    Some(stop)
}

/// Cuts `text`, in the language with this code if it is known, at its lines and columns; these at their sentences when
/// `kind` or `max_bytes` says so; and what is still too long between words, or between characters where there is no blank.
pub fn split(text: &str, language: Option<&str>, kind: SegmentKind, max_bytes: usize) -> Segments {
    let abbreviations = Abbreviations::of(language);
    let mut pieces = Vec::new();
    for cell in layout::cells(text) {
        let Some(core) = kept::core(text, cell, Place::Cell, &abbreviations) else { continue };
        let first = pieces.len();
        if kind == SegmentKind::Paragraph && core.len() <= max_bytes {
            pieces.push(Piece { range: core, goes_on: false });
            continue;
        }
        let mut held: Option<Range<usize>> = None;
        for sentence in sentences::of(&text[core.clone()], &abbreviations) {
            let sentence = core.start + sentence.start..core.start + sentence.end;
            held = match held {
                // Sentences of a paragraph stay together as far as they fit.
                Some(held) if kind == SegmentKind::Paragraph && sentence.end - held.start <= max_bytes => {
                    Some(held.start..sentence.end)
                }
                Some(done) => {
                    push_fitting(&mut pieces, text, done, max_bytes, &abbreviations);
                    Some(sentence)
                }
                None => Some(sentence),
            };
        }
        if let Some(held) = held {
            push_fitting(&mut pieces, text, held, max_bytes, &abbreviations);
        }
        if let Some(last) = pieces[first..].last_mut() {
            last.goes_on = false;
        }
    }
    assemble(text, &pieces)
}

/// A part of the text for the model.
struct Piece {
    range: Range<usize>,
    /// True where the next one is of the same cell.
    goes_on: bool,
}

/// Adds what is to be translated in the range, cut further where it is too long.
fn push_fitting(
    pieces: &mut Vec<Piece>,
    text: &str,
    range: Range<usize>,
    max_bytes: usize,
    abbreviations: &Abbreviations,
) {
    let core = |range| kept::core(text, range, Place::Sentence, abbreviations);
    let Some(mut rest) = core(range) else { return };
    while !rest.is_empty() {
        let left = &text[rest.clone()];
        let fits = left.len() <= max_bytes;
        let end = if fits { rest.end } else { rest.start + break_before(left, max_bytes) };
        pieces.extend(core(rest.start..end).map(|range| Piece { range, goes_on: true }));
        rest.start = rest.end - text[end..rest.end].trim_start().len();
    }
}

fn assemble(text: &str, pieces: &[Piece]) -> Segments {
    let Some(first) = pieces.first() else {
        return Segments { before: text.to_owned(), list: Vec::new() };
    };
    let mut list = Vec::with_capacity(pieces.len());
    let mut before = &text[..first.range.start];
    for (index, piece) in pieces.iter().enumerate() {
        let next = pieces.get(index + 1);
        let after = &text[piece.range.end..next.map_or(text.len(), |next| next.range.start)];
        let core = &text[piece.range.clone()];
        let seam = match next {
            Some(next)
                if piece.goes_on && after.is_empty() && is_one_word(core, &text[next.range.clone()]) =>
            {
                Seam::Word
            }
            Some(_) if piece.goes_on && after.trim().is_empty() => Seam::Sentence,
            _ => Seam::Fixed,
        };
        let lacks_stop = core.ends_with(char::is_alphanumeric) && is_title(before, after);
        list.push(Segment { text: core.to_owned(), after: after.to_owned(), seam, lacks_stop });
        before = after;
    }
    Segments { before: text[..first.range.start].to_owned(), list }
}

/// True for what stands between these two: behind the mark of a heading, or before an emoji.
fn is_title(before: &str, after: &str) -> bool {
    let heading = before.trim_end_matches(' ');
    let is_emoji = |c: char| matches!(c, '\u{2600}'..='\u{27bf}' | '\u{1f000}'..='\u{1faff}');
    heading.len() < before.len() && heading.ends_with('#')
        || after.trim_start_matches(' ').starts_with(is_emoji)
}

/// True when a word goes from one into the other: of a script without blanks, none does.
fn is_one_word(left: &str, right: &str) -> bool {
    let seam: String = left.chars().next_back().into_iter().chain(right.chars().next()).collect();
    seam.split_word_bounds().count() == 1
}

/// The best place to cut before `max_bytes`: after a clause's mark, else after a blank, else between two characters.
fn break_before(text: &str, max_bytes: usize) -> usize {
    let mut limit = max_bytes.min(text.len());
    while !text.is_char_boundary(limit) {
        limit -= 1;
    }
    let window = &text[..limit];
    // A narrow mark may be part of a number, a time or an address, unless a blank follows.
    let ends_clause = |at: usize, mark: &str| {
        matches!(mark, "，" | "、" | "；" | "：")
            || text[at + mark.len()..].starts_with(|next: char| next.is_whitespace())
    };
    let after_mark = || {
        window
            .rmatch_indices(['，', '、', '；', '：', ';', ':', ',', '،', '؛'])
            .take_while(|(at, _)| *at > limit / 2)
            .find(|(at, mark)| ends_clause(*at, mark))
            .map(|(at, mark)| at + mark.len())
    };
    let after_blank = || {
        let (at, blank) = window.char_indices().rev().find(|(_, c)| c.is_whitespace())?;
        (at > 0).then_some(at + blank.len_utf8())
    };
    let whole_characters = || {
        let mut ends = window.grapheme_indices(true).map(|(start, _)| start);
        ends.next_back().filter(|&start| start > 0)
    };
    after_mark()
        .or_else(after_blank)
        .or_else(whole_characters)
        .unwrap_or_else(|| limit.max(text.chars().next().map_or(1, char::len_utf8)))
}

#[cfg(test)]
mod tests;
