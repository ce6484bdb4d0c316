//! Arguments by place or by name, as Python takes them.

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};

/// The arguments of one call.
pub struct Arguments<'a> {
    called: &'a str,
    given: &'a [Value],
    named: Vec<(String, Value)>,
}

impl<'a> Arguments<'a> {
    /// Of a filter or a function.
    pub fn of(called: &'a str, given: &'a [Value], named: &Kwargs) -> Self {
        let value = |name: &str| named.get::<Value>(name).unwrap_or_default();
        Self { called, given, named: named.args().map(|name| (name.to_owned(), value(name))).collect() }
    }

    /// Of a method, the named ones being the last value.
    pub fn of_method(called: &'a str, all: &'a [Value]) -> Self {
        match all.split_last() {
            Some((last, given)) if last.is_kwargs() => {
                let names = last.try_iter().into_iter().flatten();
                let value = |name: &Value| last.get_item(name).unwrap_or_default();
                Self { called, given, named: names.map(|name| (name.to_string(), value(&name))).collect() }
            }
            _ => Self { called, given: all, named: Vec::new() },
        }
    }

    /// The values of these parameters; none where there is none, or Python's `None`.
    pub fn bind<const N: usize>(mut self, names: [&str; N]) -> Result<[Option<Value>; N], Error> {
        if self.given.len() > N {
            let message =
                format!("{}: got {} arguments, expected at most {N}", self.called, self.given.len());
            return Err(Error::new(ErrorKind::TooManyArguments, message));
        }
        let mut values = [const { None }; N];
        for (index, (name, value)) in names.iter().zip(&mut values).enumerate() {
            let at = self.named.iter().position(|(named, _)| named == name);
            let named = at.map(|at| self.named.swap_remove(at).1);
            *value = match (self.given.get(index).cloned(), named) {
                (Some(_), Some(_)) => {
                    let message = format!("{}: got `{name}` twice", self.called);
                    return Err(Error::new(ErrorKind::TooManyArguments, message));
                }
                (given, named) => given.or(named).filter(|value| value.kind() != ValueKind::None),
            };
        }
        match self.named.first() {
            None => Ok(values),
            Some((name, _)) => {
                let message = format!("{}: unknown keyword argument `{name}`", self.called);
                Err(Error::new(ErrorKind::TooManyArguments, message))
            }
        }
    }
}

/// A string that has to be there.
pub fn text(called: &str, value: Option<Value>) -> Result<String, Error> {
    match value.as_ref().and_then(Value::as_str) {
        Some(text) => Ok(text.to_owned()),
        None => {
            let got = value.map_or("nothing".to_owned(), |value| value.kind().to_string());
            Err(Error::new(ErrorKind::InvalidOperation, format!("{called}: got {got}, expected a string")))
        }
    }
}

/// A whole number, or what stands for none.
pub fn whole(value: Option<Value>, absent: i64) -> Result<i64, Error> {
    value.map_or(Ok(absent), i64::try_from)
}
