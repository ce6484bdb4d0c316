//! The `messages` of a request.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Guard;
use crate::error::{Error, Result, SHOWN, shortened};

/// Messages of one conversation at most.
const MAX_MESSAGES: usize = 1024;

/// What was said so far, the oldest first; at least one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Conversation {
    messages: Vec<Message>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Message {
    /// Any name: which ones there are is the chat template's business.
    role: String,
    content: String,
}

impl Conversation {
    /// Reads a JSON list of messages.
    pub fn parse(json: &str) -> Result<Self> {
        let value = serde_json::from_str(json)
            .map_err(|error| Error::invalid_argument(format!("got {error}, expected {EXPECTED}")))?;
        Self::from_json(value)
    }

    /// The same, from JSON that has been read.
    pub fn from_json(value: Value) -> Result<Self> {
        let Value::Array(list) = value else {
            return Err(Error::invalid_argument(format!("got {}, expected {EXPECTED}", name_of(&value))));
        };
        if !(1..=MAX_MESSAGES).contains(&list.len()) {
            return Err(Error::invalid_argument(format!(
                "got {} messages, expected 1 to {MAX_MESSAGES}",
                list.len()
            )));
        }
        let message = |(index, value)| {
            Message::from_json(value).map_err(|error| error.context(format_args!("message {index}")))
        };
        Ok(Self { messages: list.into_iter().enumerate().map(message).collect::<Result<_>>()? })
    }

    /// The same with every role and content as `guard` gives it.
    pub(super) fn guarded(&self, guard: Guard<'_>) -> Result<Cow<'_, Self>> {
        let mut guarded = Cow::Borrowed(self);
        for (index, message) in self.messages.iter().enumerate() {
            let context = |error: Error| error.context(format_args!("message {index}"));
            let (role, content) =
                (guard(&message.role).map_err(context)?, guard(&message.content).map_err(context)?);
            if let (Cow::Borrowed(_), Cow::Borrowed(_)) = (&role, &content) {
                continue;
            }
            if let Some(place) = guarded.to_mut().messages.get_mut(index) {
                *place = Message { role: role.into_owned(), content: content.into_owned() };
            }
        }
        Ok(guarded)
    }

    /// A user's only turn.
    pub fn of_user(text: String) -> Self {
        Self { messages: vec![Message { role: "user".to_owned(), content: text }] }
    }
}

const EXPECTED: &str = "a JSON list of messages, such as [{\"role\": \"user\", \"content\": \"Hello\"}]";

impl Message {
    fn from_json(value: Value) -> Result<Self> {
        let Value::Object(mut fields) = value else {
            return Err(Error::invalid_argument(format!(
                "got {}, expected an object with `role` and `content`",
                name_of(&value)
            )));
        };
        let role = match fields.remove("role") {
            Some(Value::String(role)) => role,
            other => return Err(unexpected("role", other.as_ref(), "a string, such as \"user\"")),
        };
        let content = match fields.remove("content") {
            Some(Value::String(text)) => text,
            Some(Value::Array(parts)) => joined(parts)?,
            other => return Err(unexpected("content", other.as_ref(), "a string or a list of text parts")),
        };
        none_left(&fields, "`role` and `content`")?;
        Ok(Self { role, content })
    }
}

/// The text of `[{"type": "text", "text": …}, …]`: the parts one after the other.
fn joined(parts: Vec<Value>) -> Result<String> {
    let mut joined = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let text = text_of(part).map_err(|error| error.context(format_args!("`content`, part {index}")))?;
        joined.push_str(&text);
    }
    Ok(joined)
}

fn text_of(part: Value) -> Result<String> {
    let expected = "{\"type\": \"text\", \"text\": \"…\"}; only text is served";
    let Value::Object(mut fields) = part else {
        return Err(Error::invalid_argument(format!("got {}, expected {expected}", name_of(&part))));
    };
    match fields.remove("type") {
        Some(Value::String(kind)) if kind == "text" => {}
        other => return Err(unexpected("type", other.as_ref(), expected)),
    }
    let text = match fields.remove("text") {
        Some(Value::String(text)) => text,
        other => return Err(unexpected("text", other.as_ref(), "a string")),
    };
    none_left(&fields, "`type` and `text`")?;
    Ok(text)
}

fn unexpected(field: &str, got: Option<&Value>, expected: &str) -> Error {
    let got = got.map_or("nothing", name_of);
    Error::invalid_argument(format!("`{field}`: got {got}, expected {expected}"))
}

fn none_left(fields: &Map<String, Value>, known: &str) -> Result<()> {
    match fields.keys().next() {
        None => Ok(()),
        Some(name) => {
            let name = shortened(name, SHOWN);
            Err(Error::invalid_argument(format!("unknown field `{name}`; known are {known}")))
        }
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "another string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
