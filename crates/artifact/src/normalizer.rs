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
