//! How a request's text becomes the model's prompt.
//!
//! - A [`PromptTemplate`], from the model's configuration, goes around a plain text and may name the languages of a
//!   translation.
//! - A [`ChatTemplate`], from the model itself, makes a prompt of a [`Conversation`]. A chat model takes a plain text
//!   for the user's turn.
//! - A model with neither gets the text as it is.
//!
//! Templates are Jinja, compiled when the model is loaded and bounded when they run.

mod chat;
mod conversation;
mod jinja;
mod prompts;
mod template;

pub use chat::ChatTemplate;
pub use conversation::Conversation;
pub use prompts::{PromptInput, PromptOptions, PromptText, Prompts};
pub use template::PromptTemplate;

/// Characters of a client's text that an error message repeats.
const SHOWN: usize = 40;

#[cfg(test)]
mod tests;
