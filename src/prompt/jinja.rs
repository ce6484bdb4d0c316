//! The only file that knows how `minijinja` is set up: as transformers sets Jinja up for chat templates.

use std::fmt;

use minijinja::{
    AutoEscape, Environment, Error as TemplateError, ErrorKind, UndefinedBehavior, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use serde::Serialize;

use crate::error::{Error, Result, shortened};

/// What one rendering may cost: an instruction, or 64 bytes of text made, takes one unit. So this bounds time and
/// memory alike; the largest prompt that a model takes costs a small part of it.
const FUEL: u64 = 2_000_000;

/// Characters of a message that a template makes: it may repeat the whole conversation.
const MAX_MESSAGE: usize = 300;

/// Differences between the templates of a checkpoint and those of a configuration.
pub struct Dialect {
    /// A variable that is not given is an error rather than empty.
    pub strict: bool,
    /// A line feed at the end of the template is part of the text.
    pub keep_trailing_newline: bool,
}

/// A template that is ready to run.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    /// As errors name it.
    name: String,
}

/// Why a rendering failed.
pub enum Failure {
    /// The template called `raise_exception` with this message.
    Raised(String),
    /// A variable was used that was not given; with the place.
    Undefined(String),
    /// Anything else; with the place.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised(message) | Self::Undefined(message) | Self::Other(message) => f.write_str(message),
        }
    }
}

impl Template {
    /// Compiles `source`, which errors call `name`.
    pub fn compile(name: &str, source: String, dialect: &Dialect) -> Result<Self> {
        let mut environment = Environment::new();
        // Without it an error has a line and no column.
        environment.set_debug(true);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(dialect.keep_trailing_newline)
            .build()
            .map_err(|error| Error::internal(error.to_string()))?;
        environment.set_syntax(syntax);
        environment.set_undefined_behavior(if dialect.strict {
            UndefinedBehavior::Strict
        } else {
            UndefinedBehavior::Lenient
        });
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(name.to_owned(), source)
            .map_err(|error| Error::invalid_argument(describe(&error)))?;
        Ok(Self { environment, name: name.to_owned() })
    }

    /// Text of the template with these variables.
    pub fn render(&self, variables: impl Serialize) -> std::result::Result<String, Failure> {
        let rendered =
            self.environment.get_template(&self.name).and_then(|template| template.render(Serde(variables)));
        rendered.map_err(|error| match error.kind() {
            _ if is_raised(&error) => {
                Failure::Raised(shortened(error.detail().unwrap_or_default(), MAX_MESSAGE))
            }
            ErrorKind::OutOfFuel => {
                Failure::Other("the template takes too long for this input; send a shorter one".to_owned())
            }
            ErrorKind::UndefinedError => Failure::Undefined(describe(&error)),
            _ => Failure::Other(describe(&error)),
        })
    }

    /// True when the template mentions a variable that it does not set itself.
    pub fn uses(&self, variable: &str) -> bool {
        let template = self.environment.get_template(&self.name);
        template.is_ok_and(|template| template.undeclared_variables(false).contains(variable))
    }
}

/// `line 3, column 7: syntax error: …`
fn describe(error: &TemplateError) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {}", error.kind(), shortened(detail, MAX_MESSAGE)),
        None => error.kind().to_string(),
    };
    let Some(line) = error.line() else { return what };
    match column(error) {
        Some(column) => format!("line {line}, column {column}: {what}"),
        None => format!("line {line}: {what}"),
    }
}

/// In characters, from 1.
fn column(error: &TemplateError) -> Option<usize> {
    let before = error.template_source()?.get(..error.range()?.start)?;
    Some(before.chars().rev().take_while(|&c| c != '\n').count() + 1)
}

/// Marks the errors that a template asks for.
#[derive(Debug)]
struct Raised;

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("raised by the template")
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> std::result::Result<Value, TemplateError> {
    Err(TemplateError::new(ErrorKind::InvalidOperation, message).with_source(Raised))
}

fn is_raised(error: &TemplateError) -> bool {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
        .any(|cause| cause.is::<Raised>())
}

/// The time now, in the server's time zone, as Python's `strftime` writes it.
fn strftime_now(format: &str) -> std::result::Result<String, TemplateError> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|error| TemplateError::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, options: Kwargs) -> std::result::Result<String, TemplateError> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let failed =
        |reason: String| TemplateError::new(ErrorKind::BadSerialization, format!("tojson: {reason}"));
    if ascii == Some(true) {
        return Err(failed("ensure_ascii=true is not known".to_owned()));
    }
    let mut json = Vec::new();
    let written = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, Spaced)),
        Some(width) => {
            let indent = vec![b' '; width.min(MAX_INDENT)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&indent);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter))
        }
    };
    written.map_err(|error| failed(error.to_string()))?;
    String::from_utf8(json).map_err(|error| failed(error.to_string()))
}

const MAX_INDENT: usize = 16;

/// One line, with a space after each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}
