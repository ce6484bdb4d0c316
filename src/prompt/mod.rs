//! How a request's text becomes the model's prompt.
//!
//! - A [`PromptTemplate`], from the model's configuration, goes around a plain text and may name the languages of a
//!   translation.
//! - A [`ChatTemplate`], from the model itself, makes a prompt of a [`Conversation`]. A chat model takes a plain text
//!   for the user's turn.
//! - A model with neither gets the text as it is.
//!
//! Templates are Jinja, compiled when the model is loaded and bounded when they run.
//!
//! A special token in a text of the client's would end a turn or begin another one. A [`Guard`] marks it, so that it is
//! tokenized as the text that it is.

use std::borrow::Cow;

mod chat;
mod conversation;
mod jinja;
mod prompts;
mod template;

pub use chat::ChatTemplate;
pub use conversation::Conversation;
pub use prompts::{PromptInput, PromptOptions, PromptSettings, PromptText, Prompts};
pub use template::PromptTemplate;

/// Marks what no template may take for a special token in a client's text: [`crate::tokenizer::Tokenizer::guard`].
pub type Guard<'a> = &'a dyn for<'t> Fn(&'t str) -> crate::error::Result<Cow<'t, str>>;

/// The option, and the configuration key, that holds the arguments of a chat template.
pub const CHAT_TEMPLATE_KWARGS: &str = "chat_template_kwargs";

#[cfg(test)]
mod tests;
