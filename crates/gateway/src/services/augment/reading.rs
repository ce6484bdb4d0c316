//! What a model cannot read: a text in none of the scripts of its languages.

use serde::Serialize;
use textgen_languages::Languages;
use unicode_script::{Script, UnicodeScript};

/// Something that a client should know of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Which text of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// What kind it is.
    pub code: &'static str,
    /// For a person.
    pub message: String,
}

/// A warning where a text has letters, and none of them is of a script that these languages are written in. Where it is
/// not known how one of them is written, nothing can be said.
pub fn warning(languages: &Languages, text: &str) -> Option<Warning> {
    let known = languages.iter().all(|language| !language.scripts.is_empty());
    let reads = |script: Script| {
        let name = script.full_name();
        languages.iter().any(|language| language.scripts.contains(&name))
    };
    let mut scripts = text.chars().filter_map(script_of_letter).peekable();
    if !known || scripts.peek().is_none() || scripts.any(reads) {
        return None;
    }
    let names: Vec<&str> = languages.iter().map(|language| &*language.name).collect();
    Some(Warning {
        index: None,
        code: "unreadable_script",
        message: format!(
            "the model does not read the script of this text (it reads {}); the answer may be meaningless",
            names.join(", ")
        ),
    })
}

/// None for what is no letter, or is one in every script.
fn script_of_letter(character: char) -> Option<Script> {
    let script = character.script();
    let own = !matches!(script, Script::Common | Script::Inherited | Script::Unknown);
    (own && character.is_alphabetic()).then_some(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_another_script_is_told() {
        let warned = |languages: &str, text: &str| {
            let warning = warning(&Languages::parse(languages).unwrap(), text);
            warning.map(|warning| (warning.code, warning.message.contains("English")))
        };
        for text in ["今天天气很好。", "Привет, мир!", "1. שלום 😀"] {
            assert_eq!(warned("en", text), Some(("unreadable_script", true)), "{text}");
        }
        for text in ["Hello.", "Olá, ção", "今天 iPhone 很好", "ＡＢＣ", "", "12:30 😀 → ①", "ª"]
        {
            assert_eq!(warned("en", text), None, "{text}");
        }
        assert_eq!(warned("en, zh", "今天天气很好。"), None);
        assert_eq!(warned("ja", "ひらがな"), None);
        assert!(warned("ja", "한국어").is_some());
        assert_eq!(warned("en, tlh=Klingon", "今天"), None, "nobody said how Klingon is written");
    }

    #[test]
    fn scripts_are_called_as_unicode_calls_them() {
        for language in Languages::default().iter() {
            assert!(!language.scripts.is_empty(), "{}", language.code);
            for script in language.scripts {
                assert!(Script::from_full_name(script).is_some(), "{script}");
            }
        }
    }
}
