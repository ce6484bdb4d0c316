//! One JSON object a line on standard input.

use std::io::BufRead;

use serde_json::{Map, Value};
use textgen_artifact::Manifest;
use triton_textgen::tokenizer::Tokenizer;

/// A line of input: its id, and its other keys or what is wrong with it.
pub struct Line {
    /// The `id` key as it was given, else the number of the line, from 1.
    pub id: Value,
    pub object: Result<Map<String, Value>, String>,
}

/// The lines of `input` that are not blank.
pub fn read(input: impl BufRead) -> impl Iterator<Item = std::io::Result<Line>> {
    input.split(b'\n').enumerate().filter_map(|(index, line)| {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let number = Value::from(index + 1);
        Some(Ok(match serde_json::from_slice::<Value>(&line) {
            Ok(Value::Object(mut object)) => {
                Line { id: object.remove("id").unwrap_or(number), object: Ok(object) }
            }
            Ok(other) => {
                let got = match other {
                    Value::Array(_) => "an array",
                    Value::String(_) => "a string",
                    _ => "a plain value",
                };
                Line { id: number, object: Err(format!("got {got}, expected a JSON object")) }
            }
            Err(error) => Line { id: number, object: Err(format!("not valid JSON: {error}")) },
        }))
    })
}

/// Takes `key` as a list of token ids, each below `tokens`.
fn take_ids(object: &mut Map<String, Value>, key: &str, tokens: usize) -> Result<Option<Vec<u32>>, String> {
    let Some(value) = object.remove(key) else { return Ok(None) };
    let ids: Vec<u32> = serde_json::from_value(value)
        .map_err(|error| format!("{key}: expected a list of token ids: {error}"))?;
    match ids.iter().find(|&&id| id as usize >= tokens) {
        Some(id) => Err(format!("{key}: got {id}, expected tokens of the model, below {tokens}")),
        None => Ok(Some(ids)),
    }
}

/// Takes `key` as a string.
fn take_text(object: &mut Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match object.remove(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{key}: got {other}, expected a string")),
    }
}

/// Takes the source of a line, special tokens included.
pub fn source(
    object: &mut Map<String, Value>,
    manifest: &Manifest,
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>, String> {
    // The source's vocabulary may be another than the target's.
    let table = manifest.tensor(&manifest.embeddings.encoder.table);
    let tokens = table.and_then(|table| table.shape.first()).copied().unwrap_or(0);
    text_or_ids(object, ["text_input", "input_ids"], tokens, |text| tokenizer.encode_source(text))
}

/// Takes the target of a line; a text gets the end-of-sequence token.
pub fn target(
    object: &mut Map<String, Value>,
    manifest: &Manifest,
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>, String> {
    text_or_ids(object, ["text_output", "target_ids"], manifest.geometry.vocab_size, |text| {
        let mut ids = tokenizer.encode_target(text)?;
        ids.extend(manifest.generation.eos_token_ids.first());
        Ok(ids)
    })
}

/// Exactly one of a text and a list of ids must be there.
fn text_or_ids(
    object: &mut Map<String, Value>,
    [text_key, ids_key]: [&str; 2],
    tokens: usize,
    encode: impl FnOnce(&str) -> triton_textgen::error::Result<Vec<u32>>,
) -> Result<Vec<u32>, String> {
    match (take_text(object, text_key)?, take_ids(object, ids_key, tokens)?) {
        (Some(text), None) => encode(&text).map_err(|error| error.to_string()),
        (None, Some(ids)) => Ok(ids),
        _ => Err(format!("give either {text_key} or {ids_key}")),
    }
}
