//! The chat template that a checkpoint brings along.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    CHAT_TEMPLATE_KWARGS, Conversation,
    jinja::{Dialect, Failure, Template},
};
use crate::error::{Error, Result, SHOWN, shortened};

/// Makes a prompt of a conversation.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    special_tokens: BTreeMap<String, String>,
}

/// What every template is given.
#[derive(Serialize)]
struct Variables<'a> {
    messages: &'a Conversation,
    add_generation_prompt: bool,
    /// None, which templates tell from undefined.
    tools: (),
    documents: (),
    #[serde(flatten)]
    special_tokens: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    arguments: BTreeMap<&'a str, &'a Value>,
}

/// Variables that an argument cannot replace.
const GIVEN: [&str; 3] = ["messages", "tools", "documents"];
/// The variable that an argument can replace; false leaves out the beginning of the model's turn.
const ADD_GENERATION_PROMPT: &str = "add_generation_prompt";

impl ChatTemplate {
    /// Compiles the template in `file`. `special_tokens` are texts by the names that templates know them by, such
    /// as `bos_token`.
    pub fn load(file: &Path, special_tokens: BTreeMap<String, String>) -> Result<Self> {
        let source = std::fs::read_to_string(file).map_err(|error| {
            let message = format!("{}: {error}; convert the model again", file.display());
            match error.kind() {
                std::io::ErrorKind::NotFound => Error::not_found(message),
                _ => Error::invalid_argument(message),
            }
        })?;
        Self::compile(source, special_tokens).map_err(|error| error.context(file.display()))
    }

    pub(super) fn compile(source: String, special_tokens: BTreeMap<String, String>) -> Result<Self> {
        let dialect = Dialect { strict: false, keep_trailing_newline: false };
        Ok(Self { template: Template::compile("chat_template", source, &dialect)?, special_tokens })
    }

    /// Refuses arguments that the template has no use for: they would change nothing.
    pub fn check(&self, arguments: &Map<String, Value>) -> Result<()> {
        arguments.iter().try_for_each(|(name, value)| {
            self.check_argument(name, value).map_err(|reason| {
                Error::invalid_argument(format!(
                    "{CHAT_TEMPLATE_KWARGS}.{}: {reason}",
                    shortened(name, SHOWN)
                ))
            })
        })
    }

    fn check_argument(&self, name: &str, value: &Value) -> std::result::Result<(), &'static str> {
        if name == ADD_GENERATION_PROMPT {
            return match value {
                Value::Bool(true) => Ok(()),
                Value::Bool(false) if self.template.uses(name) => Ok(()),
                Value::Bool(false) => Err("the model's chat template does not use it; leave it out"),
                _ => Err("expected true or false"),
            };
        }
        if GIVEN.contains(&name) || self.special_tokens.contains_key(name) || self.template.has_function(name)
        {
            return Err("every chat template is given this name already; leave it out");
        }
        match self.template.uses(name) {
            true => Ok(()),
            false => Err("the model's chat template does not use it; leave it out"),
        }
    }

    /// The prompt, up to where the model's turn begins.
    pub fn render(&self, conversation: &Conversation) -> Result<String> {
        self.render_with(conversation, &Map::new())
    }

    /// The same with arguments of the template, which [`Self::check`] has accepted.
    pub fn render_with(&self, conversation: &Conversation, arguments: &Map<String, Value>) -> Result<String> {
        let add_generation_prompt = arguments.get(ADD_GENERATION_PROMPT).and_then(Value::as_bool);
        let others = arguments.iter().filter(|(name, _)| *name != ADD_GENERATION_PROMPT);
        let variables = Variables {
            messages: conversation,
            add_generation_prompt: add_generation_prompt.unwrap_or(true),
            tools: (),
            documents: (),
            special_tokens: &self.special_tokens,
            arguments: others.map(|(name, value)| (name.as_str(), value)).collect(),
        };
        self.template.render(variables).map_err(|failure| {
            Error::invalid_argument(match failure {
                Failure::Raised(message) => {
                    format!("the model's chat template refuses the conversation: {message}")
                }
                other => format!("the model's chat template cannot take the conversation: {other}"),
            })
        })
    }
}
