//! What templates know from Python: methods of strings, lists and dictionaries that `minijinja_contrib` does not have,
//! or not with all arguments. Those that change a value are missing on purpose: transformers renders in a sandbox that
//! refuses them.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Tuple, ValueKind},
};
use minijinja_contrib::pycompat;

use super::{
    arguments::{Arguments, text, whole},
    operators::repr,
};

/// The result of `value.name(arguments)`.
pub fn method(state: &mut State, value: &Value, name: &str, all: &[Value]) -> Result<Value, Error> {
    let result = match value.kind() {
        ValueKind::String => of_string(state, value.as_str().unwrap_or_default(), name, all)?,
        ValueKind::Seq => of_list(value, name, all)?,
        ValueKind::Map if name == "copy" && all.is_empty() => Some(value.clone()),
        _ => None,
    };
    match result {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, name, all),
    }
}

fn of_list(list: &Value, name: &str, all: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" if all.is_empty() => Ok(Some(list.clone())),
        "index" => {
            let [wanted] = Arguments::of_method(name, all).bind(["value"])?;
            let wanted = wanted.unwrap_or_else(|| Value::from(()));
            match list.try_iter()?.position(|item| item == wanted) {
                Some(index) => Ok(Some(Value::from(index))),
                None => Err(not_found(format!("{} is not in the list", repr(&wanted)))),
            }
        }
        _ => Ok(None),
    }
}

fn of_string(state: &mut State, string: &str, name: &str, all: &[Value]) -> Result<Option<Value>, Error> {
    let arguments = Arguments::of_method(name, all);
    Ok(Some(match name {
        "split" | "rsplit" => {
            let [separator, most] = arguments.bind(["sep", "maxsplit"])?;
            let most = usize::try_from(whole(most, -1)?).ok();
            let from_right = name == "rsplit";
            match separator {
                None => words(string, most, from_right),
                Some(separator) => parts(string, &separator_of(name, Some(separator))?, most, from_right),
            }
        }
        "partition" | "rpartition" => {
            let [separator] = arguments.bind(["sep"])?;
            let separator = separator_of(name, separator)?;
            let parts = match name {
                "partition" => string.split_once(&separator),
                _ => string.rsplit_once(&separator),
            };
            let three = match parts {
                Some((before, after)) => [before, &separator, after],
                None if name == "partition" => [string, "", ""],
                None => ["", "", string],
            };
            Value::from(Tuple::from(three.map(Value::from)))
        }
        "removeprefix" => {
            let [prefix] = arguments.bind(["prefix"])?;
            Value::from(string.strip_prefix(&text(name, prefix)?).unwrap_or(string))
        }
        "removesuffix" => {
            let [suffix] = arguments.bind(["suffix"])?;
            Value::from(string.strip_suffix(&text(name, suffix)?).unwrap_or(string))
        }
        "zfill" => {
            let [width] = arguments.bind(["width"])?;
            let missing = missing(state, string, whole(width, 0)?, 1)?;
            let sign = string.len() - string.strip_prefix(['+', '-']).unwrap_or(string).len();
            let (sign, digits) = string.split_at(sign);
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        "ljust" | "rjust" | "center" => {
            let [width, fill] = arguments.bind(["width", "fillchar"])?;
            let fill = fill.map_or(Ok(" ".to_owned()), |fill| text(name, Some(fill)))?;
            let width = whole(width, 0)?;
            let missing = missing(state, string, width, fill.len())?;
            let left = match name {
                "ljust" => 0,
                "rjust" => missing,
                // Python puts the odd one to the left where the width is odd too.
                _ => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
            };
            Value::from(format!("{}{string}{}", fill.repeat(left), fill.repeat(missing - left)))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let [wanted, start, end] = arguments.bind(["sub", "start", "end"])?;
            let wanted = text(name, wanted)?;
            let found = within(string, start, end)?.and_then(|(before, part)| {
                let at = if name.starts_with('r') { part.rfind(&wanted) } else { part.find(&wanted) };
                at.map(|at| before + part[..at].chars().count())
            });
            match found {
                Some(index) => Value::from(index),
                None if name.ends_with("find") => Value::from(-1),
                None => return Err(not_found(format!("{wanted:?} is not in the string"))),
            }
        }
        "count" => {
            let [wanted, start, end] = arguments.bind(["sub", "start", "end"])?;
            let wanted = text(name, wanted)?;
            Value::from(within(string, start, end)?.map_or(0, |(_, part)| part.matches(&*wanted).count()))
        }
        "startswith" | "endswith" => {
            let [wanted, start, end] = arguments.bind(["prefix", "start", "end"])?;
            let wanted = match wanted {
                Some(one) if one.kind() == ValueKind::String => vec![one],
                Some(several) => several.try_iter()?.collect(),
                None => Vec::new(),
            };
            let part = within(string, start, end)?.map(|(_, part)| part);
            let mut found = false;
            for wanted in wanted {
                let wanted = text(name, Some(wanted))?;
                found |= part.is_some_and(|part| match name {
                    "startswith" => part.starts_with(&wanted),
                    _ => part.ends_with(&wanted),
                });
            }
            Value::from(found)
        }
        "strip" | "lstrip" | "rstrip" => {
            let [set] = arguments.bind(["chars"])?;
            let set = set.map(|set| text(name, Some(set))).transpose()?;
            let goes = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
            let mut rest = string;
            if name != "rstrip" {
                rest = rest.trim_start_matches(goes);
            }
            if name != "lstrip" {
                rest = rest.trim_end_matches(goes);
            }
            Value::from(rest)
        }
        "splitlines" => {
            let [keep] = arguments.bind(["keepends"])?;
            lines(string, keep.is_some_and(|keep| keep.is_true()))
        }
        "capitalize" => {
            let [] = arguments.bind([])?;
            let mut rest = string.chars();
            let first: String = rest.next().into_iter().flat_map(char::to_uppercase).collect();
            Value::from(first + &rest.as_str().to_lowercase())
        }
        "title" => {
            let [] = arguments.bind([])?;
            let mut inside = false;
            let mut titled = String::with_capacity(string.len());
            for c in string.chars() {
                if inside {
                    titled.extend(c.to_lowercase());
                } else {
                    titled.extend(c.to_uppercase());
                }
                inside = c.is_alphabetic();
            }
            Value::from(titled)
        }
        "casefold" => {
            let [] = arguments.bind([])?;
            Value::from(string.to_lowercase().replace('ß', "ss"))
        }
        "swapcase" => {
            let [] = arguments.bind([])?;
            let swapped = |c: char| match c.is_uppercase() {
                true => c.to_lowercase().to_string(),
                false => c.to_uppercase().to_string(),
            };
            Value::from(string.chars().map(swapped).collect::<String>())
        }
        "isdecimal" => {
            let [] = arguments.bind([])?;
            Value::from(!string.is_empty() && string.chars().all(|c| c.is_ascii_digit()))
        }
        "isidentifier" => {
            let [] = arguments.bind([])?;
            let starts = string.starts_with(|c: char| c.is_alphabetic() || c == '_');
            Value::from(starts && string.chars().all(|c| c.is_alphanumeric() || c == '_'))
        }
        "isprintable" => {
            let [] = arguments.bind([])?;
            Value::from(!string.chars().any(|c| c.is_control() || c.is_whitespace() && c != ' '))
        }
        "istitle" => {
            let [] = arguments.bind([])?;
            let (mut inside, mut seen, mut fits) = (false, false, true);
            for c in string.chars() {
                fits &= !(c.is_uppercase() && inside || c.is_lowercase() && !inside);
                inside = c.is_uppercase() || c.is_lowercase();
                seen |= inside;
            }
            Value::from(seen && fits)
        }
        "expandtabs" => {
            let [size] = arguments.bind(["tabsize"])?;
            let size = usize::try_from(whole(size, 8)?).unwrap_or(0);
            let blanks = size.saturating_mul(string.matches('\t').count());
            missing(state, "", i64::try_from(blanks).unwrap_or(i64::MAX), 1)?;
            Value::from(without_tabs(string, size))
        }
        "format" => {
            pay_for_widths(state, string)?;
            return Ok(None);
        }
        "format_map" => {
            pay_for_widths(state, string)?;
            let [mapping] = arguments.bind(["mapping"])?;
            let mapping = mapping.unwrap_or_default();
            let value = |key: &Value| mapping.get_item(key).unwrap_or_default();
            let named = mapping.try_iter()?.map(|key| (key.to_string(), value(&key)));
            let named: minijinja::value::Kwargs = named.collect();
            return pycompat::unknown_method_callback(state, &Value::from(string), "format", &[named.into()])
                .map(Some);
        }
        _ => return Ok(None),
    }))
}

fn not_found(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// White space, as Python counts it.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

fn separator_of(called: &str, value: Option<Value>) -> Result<String, Error> {
    let separator = text(called, value)?;
    match separator.is_empty() {
        true => Err(Error::new(ErrorKind::InvalidOperation, format!("{called}: the separator is empty"))),
        false => Ok(separator),
    }
}

/// Parts between separators; at most so many cuts.
fn parts(string: &str, separator: &str, most: Option<usize>, from_right: bool) -> Value {
    let count = most.map_or(usize::MAX, |most| most.saturating_add(1));
    if !from_right {
        return string.splitn(count, separator).map(Value::from).collect();
    }
    let mut parts: Vec<Value> = string.rsplitn(count, separator).map(Value::from).collect();
    parts.reverse();
    Value::from(parts)
}

/// Parts between runs of white space; at most so many cuts.
fn words(string: &str, most: Option<usize>, from_right: bool) -> Value {
    let most = most.unwrap_or(usize::MAX);
    let mut words = Vec::new();
    let mut rest = string;
    loop {
        rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            break;
        }
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let (word, next) = match cut {
            _ if words.len() == most => (rest, ""),
            None => (rest, ""),
            Some(at) if from_right => {
                let after = at + rest[at..].chars().next().map_or(1, char::len_utf8);
                (&rest[after..], &rest[..at])
            }
            Some(at) => (&rest[..at], &rest[at..]),
        };
        words.push(Value::from(word));
        rest = next;
    }
    if from_right {
        words.reverse();
    }
    Value::from(words)
}

fn lines(string: &str, keep: bool) -> Value {
    let ends = ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = string;
    while !rest.is_empty() {
        let line = rest.find(ends).unwrap_or(rest.len());
        let end = match &rest[line..] {
            after if after.starts_with("\r\n") => 2,
            after => after.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(Value::from(&rest[..if keep { line + end } else { line }]));
        rest = &rest[line + end..];
    }
    Value::from(lines)
}

/// Characters that a string lacks to be so wide; what they cost is paid before they are made.
fn missing(state: &State, string: &str, width: i64, bytes: usize) -> Result<usize, Error> {
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(string.chars().count());
    state.consume_fuel((missing.saturating_mul(bytes) / 64) as u64)?;
    Ok(missing)
}

/// The same for all widths and precisions of a string that `format` takes.
fn pay_for_widths(state: &State, format: &str) -> Result<(), Error> {
    let fields = format.split('{').filter_map(|part| part.rsplit_once('}'));
    let numbers = fields.flat_map(|(field, _)| field.split(|c: char| !c.is_ascii_digit()));
    let widths = numbers.filter(|number| !number.is_empty()).map(|number| number.parse().unwrap_or(u64::MAX));
    state.consume_fuel(widths.fold(0, u64::saturating_add) / 64)
}

/// `string[start:end]`, and how many characters go before it; none where `start` is beyond the end.
fn within(string: &str, start: Option<Value>, end: Option<Value>) -> Result<Option<(usize, &str)>, Error> {
    if start.is_none() && end.is_none() {
        return Ok(Some((0, string)));
    }
    let count = string.chars().count() as i64;
    let index = |value: i64| if value < 0 { (value + count).max(0) } else { value };
    let (start, end) = (index(whole(start, 0)?), index(whole(end, count)?).min(count));
    if start > end {
        return Ok(None);
    }
    let byte = |index: i64| {
        string.char_indices().nth(usize::try_from(index).unwrap_or(0)).map_or(string.len(), |(at, _)| at)
    };
    Ok(string.get(byte(start)..byte(end)).map(|part| (usize::try_from(start).unwrap_or(0), part)))
}

fn without_tabs(string: &str, size: usize) -> String {
    let mut expanded = String::with_capacity(string.len());
    let mut column = 0;
    for c in string.chars() {
        match c {
            '\t' => {
                let blanks = if size == 0 { 0 } else { size - column % size };
                expanded.push_str(&" ".repeat(blanks));
                column += blanks;
            }
            '\n' | '\r' => {
                expanded.push(c);
                column = 0;
            }
            c => {
                expanded.push(c);
                column += 1;
            }
        }
    }
    expanded
}
