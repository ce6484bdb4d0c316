//! The only room that knows `minijinja`: it is set up as transformers sets Jinja up for chat templates.

use std::{collections::HashSet, fmt};

use minijinja::{
    AutoEscape, Environment, Error as TemplateError, ErrorKind, UndefinedBehavior, Value,
    syntax::SyntaxConfig, value::Serde,
};
use serde::Serialize;

mod arguments;
mod builtins;
mod json;
mod operators;
mod python;
mod source;

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
    /// What it mentions and does not set itself, or not before it reads it.
    variables: HashSet<String>,
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
        let source = source::prepared(&source, syntax.clone());
        let mut variables = source::read_first(&source, syntax.clone());
        environment.set_syntax(syntax);
        environment.set_undefined_behavior(if dialect.strict {
            UndefinedBehavior::Strict
        } else {
            UndefinedBehavior::Lenient
        });
        environment.set_unknown_method_callback(python::method);
        // Jinja has none, so that a variable of this name may be one of the template's.
        environment.remove_global("debug");
        builtins::add_to(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_function(source::REMAINDER, operators::remainder);
        environment.add_function(source::VARIADIC, operators::variadic);
        environment.add_filter("tojson", json::to_json);
        environment
            .add_template_owned(name.to_owned(), source)
            .map_err(|error| Error::invalid_argument(describe(&error)))?;
        if let Ok(template) = environment.get_template(name) {
            variables.extend(template.undeclared_variables(false));
        }
        Ok(Self { environment, name: name.to_owned(), variables })
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

    /// True for the name of a function that every template has.
    pub fn has_function(&self, name: &str) -> bool {
        self.environment.globals().any(|(known, _)| known == name)
    }

    /// True when the template mentions a variable that it does not set itself.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
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
