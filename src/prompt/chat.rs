//! The chat template that a checkpoint brings along.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;

use super::{
    Conversation,
    jinja::{Dialect, Failure, Template},
};
use crate::error::{Error, Result};

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
}

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
        let source = without_generation_tags(&source);
        let dialect = Dialect { strict: false, keep_trailing_newline: false };
        Ok(Self { template: Template::compile("chat_template", source, &dialect)?, special_tokens })
    }

    /// The prompt, up to where the model's turn begins.
    pub fn render(&self, conversation: &Conversation) -> Result<String> {
        let variables = Variables {
            messages: conversation,
            add_generation_prompt: true,
            tools: (),
            documents: (),
            special_tokens: &self.special_tokens,
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

/// `{% generation %} … {% endgeneration %}` marks what a model is trained on, and is no part of Jinja: here it is a block
/// that is always rendered, with the same control of white space.
fn without_generation_tags(source: &str) -> String {
    let mut whole = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, after)) = rest.split_once("{%") {
        whole.push_str(before);
        whole.push_str("{%");
        rest = after;
        let Some((tag, _)) = after.split_once("%}") else { break };
        let replacement = match tag.trim_matches(['-', '+']).trim() {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        let control =
            |end: Option<char>| end.filter(|c| ['-', '+'].contains(c)).map(String::from).unwrap_or_default();
        whole.push_str(&format!(
            "{} {replacement} {}",
            control(tag.chars().next()),
            control(tag.chars().last())
        ));
        rest = &after[tag.len()..];
    }
    whole.push_str(rest);
    whole
}
