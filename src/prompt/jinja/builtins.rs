//! Filters and tests of Jinja that `minijinja` does not have, or has otherwise.

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{Kwargs, Rest, ValueKind},
};
use minijinja_contrib::{filters, globals};

use super::{
    arguments::{Arguments, text, whole},
    python,
};
use crate::tokenizer::without_marks;

/// Adds them.
pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("center", center);
    environment.add_filter("filesizeformat", filters::filesizeformat);
    environment.add_filter("forceescape", minijinja::filters::escape);
    environment.add_filter("striptags", striptags);
    environment.add_filter("truncate", truncate);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("wordcount", wordcount);
    environment.add_test("callable", is_callable);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_function("cycler", |items: Rest<Value>| globals::cycler(items.to_vec()));
    environment.add_function("joiner", globals::joiner);
}

fn center(state: &mut State, value: String, given: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let [width] = Arguments::of("center", &given, &named).bind(["width"])?;
    python::method(state, &Value::from(value), "center", &[width.unwrap_or(Value::from(80))])
}

fn truncate(value: String, given: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let arguments = Arguments::of("truncate", &given, &named);
    let [length, killwords, end, leeway] = arguments.bind(["length", "killwords", "end", "leeway"])?;
    let end = end.map_or(Ok("...".to_owned()), |end| text("truncate", Some(end)))?;
    let count = |value, absent| {
        let count = usize::try_from(whole(value, absent)?);
        count.map_err(|_| Error::new(ErrorKind::InvalidOperation, "truncate: got a length below 0"))
    };
    let (length, leeway) = (count(length, 255)?, count(leeway, 5)?);
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        let message = format!("truncate: got the length {length}, expected room for {end:?}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    };
    if value.chars().count() <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let mut cut: String = value.chars().take(kept).collect();
    if !killwords.is_some_and(|kill| kill.is_true())
        && let Some((words, _)) = cut.rsplit_once(' ')
    {
        cut.truncate(words.len());
    }
    Ok(cut + &end)
}

/// A text as a part of a path, or names and values as a query.
fn urlencode(value: &Value) -> Result<String, Error> {
    let quoted =
        |value: &Value| minijinja::filters::urlencode(&Value::from(without_marks(&value.to_string())));
    let query = |name: &Value, value: &Value| {
        let pair = format!("{}={}", quoted(name)?, quoted(value)?);
        Ok::<_, Error>(pair.replace("%20", "+").replace('/', "%2F"))
    };
    let mut pairs = Vec::new();
    match value.kind() {
        ValueKind::Map => {
            for name in value.try_iter()? {
                pairs.push(query(&name, &value.get_item(&name)?)?);
            }
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for pair in value.try_iter()? {
                pairs.push(query(&pair.get_item_by_index(0)?, &pair.get_item_by_index(1)?)?);
            }
        }
        _ => return quoted(value),
    }
    Ok(pairs.join("&"))
}

fn wordcount(value: String) -> usize {
    value.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
}

/// The text without comments and tags, on one line, with entities resolved.
fn striptags(value: String) -> String {
    let mut bare = without(&value, "<!--", "-->");
    bare = without(&bare, "<", ">");
    let line: Vec<&str> = bare.split(python::is_space).filter(|word| !word.is_empty()).collect();
    let line = line.join(" ");
    // The crate would take what is left of a broken tag for one.
    if line.contains('<') { line } else { filters::striptags(line) }
}

fn without(text: &str, begin: &str, end: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(begin) {
        let Some((_, after)) = after.split_once(end) else { break };
        kept.push_str(before);
        rest = after;
    }
    kept + rest
}

fn is_callable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined)
}

fn is_iterable(value: &Value) -> bool {
    value.kind() != ValueKind::None && value.try_iter().is_ok()
}

/// In Python whatever has a length and items, so that strings and dictionaries are sequences as well.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Bytes, Iterable, Map, Seq, String, Undefined};
    match value.kind() {
        Undefined | String | Bytes | Seq | Map => true,
        Iterable => value.len().is_some(),
        _ => false,
    }
}
