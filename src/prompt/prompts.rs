//! Everything that makes prompts of one model's requests.

use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value};

use super::{
    CHAT_TEMPLATE_KWARGS, ChatTemplate, Conversation, Guard, PromptTemplate, template::refuse_languages,
};
use crate::error::{Error, Result, SHOWN, shortened};

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
    /// Arguments of the chat template.
    pub chat_template_kwargs: Map<String, Value>,
}

/// What a model's configuration says about its prompts.
#[derive(Debug, Clone, Default)]
pub struct PromptSettings {
    /// Goes around plain texts.
    pub template: Option<Arc<PromptTemplate>>,
    /// Arguments of the chat template, where a request does not give them.
    pub chat_template_kwargs: Map<String, Value>,
    /// Special tokens in a client's texts are what they stand for, rather than text.
    pub parse_special_tokens: bool,
}

/// A prompt before it is tokenized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptText {
    /// Its text.
    pub text: String,
    /// The text has its special tokens; the tokenizer must not add any.
    pub has_special_tokens: bool,
    /// What a client wrote in it went through a [`Guard`].
    pub is_guarded: bool,
}

/// Makes the prompts of one model.
#[derive(Debug, Default)]
pub struct Prompts {
    chat: Option<ChatTemplate>,
    settings: PromptSettings,
}

impl Prompts {
    /// `chat` is the model's own. Settings that it has no use for are refused.
    pub fn new(chat: Option<ChatTemplate>, settings: PromptSettings) -> Result<Self> {
        let prompts = Self { chat, settings };
        prompts
            .check_arguments(&prompts.settings.chat_template_kwargs)
            .map_err(|error| error.context(format_args!("configuration key `{CHAT_TEMPLATE_KWARGS}`")))?;
        Ok(prompts)
    }

    /// The prompt of an input, whose texts go through `guard` before a template sees them.
    pub fn build(
        &self,
        input: &PromptInput,
        options: &PromptOptions,
        guard: Guard<'_>,
    ) -> Result<PromptText> {
        let guard = if self.settings.parse_special_tokens { &unguarded } else { guard };
        let prompt = match input {
            PromptInput::Text(text) => self.of_text(text, options, guard),
            PromptInput::Conversation(conversation) => self.of_conversation(conversation, options, guard),
        }?;
        Ok(PromptText { is_guarded: prompt.is_guarded && !self.settings.parse_special_tokens, ..prompt })
    }

    /// Refuses options that no text of this model could have.
    pub fn check(&self, options: &PromptOptions) -> Result<()> {
        if options.apply_chat_template == Some(true) && self.chat.is_none() {
            return Err(Error::invalid_argument(
                "apply_chat_template: got true, but this model has no chat template; leave it out",
            ));
        }
        self.check_arguments(&options.chat_template_kwargs)?;
        match &self.settings.template {
            Some(template) => template.check(options),
            None => refuse_languages(options),
        }
    }

    fn check_arguments(&self, arguments: &Map<String, Value>) -> Result<()> {
        match &self.chat {
            Some(chat) => chat.check(arguments),
            None if arguments.is_empty() => Ok(()),
            None => Err(Error::invalid_argument(format!(
                "{CHAT_TEMPLATE_KWARGS}: this model has no chat template that could take them; leave it out"
            ))),
        }
    }

    fn of_text(&self, text: &str, options: &PromptOptions, guard: Guard<'_>) -> Result<PromptText> {
        self.check(options)?;
        let chat = self.chat.as_ref().filter(|_| options.apply_chat_template != Some(false));
        if chat.is_none() && !options.chat_template_kwargs.is_empty() {
            return Err(Error::invalid_argument(format!(
                "{CHAT_TEMPLATE_KWARGS}: with apply_chat_template false there is no template to take them; leave out one \
                 of the two"
            )));
        }
        let is_guarded = chat.is_some() || self.settings.template.is_some();
        let text = if is_guarded { guard(text)? } else { Cow::Borrowed(text) };
        let text = match &self.settings.template {
            Some(template) => template.render(&text, options)?,
            None => text.into_owned(),
        };
        match chat {
            Some(chat) => self.of_turns(chat, &Conversation::of_user(text), options, guard),
            None => Ok(PromptText { text, has_special_tokens: false, is_guarded }),
        }
    }

    /// `turns` have been through `guard`.
    fn of_turns(
        &self,
        chat: &ChatTemplate,
        turns: &Conversation,
        options: &PromptOptions,
        guard: Guard<'_>,
    ) -> Result<PromptText> {
        let mut arguments = self.settings.chat_template_kwargs.clone();
        for (name, value) in &options.chat_template_kwargs {
            let value = guarded(value, guard).map_err(|error| {
                error.context(format_args!("{CHAT_TEMPLATE_KWARGS}.{}", shortened(name, SHOWN)))
            })?;
            arguments.insert(name.clone(), value);
        }
        let text = chat.render_with(turns, &arguments)?;
        Ok(PromptText { text, has_special_tokens: true, is_guarded: true })
    }

    fn of_conversation(
        &self,
        conversation: &Conversation,
        options: &PromptOptions,
        guard: Guard<'_>,
    ) -> Result<PromptText> {
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
        chat.check(&options.chat_template_kwargs)?;
        self.of_turns(chat, conversation.guarded(guard)?.as_ref(), options, guard)
    }
}

fn unguarded(text: &str) -> Result<Cow<'_, str>> {
    Ok(Cow::Borrowed(text))
}

/// The same with every text in it as `guard` gives it.
fn guarded(value: &Value, guard: Guard<'_>) -> Result<Value> {
    Ok(match value {
        Value::String(text) => Value::from(guard(text)?),
        Value::Array(list) => {
            Value::Array(list.iter().map(|item| guarded(item, guard)).collect::<Result<_>>()?)
        }
        Value::Object(object) => {
            let pair =
                |(name, value): (&String, &Value)| Ok((guard(name)?.into_owned(), guarded(value, guard)?));
            Value::Object(object.iter().map(pair).collect::<Result<_>>()?)
        }
        other => other.clone(),
    })
}
