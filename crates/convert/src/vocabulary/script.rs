//! Scripts of Unicode, by name.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::LazyLock};

use unicode_script::{Script as Property, UnicodeScript};

/// A script as Unicode's property `Script` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script(Property);

/// No script has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not the name of a Unicode script, expected {expected}")]
pub struct UnknownScript {
    name: String,
    expected: String,
}

/// Of an unknown name, how near a known one is that it may have been meant for; 1 is the same.
const NEAR: f64 = 0.8;

/// Named to who is not near any.
const EXAMPLES: &str =
    "one such as Han, Latin, Cyrillic, Arabic, Devanagari, Hangul, Hiragana, Katakana or Thai";

/// Every script that some character has, by its name in lower case.
static KNOWN: LazyLock<BTreeMap<String, Property>> = LazyLock::new(|| {
    let all = ('\0'..=char::MAX).map(|character| character.script());
    let mut known = BTreeMap::new();
    let mut last = None;
    for script in all.filter(|&script| script != Property::Unknown) {
        // Neighbours most often are of one script.
        if last.replace(script) != Some(script) {
            known.entry(script.full_name().to_lowercase()).or_insert(script);
        }
    }
    known
});

impl Script {
    /// True for the character's own script, whatever others use it too.
    pub fn has(self, character: char) -> bool {
        character.script() == self.0
    }

    /// Script of a character.
    pub fn of(character: char) -> Self {
        Self(character.script())
    }

    /// True for scripts that are no one's own: digits, punctuation, symbols, marks that take the script of their letter.
    pub fn is_shared(self) -> bool {
        matches!(self.0, Property::Common | Property::Inherited)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0.full_name())
    }
}

impl FromStr for Script {
    type Err = UnknownScript;

    /// The name (`Han`, `Old_Italic`) or the four letters of ISO 15924 (`Hani`), in any case.
    fn from_str(name: &str) -> Result<Self, UnknownScript> {
        let wanted = name.trim().to_lowercase().replace([' ', '-'], "_");
        let short = |script: &Property| script.short_name().eq_ignore_ascii_case(&wanted);
        if let Some(&script) = KNOWN.get(&wanted).or_else(|| KNOWN.values().find(|script| short(script))) {
            return Ok(Self(script));
        }
        let mut near: Vec<(f64, &str)> = KNOWN
            .iter()
            .map(|(known, script)| (strsim::jaro_winkler(known, &wanted), script.full_name()))
            .filter(|&(likeness, _)| likeness >= NEAR)
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let near: Vec<&str> = near.into_iter().take(3).map(|(_, name)| name).collect();
        let expected = if near.is_empty() { EXAMPLES.to_owned() } else { near.join(" or ") };
        Err(UnknownScript { name: name.to_owned(), expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_long_or_short_in_any_case() {
        for name in ["Han", "han", "HANI", " han "] {
            assert_eq!(name.parse::<Script>().unwrap().to_string(), "Han", "{name}");
        }
        for name in ["Old_Italic", "old italic", "old-italic", "Ital"] {
            assert_eq!(name.parse::<Script>().unwrap().to_string(), "Old_Italic", "{name}");
        }
        assert_eq!("nko".parse::<Script>().unwrap().to_string(), "Nko");
    }

    #[test]
    fn unknown_names_are_answered_with_near_or_known_ones() {
        let message = |name: &str| name.parse::<Script>().unwrap_err().to_string();
        assert!(message("lattin").contains("`lattin`") && message("lattin").contains("Latin"));
        assert!(message("hna").contains("Han"), "{}", message("hna"));
        for name in ["", "?", "zzzz"] {
            assert!(message(name).contains("Cyrillic"), "{}", message(name));
        }
    }

    #[test]
    fn a_character_is_of_one_script() {
        let han: Script = "han".parse().unwrap();
        assert!("中々〇𠀀豈".chars().all(|c| han.has(c)));
        assert!("a1，。ー▁".chars().all(|c| !han.has(c)));
        assert!("1，。ー▁\u{301}".chars().all(|c| Script::of(c).is_shared()));
        assert!("aа中".chars().all(|c| !Script::of(c).is_shared()));
    }
}
