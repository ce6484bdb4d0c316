//! When two texts are one to a reader: they differ by case, punctuation and blanks alone.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// What two texts have in common that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Likeness(String);

impl Likeness {
    /// The letters and digits of a text, without case, full-width ones as the usual ones; of a text that has none, the
    /// text itself.
    pub fn of(text: &str) -> Self {
        let counts = |letter: &char| {
            letter.is_alphanumeric() || is_combining_mark(*letter) && !is_variation_selector(*letter)
        };
        let letters: String = text
            .nfkc()
            .filter(counts)
            // Through capitals, so that `ß` is `SS` and every sigma is one.
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .collect();
        Self(if letters.is_empty() { text.trim().to_owned() } else { letters })
    }
}

/// They choose how a character looks, not which one it is.
fn is_variation_selector(letter: char) -> bool {
    matches!(letter, '\u{FE00}'..='\u{FE0F}' | '\u{E0100}'..='\u{E01EF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_punctuation_and_blanks_do_not_count() {
        for (one, other) in [
            ("The train was late.", "the train  was late"),
            ("Don't stop!", "Dont stop"),
            ("ＡＢＣ１２３，好的。", "abc123好的"),
            ("今天下雨。", " 今天 下雨 "),
            ("Straße", "STRASSE"),
            ("ΟΔΟΣ", "οδος"),
            ("ﬁne", "fine"),
            ("e\u{301}te\u{301}", "Été"),
            ("- done", "Done! 👍"),
            ("😀", " 😀\n"),
        ] {
            assert_eq!(Likeness::of(one), Likeness::of(other), "{one} {other}");
        }
    }

    #[test]
    fn letters_digits_and_accents_do() {
        for (one, other) in [
            ("It costs 5 euros", "It costs 6 euros"),
            ("ete", "été"),
            ("मूल", "मल"),
            ("😀", "😁"),
            ("!", "?"),
            ("👍", ""),
            ("a b", "ab c"),
        ] {
            assert_ne!(Likeness::of(one), Likeness::of(other), "{one} {other}");
        }
    }
}
