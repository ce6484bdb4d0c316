//! `normalizer.json`: how SentencePiece normalizes text before it cuts it into pieces.

use serde::{Deserialize, Serialize};

use crate::charsmap::Charsmap;

pub const NORMALIZER_FILE: &str = "normalizer.json";

/// What stands for a space in normalized text.
pub const ESCAPED_SPACE: &str = "▁";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormalizerSpec {
    /// Replacement rules; none leaves characters as they are.
    pub charsmap: Option<Charsmap>,
    /// Put a space in front of a text.
    pub add_dummy_prefix: bool,
    /// Drop spaces at both ends and all but one of several.
    pub remove_extra_whitespaces: bool,
    /// Texts that no rule changes.
    pub user_defined_symbols: Vec<String>,
}

/// The normalizer of a spec: at each place the longest rule that matches, then the spaces.
pub struct TextNormalizer {
    spec: NormalizerSpec,
}

impl TextNormalizer {
    pub fn new(mut spec: NormalizerSpec) -> Self {
        // Backwards, so that of two symbols of which one begins with the other, the longer comes first.
        spec.user_defined_symbols.sort_unstable_by(|a, b| b.cmp(a));
        spec.user_defined_symbols.retain(|symbol| !symbol.is_empty());
        Self { spec }
    }

    pub fn normalize(&self, text: &str) -> String {
        let squeeze = self.spec.remove_extra_whitespaces;
        let mut rest = text;
        if squeeze {
            while let (length, " ") = self.prefix(rest) {
                rest = &rest[length..];
            }
        }
        if rest.is_empty() {
            return String::new();
        }
        let mut normalized = String::with_capacity(2 * rest.len());
        if self.spec.add_dummy_prefix {
            normalized.push_str(ESCAPED_SPACE);
        }
        let mut after_space = squeeze;
        while !rest.is_empty() {
            let (length, mut replacement) = self.prefix(rest);
            rest = &rest[length..];
            if after_space {
                replacement = replacement.trim_start_matches(' ');
            }
            if !replacement.is_empty() {
                after_space = squeeze && replacement.ends_with(' ');
            }
            for (index, part) in replacement.split(' ').enumerate() {
                if index > 0 {
                    normalized.push_str(ESCAPED_SPACE);
                }
                normalized.push_str(part);
            }
        }
        if squeeze {
            // A literal one too, as SentencePiece does.
            normalized.truncate(normalized.trim_end_matches(ESCAPED_SPACE).len());
        }
        normalized
    }

    /// The length of what comes next, and its normalized form; both are nothing at the end only.
    fn prefix<'a>(&'a self, text: &'a str) -> (usize, &'a str) {
        if let Some(symbol) = self.user_defined(text) {
            return (symbol.len(), symbol);
        }
        let rule = self.spec.charsmap.as_ref().and_then(|map| map.longest_match(text));
        rule.unwrap_or_else(|| {
            let length = text.chars().next().map_or(0, char::len_utf8);
            (length, &text[..length])
        })
    }

    fn user_defined(&self, text: &str) -> Option<&str> {
        let symbols = &self.spec.user_defined_symbols;
        // A symbol that `text` begins with is not behind it in the order, and shares the first byte.
        let first = symbols.partition_point(|symbol| symbol.as_str() > text);
        symbols[first..]
            .iter()
            .take_while(|symbol| symbol.bytes().next() == text.bytes().next())
            .find(|symbol| text.starts_with(symbol.as_str()))
            .map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalizer(squeeze: bool, prefix: bool, symbols: &[&str]) -> TextNormalizer {
        TextNormalizer::new(NormalizerSpec {
            charsmap: None,
            add_dummy_prefix: prefix,
            remove_extra_whitespaces: squeeze,
            user_defined_symbols: symbols.iter().map(|&symbol| symbol.to_owned()).collect(),
        })
    }

    #[test]
    fn spaces_are_dropped_at_the_ends_and_squeezed_within() {
        let normalizer = normalizer(true, true, &[]);
        assert_eq!(normalizer.normalize("  a   b "), "▁a▁b");
        assert_eq!(normalizer.normalize("▁a ▁ ▁b ▁ ▁"), "▁▁a▁▁▁▁b");
        for text in ["", " ", "   "] {
            assert_eq!(normalizer.normalize(text), "", "{text:?}");
        }
    }

    #[test]
    fn spaces_stay_where_the_model_keeps_them() {
        assert_eq!(normalizer(false, false, &[]).normalize(" a  b "), "▁a▁▁b▁");
        assert_eq!(normalizer(false, true, &[]).normalize(" "), "▁▁");
        assert_eq!(normalizer(false, true, &[]).normalize(""), "");
    }

    #[test]
    fn the_longest_symbol_is_found_among_others() {
        let normalizer = normalizer(true, true, &["<a>", "<a", "", "<ab>", "b", "é", "<a>c"]);
        for (text, symbol) in [
            ("<a>b", Some("<a>")),
            ("<a>c", Some("<a>c")),
            ("<ab", Some("<a")),
            ("<ab>", Some("<ab>")),
            ("<", None),
            ("", None),
            ("é", Some("é")),
            ("è", None),
            ("zz", None),
        ] {
            assert_eq!(normalizer.user_defined(text), symbol, "{text:?}");
        }
    }
}
