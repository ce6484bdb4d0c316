//! Python's `json.dumps`, as transformers gives it to chat templates.

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, Rest, ValueKind},
};

use super::arguments::Arguments;
use crate::tokenizer::MARK;

/// Levels of lists and objects at most.
const MAX_DEPTH: usize = 200;
/// Blanks of one level at most.
const MAX_INDENT: usize = 16;

/// `tojson(value, ensure_ascii=false, indent=none, separators=none, sort_keys=false)`
pub fn to_json(value: &Value, given: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let arguments = Arguments::of("tojson", &given, &named);
    let [ascii, indent, separators, sorted] =
        arguments.bind(["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None => None,
        Some(text) if text.kind() == ValueKind::String => {
            Some(text.to_string().chars().take(MAX_INDENT).collect())
        }
        Some(width) => Some(" ".repeat(usize::try_from(width)?.min(MAX_INDENT))),
    };
    let [item, key] = match separators {
        None => [if indent.is_none() { ", " } else { "," }.to_owned(), ": ".to_owned()],
        Some(pair) => {
            let pair: Vec<String> = pair.try_iter()?.map(|part| part.to_string()).collect();
            pair.try_into().map_err(|_| failed("separators: expected two strings, as in (',', ':')"))?
        }
    };
    let writer = Writer {
        ascii: ascii.is_some_and(|value| value.is_true()),
        indent,
        item,
        key,
        sorted: sorted.is_some_and(|value| value.is_true()),
    };
    let mut json = String::new();
    writer.write(value, 0, &mut json)?;
    Ok(json)
}

struct Writer {
    ascii: bool,
    /// Of one level; none keeps all on one line.
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

impl Writer {
    fn write(&self, value: &Value, depth: usize, json: &mut String) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(failed(format!("the value is nested deeper than {MAX_DEPTH} levels")));
        }
        match value.kind() {
            ValueKind::None => json.push_str("null"),
            ValueKind::Bool => json.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => json.push_str(&number(value)),
            ValueKind::String => self.text(value.as_str().unwrap_or_default(), json)?,
            ValueKind::Seq | ValueKind::Iterable => {
                self.all("[]", value.try_iter()?, depth, json, |item, json| {
                    self.write(&item, depth + 1, json)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.all("{}", keys.into_iter(), depth, json, |key, json| {
                    self.text(&name(&key)?, json)?;
                    json.push_str(&self.key);
                    self.write(&value.get_item(&key)?, depth + 1, json)
                })?;
            }
            other => return Err(failed(format!("a value of the kind {other} cannot be written as JSON"))),
        }
        Ok(())
    }

    fn all(
        &self,
        brackets: &str,
        items: impl Iterator<Item = Value>,
        depth: usize,
        json: &mut String,
        mut write: impl FnMut(Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, json: &mut String| {
            if let Some(indent) = &self.indent {
                json.push('\n');
                (0..depth).for_each(|_| json.push_str(indent));
            }
        };
        let (open, close) = brackets.split_at(1);
        json.push_str(open);
        let mut empty = true;
        for item in items {
            if !empty {
                json.push_str(&self.item);
            }
            empty = false;
            line(depth + 1, json);
            write(item, json)?;
        }
        if !empty {
            line(depth, json);
        }
        json.push_str(close);
        Ok(())
    }

    fn text(&self, text: &str, json: &mut String) -> Result<(), Error> {
        let quoted = serde_json::to_string(text).map_err(|error| failed(error.to_string()))?;
        if !self.ascii {
            json.push_str(&quoted);
            return Ok(());
        }
        for character in quoted.chars() {
            // A mark is none of the text.
            if character.is_ascii() && character != '\x7f' || character == MARK {
                json.push(character);
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    json.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        Ok(())
    }
}

/// As Python writes a number, which is not JSON where it is infinite or none.
fn number(value: &Value) -> String {
    let Some(real) = f64::try_from(value.clone()).ok().filter(|_| !value.is_integer()) else {
        return value.to_string();
    };
    if real.is_nan() {
        return "NaN".to_owned();
    }
    if real.is_infinite() {
        return if real > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    // Rust turns to an exponent at the same sizes, and writes it shorter.
    let short = format!("{real:?}");
    match short.split_once("e-") {
        Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
        None => short.replace('e', "e+"),
    }
}

fn name(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(number(key)),
        other => Err(failed(format!("a key of the kind {other} cannot be written as JSON"))),
    }
}

fn failed(reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("tojson: {reason}"))
}
