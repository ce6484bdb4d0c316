//! Cuts a text into pieces that a model can translate, and says what stands between them, so that the translation keeps
//! the lines of its source.

use unicode_segmentation::UnicodeSegmentation;

use crate::settings::SegmentKind;

/// A piece to translate, and what follows it in the source as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Blanks and line breaks before it: for the first one of a text only.
    pub before: String,
    /// What is translated; without blanks at its ends, never empty.
    pub text: String,
    /// Blanks and line breaks after it.
    pub after: String,
    /// True where the next one goes on in the midst of a word.
    pub inside_word: bool,
}

impl Segment {
    /// What goes after the translation: line breaks stay; between the sentences of a line its own blanks, or one where the
    /// source has none, if the language has any.
    pub fn joint(&self, tgt_lang: &str, last: bool) -> &str {
        if last || self.after.contains(['\n', '\r', '\u{2028}', '\u{2029}']) {
            &self.after
        } else if writes_without_blanks(tgt_lang) {
            ""
        } else if self.after.is_empty() && !self.inside_word {
            " "
        } else {
            &self.after
        }
    }
}

fn writes_without_blanks(code: &str) -> bool {
    matches!(code, "zh" | "zh-Hant" | "yue" | "ja" | "th" | "km" | "my" | "bo")
}

/// Cuts `text` at its lines, these at their sentences when `kind` or `max_bytes` says so, and what is still too long
/// between words, or between characters where there is no blank.
pub fn split(text: &str, kind: SegmentKind, max_bytes: usize) -> Vec<Segment> {
    let mut cuts: Vec<&str> = Vec::new();
    for line in text.split_inclusive('\n') {
        if kind == SegmentKind::Paragraph && line.trim().len() <= max_bytes {
            cuts.push(line);
            continue;
        }
        let mut held = 0..0;
        for (start, sentence) in line.split_sentence_bound_indices() {
            let end = start + sentence.len();
            // Sentences of a paragraph stay together as far as they fit.
            let fits = kind == SegmentKind::Paragraph && line[held.start..end].trim().len() <= max_bytes;
            if !fits && !held.is_empty() {
                cuts.push(&line[held.clone()]);
                held = start..start;
            }
            held.end = end;
            if sentence.trim().len() > max_bytes {
                let mut rest = &line[held.clone()];
                while rest.trim_end().len() > max_bytes {
                    let (piece, others) = rest.split_at(break_before(rest, max_bytes));
                    cuts.push(piece);
                    rest = others;
                }
                held.start = end - rest.len();
            }
        }
        cuts.push(&line[held]);
    }
    let mut segments: Vec<Segment> = Vec::new();
    let mut before = String::new();
    for cut in cuts {
        let text = cut.trim();
        let (lead, rest) = cut.split_at(cut.len() - cut.trim_start().len());
        segments.last_mut().map_or(&mut before, |last| &mut last.after).push_str(lead);
        if !text.is_empty() {
            let after = rest[text.len()..].to_owned();
            if let Some(last) = segments.last_mut().filter(|last| last.after.is_empty()) {
                last.inside_word = is_one_word(&last.text, text);
            }
            let before = std::mem::take(&mut before);
            segments.push(Segment { before, text: text.to_owned(), after, inside_word: false });
        }
    }
    segments
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
    let after = |marks: &[char]| {
        window.rmatch_indices(marks).map(|(at, mark)| at + mark.len()).find(|&at| at > limit / 2)
    };
    let whole_characters = || {
        let mut ends = window.grapheme_indices(true).map(|(start, _)| start);
        ends.next_back().filter(|&start| start > 0)
    };
    after(&['，', '、', '；', '：', ';', ':', ',', '،', '؛'])
        .or_else(|| window.rfind(char::is_whitespace).filter(|&at| at > 0).map(|at| at + 1))
        .filter(|&at| text.is_char_boundary(at))
        .or_else(whole_characters)
        .unwrap_or_else(|| limit.max(text.chars().next().map_or(1, char::len_utf8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(segments: &[Segment]) -> Vec<&str> {
        segments.iter().map(|segment| segment.text.as_str()).collect()
    }

    fn rejoined(segments: &[Segment]) -> String {
        segments.iter().flat_map(|segment| [&*segment.before, &*segment.text, &*segment.after]).collect()
    }

    #[test]
    fn sentences_are_cut_and_nothing_is_lost() {
        let text =
            "  One here. Two there!  And three?\n\n“Four,” she said.\r\n今天下雨。我们在家！好吗？明天见\n";
        let segments = split(text, SegmentKind::Sentence, 500);
        let expected = [
            "One here.",
            "Two there!",
            "And three?",
            "“Four,” she said.",
            "今天下雨。",
            "我们在家！",
            "好吗？",
            "明天见",
        ];
        assert_eq!(texts(&segments), expected);
        assert_eq!(rejoined(&segments), text);
        assert_eq!(segments[0].joint("pt", false), " ");
        assert_eq!(segments[1].joint("pt", false), "  ");
        assert_eq!(segments[4].joint("pt", false), " ");
        assert_eq!(segments[0].joint("zh", false), "");
        assert_eq!(segments[2].joint("zh", false), "\n\n");
        assert_eq!(segments[3].joint("en", false), "\r\n");
        assert_eq!(segments[7].joint("en", true), "\n");
    }

    #[test]
    fn a_paragraph_stays_whole_while_it_fits() {
        let text = "One here. Two there! And three?\nFour.";
        assert_eq!(
            texts(&split(text, SegmentKind::Paragraph, 100)),
            ["One here. Two there! And three?", "Four."]
        );
        let cut = split(text, SegmentKind::Paragraph, 22);
        assert_eq!(texts(&cut), ["One here. Two there!", "And three?", "Four."]);
        assert_eq!(rejoined(&cut), text);
    }

    #[test]
    fn a_word_that_is_cut_is_not_torn() {
        let joint = |text: &str| split(text, SegmentKind::Sentence, 32)[0].joint("pt", false).to_owned();
        assert_eq!(joint(&"x".repeat(40)), "");
        assert_eq!(joint(&"天".repeat(40)), " ");
    }

    #[test]
    fn blanks_alone_are_no_work() {
        for text in ["", " \n\t ", "\n", " "] {
            assert!(split(text, SegmentKind::Sentence, 100).is_empty());
        }
    }

    #[test]
    fn whatever_the_text_every_piece_fits_and_nothing_is_lost() {
        let words = "a word and another, ".repeat(40);
        let chinese = "今天天气很好，我们去公园".repeat(40);
        let together = "x".repeat(300);
        let emoji = "👨‍👩‍👧‍👦".repeat(30);
        let mixed = format!("{words}\n\n{chinese}。{together} {emoji}");
        for text in [&words, &chinese, &together, &emoji, &mixed] {
            for kind in [SegmentKind::Sentence, SegmentKind::Paragraph] {
                for max_bytes in [32, 33, 34, 100] {
                    let segments = split(text, kind, max_bytes);
                    assert_eq!(&rejoined(&segments), text);
                    let longest = segments.iter().map(|segment| segment.text.len()).max().unwrap();
                    assert!(longest <= max_bytes, "{longest} bytes of {max_bytes}");
                }
            }
        }
        let cut = split(&words, SegmentKind::Sentence, 50);
        assert!(cut.iter().all(|segment| segment.text.ends_with(',')), "{cut:?}");
    }
}
