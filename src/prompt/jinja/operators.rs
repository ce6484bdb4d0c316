//! What [`super::source`] writes in place of Jinja's operator `%` and of macros with any arguments.

use std::sync::Arc;

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Object, ObjectRepr, Tuple, ValueKind},
};

use super::source::REST;

/// Python's `left % right`: of numbers the remainder, of a string and its values the formatted string.
pub fn remainder(state: &mut State, left: Value, right: Value) -> Result<Value, Error> {
    match left.as_str() {
        Some(format) => formatted(state, format, &left, right),
        None => numeric(&left, &right).ok_or_else(|| {
            let operands = [&left, &right];
            let kind = match operands.iter().any(|operand| operand.is_undefined()) {
                true => ErrorKind::UndefinedError,
                false => ErrorKind::InvalidOperation,
            };
            let [left, right] = operands.map(Value::kind);
            Error::new(kind, format!("%: got {left} and {right}, expected numbers, or a string on the left"))
        }),
    }
}

fn numeric(left: &Value, right: &Value) -> Option<Value> {
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if !is_number(left) || !is_number(right) {
        return None;
    }
    let whole = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        _ if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    };
    // The sign is the divisor's, as in Python.
    if let (Some(left), Some(right)) = (whole(left), whole(right)) {
        let remainder = left.checked_rem(right)?;
        return Some(Value::from(if remainder != 0 && (remainder < 0) != (right < 0) {
            remainder + right
        } else {
            remainder
        }));
    }
    let real =
        |value: &Value| whole(value).map(|whole| whole as f64).or_else(|| f64::try_from(value.clone()).ok());
    let (left, right) = (real(left)?, real(right)?);
    if right == 0.0 {
        return None;
    }
    let remainder = left % right;
    Some(Value::from(if remainder != 0.0 && (remainder < 0.0) != (right < 0.0) {
        remainder + right
    } else {
        remainder
    }))
}

fn formatted(state: &mut State, format: &str, text: &Value, values: Value) -> Result<Value, Error> {
    let specs = specs(format);
    let wrong = |reason: String| Error::new(ErrorKind::InvalidOperation, format!("%: {reason}"));
    let arguments = match values.downcast_object_ref::<Tuple>() {
        Some(tuple) => tuple.to_vec(),
        None => vec![values.clone()],
    };
    let by_name = specs.iter().any(|spec| spec.name);
    // A mapping may have more than the string asks for, as may anything that has no items but is not counted.
    let is_counted = !(by_name || values.kind() == ValueKind::Map);
    if is_counted && arguments.len() > specs.len() {
        return Err(wrong(format!("got {} values for {} places", arguments.len(), specs.len())));
    }
    // `%r` is `%s` of the value as Python writes it in code, and a `*` is a number that is written elsewhere.
    let mut format = format.to_owned();
    let mut written = arguments.clone();
    if specs.iter().any(|spec| matches!(spec.conversion, 'r' | 'a' | 'u' | '*')) {
        if by_name {
            return Err(wrong("%r, %u and * with a name are not known; use %s, %d or a number".to_owned()));
        }
        for (index, spec) in specs.iter().enumerate().rev() {
            let (conversion, value) = match (spec.conversion, arguments.get(index)) {
                ('r' | 'a', Some(value)) => ('s', Value::from(repr(value))),
                ('u', Some(value)) => ('d', value.clone()),
                ('*', Some(value)) => {
                    let number = i64::try_from(value.clone())?;
                    format.replace_range(spec.at..=spec.at, &number.to_string());
                    written.remove(index);
                    continue;
                }
                _ => continue,
            };
            format.replace_range(spec.at..=spec.at, &conversion.to_string());
            if let Some(place) = written.get_mut(index) {
                *place = value;
            }
        }
    }
    let mut all =
        vec![if format == text.as_str().unwrap_or_default() { text.clone() } else { Value::from(format) }];
    all.extend(written);
    state.apply_filter("format", &all)
}

/// As Python writes it in code.
pub fn repr(value: &Value) -> String {
    // A list writes its items so.
    let list = Value::from(vec![value.clone()]).to_string();
    list.strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap_or(&list).to_owned()
}

struct Spec {
    /// It names a key of a mapping.
    name: bool,
    conversion: char,
    /// Byte of the conversion, or of a `*` before it, in the string; it is one byte.
    at: usize,
}

/// The places of a format string.
fn specs(format: &str) -> Vec<Spec> {
    let mut specs = Vec::new();
    let mut characters = format.char_indices().peekable();
    while let Some((_, character)) = characters.next() {
        if character != '%' {
            continue;
        }
        let name = characters.peek().is_some_and(|&(_, next)| next == '(');
        if name {
            let _ = characters.by_ref().find(|&(_, next)| next == ')');
        }
        let is_flag = |c: char| c.is_ascii_digit() || "#-+ .hlL*".contains(c);
        let conversion = characters.by_ref().find(|&(at, next)| {
            // A width or a precision takes a value of its own.
            if next == '*' {
                specs.push(Spec { name, conversion: next, at });
            }
            !is_flag(next)
        });
        match conversion {
            Some((_, '%')) => {}
            Some((at, conversion)) if conversion.is_ascii() => specs.push(Spec { name, conversion, at }),
            _ => break,
        }
    }
    specs
}

/// `called` with parameters for any further arguments.
pub fn variadic(called: Value) -> Result<Value, Error> {
    let names = called.get_attr("arguments")?.try_iter()?;
    let names = names.filter_map(|name| Some(name.as_str()?.to_owned()));
    let names: Vec<String> = names.filter(|name| !REST.contains(&name.as_str())).collect();
    Ok(Value::from_object(Variadic { called, names }))
}

#[derive(Debug)]
struct Variadic {
    called: Value,
    /// Parameters by name, without those for the rest.
    names: Vec<String>,
}

impl Object for Variadic {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "arguments" => Some(Value::from(self.names.clone())),
            other => self.called.get_attr(other).ok(),
        }
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
        let (named, positional) = match arguments.split_last() {
            Some((last, before)) if last.is_kwargs() => (Some(last), before),
            _ => (None, arguments),
        };
        let calls = self.called.get_attr("caller")?.is_true();
        let (mut known, mut rest) = (Vec::new(), Vec::new());
        for key in named.into_iter().flat_map(|named| named.try_iter()).flatten() {
            let value = named.and_then(|named| named.get_item(&key).ok()).unwrap_or_default();
            let name = key.to_string();
            if self.names.contains(&name) || calls && name == "caller" {
                known.push((name, value));
            } else {
                rest.push((name, value));
            }
        }
        let (first, more) = positional.split_at(positional.len().min(self.names.len()));
        known.push((REST[0].to_owned(), Value::from(Tuple::from(more))));
        known.push((REST[1].to_owned(), minijinja::functions::dict(None, Kwargs::from_iter(rest))?));
        let mut all = first.to_vec();
        all.push(Kwargs::from_iter(known).into());
        self.called.call(state, &all)
    }
}
