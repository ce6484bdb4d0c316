//! Everything that makes prompts of one model's requests.

use std::sync::Arc;

use super::{ChatTemplate, Conversation, PromptTemplate, template::refuse_languages};
use crate::error::{Error, Result};

/// What a prompt is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptInput {
    /// A plain text.
    Text(String),
    /// A conversation, which only a chat model takes.
    Conversation(Conversation),
}

/// What a request says about its prompts; an absent option is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptOptions {
    /// A plain text is the user's turn, rather than the prompt as it is.
    pub apply_chat_template: Option<bool>,
    /// Language of the text.
    pub src_lang: Option<String>,
    /// Language to translate it into.
    pub tgt_lang: Option<String>,
}

/// A prompt before it is tokenized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptText {
    /// Its text.
    pub text: String,
    /// The text has its special tokens; the tokenizer must not add any.
    pub has_special_tokens: bool,
}

/// Makes the prompts of one model.
#[derive(Debug, Default)]
pub struct Prompts {
    chat: Option<ChatTemplate>,
    template: Option<Arc<PromptTemplate>>,
}

impl Prompts {
    /// `chat` is the model's own, `template` its configuration's.
    pub fn new(chat: Option<ChatTemplate>, template: Option<Arc<PromptTemplate>>) -> Self {
        Self { chat, template }
    }

    /// The prompt of an input.
    pub fn build(&self, input: &PromptInput, options: &PromptOptions) -> Result<PromptText> {
        match input {
            PromptInput::Text(text) => self.of_text(text, options),
            PromptInput::Conversation(conversation) => self.of_conversation(conversation, options),
        }
    }

    /// Refuses options that no text of this model could have.
    pub fn check(&self, options: &PromptOptions) -> Result<()> {
        if options.apply_chat_template == Some(true) && self.chat.is_none() {
            return Err(Error::invalid_argument(
                "apply_chat_template: got true, but this model has no chat template; leave it out",
            ));
        }
        match &self.template {
            Some(template) => template.check(options),
            None => refuse_languages(options),
        }
    }

    fn of_text(&self, text: &str, options: &PromptOptions) -> Result<PromptText> {
        self.check(options)?;
        let text = match &self.template {
            Some(template) => template.render(text, options)?,
            None => text.to_owned(),
        };
        match &self.chat {
            Some(chat) if options.apply_chat_template != Some(false) => {
                Ok(PromptText { text: chat.render(&Conversation::of_user(text))?, has_special_tokens: true })
            }
            _ => Ok(PromptText { text, has_special_tokens: false }),
        }
    }

    fn of_conversation(&self, conversation: &Conversation, options: &PromptOptions) -> Result<PromptText> {
        let Some(chat) = &self.chat else {
            return Err(Error::invalid_argument(
                "messages: this model has no chat template; send the text as `text_input`",
            ));
        };
        if options.apply_chat_template == Some(false) {
            return Err(Error::invalid_argument(
                "apply_chat_template: got false, but only the chat template makes a prompt of `messages`; leave it \
                 out, or send the whole prompt as `text_input`",
            ));
        }
        if options.src_lang.is_some() || options.tgt_lang.is_some() {
            return Err(Error::invalid_argument(
                "src_lang, tgt_lang: they belong to `text_input`; say in `messages` what is to be translated into \
                 which language, or send the text as `text_input`",
            ));
        }
        Ok(PromptText { text: chat.render(conversation)?, has_special_tokens: true })
    }
}
