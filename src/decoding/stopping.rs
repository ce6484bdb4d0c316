//! Stop words in a stream of text.

use std::sync::Arc;

/// Finds the end of a text that arrives in pieces: it holds back what may be the beginning of a stop word.
///
/// The first stop word to be complete ends the text, so the result does not depend on where the pieces are
/// split, and no more is generated than it takes; if several are complete at the same character, the longest
/// counts. The time is linear in the text for each stop word (Knuth, Morris, Pratt).
#[derive(Debug, Clone)]
pub struct StopMatcher {
    patterns: Arc<[Pattern]>,
    /// For each pattern how many of its bytes the text so far ends with.
    matched: Vec<usize>,
    /// End of the text that has not been emitted.
    held: String,
    stopped: bool,
}

#[derive(Debug)]
struct Pattern {
    bytes: Box<[u8]>,
    /// For each `n`, the longest proper prefix of the first `n + 1` bytes that is also their suffix.
    border: Box<[usize]>,
}

impl Pattern {
    fn new(word: &str) -> Self {
        let mut pattern = Self { bytes: word.as_bytes().into(), border: vec![0; word.len()].into() };
        let mut length = 0;
        for at in 1..word.len() {
            length = pattern.advance(length, pattern.bytes[at]);
            pattern.border[at] = length;
        }
        pattern
    }

    /// How much is matched after `byte` when `matched` bytes, not all of them, were before.
    fn advance(&self, mut matched: usize, byte: u8) -> usize {
        while self.bytes[matched] != byte {
            if matched == 0 {
                return 0;
            }
            matched = self.border[matched - 1];
        }
        matched + 1
    }
}

impl StopMatcher {
    /// Empty words are ignored.
    pub fn new(words: &[String]) -> Self {
        let patterns: Arc<[Pattern]> =
            words.iter().filter(|word| !word.is_empty()).map(|word| Pattern::new(word)).collect();
        Self { matched: vec![0; patterns.len()], patterns, held: String::new(), stopped: false }
    }

    /// Takes the next piece and appends to `out` what is surely before any stop word. True when a stop word is
    /// complete: what is before it has been appended, the text has ended, and later pieces are ignored.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stopped {
            return true;
        }
        if self.patterns.is_empty() {
            out.push_str(text);
            return false;
        }
        let mut end = self.held.len();
        self.held.push_str(text);
        for &byte in text.as_bytes() {
            end += 1;
            let mut stop = 0;
            for (pattern, matched) in self.patterns.iter().zip(&mut self.matched) {
                *matched = pattern.advance(*matched, byte);
                if *matched == pattern.bytes.len() {
                    stop = stop.max(*matched);
                }
            }
            if stop > 0 {
                // A match begins with the first byte of a character, so the cut is between characters.
                out.push_str(&self.held[..end - stop]);
                self.held = String::new();
                self.stopped = true;
                return true;
            }
        }
        let open = self.matched.iter().copied().max().unwrap_or(0);
        out.extend(self.held.drain(..end - open));
        false
    }

    /// Appends what was held back: the text has ended without a stop word.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.matched.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(words: &[String], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(words);
        let mut out = String::new();
        let mut stopped = false;
        for piece in pieces {
            stopped = matcher.push(piece, &mut out);
        }
        matcher.finish(&mut out);
        (out, stopped)
    }

    /// The definition: the first end of any word, and there the longest.
    fn reference(words: &[String], text: &str) -> (String, bool) {
        for end in 0..=text.len() {
            let Some(head) = text.get(..end) else { continue };
            let longest =
                words.iter().filter(|word| !word.is_empty() && head.ends_with(*word)).map(String::len).max();
            if let Some(length) = longest {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn only_the_possible_beginning_of_a_stop_word_is_held_back() {
        let mut matcher = StopMatcher::new(&words(&["</end>", "停止"]));
        let mut out = String::new();
        assert!(!matcher.push("a <b </e", &mut out));
        assert_eq!(out, "a <b ");
        assert!(!matcher.push("x 停", &mut out));
        assert_eq!(out, "a <b </ex ");
        assert!(!matcher.push("下停", &mut out));
        assert_eq!(out, "a <b </ex 停下");
        assert!(matcher.push("止 more", &mut out));
        assert!(matcher.push("and more", &mut out));
        matcher.finish(&mut out);
        assert_eq!(out, "a <b </ex 停下");
    }

    #[test]
    fn the_first_to_be_complete_wins_and_the_longest_of_those() {
        assert_eq!(run(&words(&["ab", "xaby"]), &["wxaby"]), ("wx".into(), true));
        assert_eq!(run(&words(&["ab", "xab"]), &["wxa", "by"]), ("w".into(), true));
        assert_eq!(run(&words(&["\n\n", "\n"]), &["a\n", "\n"]), ("a".into(), true));
    }

    #[test]
    fn a_word_that_repeats_itself_is_found() {
        assert_eq!(run(&words(&["aab"]), &["aa", "a", "ab"]), ("aa".into(), true));
        assert_eq!(run(&words(&["abab"]), &["ab", "aabab"]), ("aba".into(), true));
    }

    #[test]
    fn characters_that_share_bytes_are_not_confused() {
        // U+4E00 and U+4E01 differ in the last byte only.
        assert_eq!(run(&words(&["\u{4e01}"]), &["\u{4e00}"]), ("\u{4e00}".into(), false));
    }

    #[test]
    fn without_words_everything_passes_at_once() {
        let mut matcher = StopMatcher::new(&words(&[""]));
        let mut out = String::new();
        assert!(!matcher.push("abc", &mut out));
        assert_eq!(out, "abc");
    }

    proptest! {
        #[test]
        fn equals_the_definition_wherever_the_text_is_split(
            text in "[ab\u{e9}\u{4e00}\u{4e01}\u{1f600}]{0,40}",
            words in prop::collection::vec("[ab\u{e9}\u{4e00}\u{4e01}\u{1f600}]{0,5}", 0..5),
            cuts in prop::collection::vec(0_usize..40, 0..12),
        ) {
            let characters: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(characters.len())).collect();
            cuts.push(0);
            cuts.push(characters.len());
            cuts.sort_unstable();
            let pieces: Vec<String> =
                cuts.windows(2).map(|cut| characters[cut[0]..cut[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&words, &pieces), reference(&words, &text));
        }
    }
}
