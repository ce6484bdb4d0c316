//! One JSON object a line on standard input.

use std::io::BufRead;

use serde_json::{Map, Value};
use triton_textgen::{
    prompt::{Conversation, PromptInput},
    text_model::TextSide,
};

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

/// Takes `key` as a conversation: a list of messages, or the same in a string, as the server wants it.
fn take_conversation(object: &mut Map<String, Value>, key: &str) -> Result<Option<Conversation>, String> {
    let conversation = match object.remove(key) {
        None => return Ok(None),
        Some(Value::String(json)) => Conversation::parse(&json),
        Some(list) => Conversation::from_json(list),
    };
    conversation.map(Some).map_err(|error| error.context(key).to_string())
}

/// What a line begins from.
pub enum Source {
    /// Something to make a prompt of.
    Input(PromptInput),
    /// Tokens, special ones included.
    Ids(Vec<u32>),
}

/// Takes the source of a line.
pub fn source(object: &mut Map<String, Value>, model: &TextSide) -> Result<Source, String> {
    // The source's vocabulary may be another than the target's.
    let table = model.manifest.tensor(&model.manifest.source_embedding().table);
    let tokens = table.and_then(|table| table.shape.first()).copied().unwrap_or(0);
    let text = take_text(object, "text_input")?.map(PromptInput::Text);
    let conversation = take_conversation(object, "messages")?.map(PromptInput::Conversation);
    match (text, conversation, take_ids(object, "input_ids", tokens)?) {
        (Some(input), None, None) | (None, Some(input), None) => Ok(Source::Input(input)),
        (None, None, Some(ids)) => Ok(Source::Ids(ids)),
        _ => Err("give one of text_input, messages and input_ids".to_owned()),
    }
}

/// Takes the target of a line; a text gets the end-of-sequence token.
pub fn target(object: &mut Map<String, Value>, model: &TextSide) -> Result<Vec<u32>, String> {
    let text = take_text(object, "text_output")?;
    match (text, take_ids(object, "target_ids", model.manifest.geometry.vocab_size)?) {
        (Some(text), None) => {
            let mut ids = model.tokenizer.encode_target(&text).map_err(|error| error.to_string())?;
            ids.extend(model.manifest.generation.eos_token_ids.first());
            Ok(ids)
        }
        (None, Some(ids)) => Ok(ids),
        _ => Err("give either text_output or target_ids".to_owned()),
    }
}
