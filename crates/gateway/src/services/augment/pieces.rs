//! The pieces of a text that a model rewrites one by one, and what stays between them as it is: line breaks and blanks,
//! and what has no letters.

use super::variants::{FinishReason, Variant};
use crate::{
    services::segments::{Blanks, Segments, split},
    settings::SegmentKind,
};

/// A text in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    text: String,
    /// Where it begins in the whole text, in bytes.
    start: usize,
    is_kept: bool,
}

/// In bytes.
#[derive(Debug, Clone, Copy)]
pub struct PieceLimits {
    /// A piece of more than one sentence is no longer.
    pub sentences: usize,
    /// No piece is longer.
    pub piece: usize,
}

impl Pieces {
    /// The text in one piece.
    pub fn whole(text: &str) -> Self {
        Self(vec![Piece { text: text.to_owned(), start: 0, is_kept: false }])
    }

    /// A piece for each line or cell of the text, in the language with this code if it is known; and of a line that is
    /// beyond the limits, for as many of its sentences as fit.
    pub fn of(text: &str, language: Option<&str>, limits: PieceLimits) -> Self {
        let mut pieces = Self(Vec::new());
        let lines = split(text, language, SegmentKind::Paragraph, limits.piece);
        pieces.add(&lines.before, true);
        for line in &lines.list {
            if line.text.len() <= limits.sentences {
                pieces.add(&line.text, false);
            } else {
                pieces
                    .add_sentences(&split(&line.text, language, SegmentKind::Sentence, limits.piece), limits);
            }
            pieces.add(line.joint(Blanks::Kept), true);
        }
        pieces
    }

    /// What a model is to rewrite, each with its place in the text.
    pub fn rewritten(&self) -> impl Iterator<Item = (usize, &str)> {
        self.0.iter().filter(|piece| !piece.is_kept).map(|piece| (piece.start, piece.text.as_str()))
    }

    /// So many whole texts of the variants of each piece: the k-th has the k-th of each. A piece with fewer repeats its
    /// last, one with none stays as it is.
    pub fn join(&self, drawn: &[Vec<Variant>], count: usize) -> Vec<Variant> {
        let joined = |at: usize| {
            let mut whole = Variant { text: String::new(), finish_reason: Some(FinishReason::Stop) };
            let mut drawn = drawn.iter();
            for piece in &self.0 {
                let variants = if piece.is_kept { None } else { drawn.next() };
                let variant = variants.and_then(|variants| variants.get(at).or(variants.last()));
                whole.text.push_str(variant.map_or(&piece.text, |variant| &variant.text));
                if let Some(variant) = variant {
                    let both = whole.finish_reason.zip(variant.finish_reason);
                    whole.finish_reason = both.map(|(one, other)| one.max(other));
                }
            }
            whole
        };
        (0..count).map(joined).collect()
    }

    /// Sentences stay together as far as they fit and nothing but blanks is between them.
    fn add_sentences(&mut self, sentences: &Segments, limits: PieceLimits) {
        self.add(&sentences.before, true);
        let mut held = String::new();
        let mut between = "";
        for sentence in &sentences.list {
            let fits = held.len() + between.len() + sentence.text.len() <= limits.sentences;
            if !held.is_empty() && (!fits || !between.trim().is_empty()) {
                self.add(&std::mem::take(&mut held), false);
                self.add(between, true);
            } else {
                held.push_str(between);
            }
            held.push_str(&sentence.text);
            between = sentence.joint(Blanks::Kept);
        }
        self.add(&held, false);
        self.add(between, true);
    }

    fn add(&mut self, text: &str, is_kept: bool) {
        if !text.is_empty() {
            let start = self.0.last().map_or(0, |last| last.start + last.text.len());
            self.0.push(Piece { text: text.to_owned(), start, is_kept });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PieceLimits = PieceLimits { sentences: 30, piece: 60 };

    fn rewritten(text: &str) -> Vec<String> {
        Pieces::of(text, Some("en"), LIMITS).rewritten().map(|(_, piece)| piece.to_owned()).collect()
    }

    fn variants(texts: &[&str]) -> Vec<Variant> {
        let variant =
            |text: &&str| Variant { text: (*text).to_owned(), finish_reason: Some(FinishReason::Stop) };
        texts.iter().map(variant).collect()
    }

    #[test]
    fn lines_stay_lines_and_nothing_is_lost() {
        let long = "It rains here. ".repeat(20);
        for text in ["One.\n\n  Two.\r\n3.\n", "a", " ", "\n", "1\n2", "今天。\n\n明天。", &long] {
            let pieces = Pieces::of(text, Some("en"), LIMITS);
            let joined: String = pieces.0.iter().map(|piece| piece.text.as_str()).collect();
            assert_eq!(joined, text);
            for (start, piece) in pieces.rewritten() {
                assert_eq!(&text[start..start + piece.len()], piece);
            }
        }
        assert_eq!(
            rewritten("One. Two.\n  Three.\r\n--- 12:30 ---\nFour.\n"),
            ["One. Two.", "Three.", "Four."]
        );
    }

    #[test]
    fn a_line_is_cut_beyond_the_limits_alone() {
        assert_eq!(rewritten("It rains here. It snows."), ["It rains here. It snows."]);
        assert_eq!(rewritten("It rains here. It snows. We go."), ["It rains here. It snows.", "We go."]);
        let sentence = "It rains in the city where we live, and more";
        assert_eq!(rewritten(sentence), [sentence], "one sentence is cut at the other limit");
        assert_eq!(rewritten(&format!("{sentence}, {sentence}.")).len(), 2);
    }

    #[test]
    fn variants_are_joined_one_by_one() {
        let pieces = Pieces::of("One.\n12\n Two.", None, LIMITS);
        let joined = pieces.join(&[variants(&["A", "B", "C"]), variants(&["x", "y"])], 3);
        let texts: Vec<&str> = joined.iter().map(|variant| variant.text.as_str()).collect();
        assert_eq!(texts, ["A\n12\n x", "B\n12\n y", "C\n12\n y"]);
        assert_eq!(pieces.join(&[Vec::new(), Vec::new()], 1)[0].text, "One.\n12\n Two.");
    }

    #[test]
    fn one_truncated_piece_truncates_the_whole() {
        let pieces = Pieces::of("One.\nTwo.", None, LIMITS);
        let mut cut = variants(&["A"]);
        cut[0].finish_reason = Some(FinishReason::Length);
        let reason = |drawn: &[Vec<Variant>]| pieces.join(drawn, 1)[0].finish_reason;
        assert_eq!(reason(&[cut.clone(), variants(&["B"])]), Some(FinishReason::Length));
        assert_eq!(reason(&[variants(&["B"]), variants(&["B"])]), Some(FinishReason::Stop));
        cut[0].finish_reason = None;
        assert_eq!(reason(&[cut, variants(&["B"])]), None, "the model does not say");
    }
}
