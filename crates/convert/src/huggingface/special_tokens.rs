//! What a checkpoint calls its special tokens.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::{TOKENIZER_CONFIG_FILE, read_json};
use crate::error::Result;

const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";

/// Texts by name: `bos_token`, `eos_token`, `pad_token`, …
pub fn special_tokens(source: &Path) -> Result<BTreeMap<String, String>> {
    let mut special_tokens = BTreeMap::new();
    // What the second file says wins.
    for file in [SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE] {
        let json: Value = read_json(&source.join(file))?.unwrap_or_default();
        for (name, token) in json.as_object().into_iter().flatten() {
            if let (true, Some(text)) = (name.ends_with("_token"), content(token)) {
                special_tokens.insert(name.clone(), text.to_owned());
            }
        }
    }
    Ok(special_tokens)
}

/// A token is its text, or an object with it.
pub fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}
