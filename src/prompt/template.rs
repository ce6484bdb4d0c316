//! The template around plain texts that a model's configuration may give.

use serde::Serialize;
use textgen_languages::{Language, Languages};

use super::{
    PromptOptions,
    jinja::{Dialect, Failure, Template},
};
use crate::error::{Error, Result};

/// Makes a prompt of a text and the languages it is translated between.
#[derive(Debug, Clone)]
pub struct PromptTemplate {
    template: Template,
    languages: Languages,
    uses: [bool; 2],
}

/// The options that name a language, as the template knows them too.
const LANGUAGES: [&str; 2] = ["src_lang", "tgt_lang"];
const TEXT: &str = "text";

#[derive(Serialize)]
struct Variables<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_lang: Option<&'a Language>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tgt_lang: Option<&'a Language>,
}

impl PromptTemplate {
    /// Compiles a template. A template that leaves the text out is refused.
    pub fn compile(source: &str, languages: Languages) -> Result<Self> {
        let dialect = Dialect { strict: true, keep_trailing_newline: true };
        let template = Template::compile("prompt_template", source.to_owned(), &dialect)?;
        if !template.uses(TEXT) {
            return Err(Error::invalid_argument(format!(
                "it does not use the variable `{TEXT}`; write {{{{ {TEXT} }}}} where the request's text goes"
            )));
        }
        let uses = LANGUAGES.map(|name| template.uses(name));
        Ok(Self { template, languages, uses })
    }

    /// True when a language has a place in it.
    pub fn uses_languages(&self) -> bool {
        self.uses.contains(&true)
    }

    /// Without the languages that it names by a tag such as `<2pt>` which is no token of the vocabulary: the model would
    /// read a few characters that mean nothing to it.
    pub fn with_known_tags(self, is_token: impl Fn(&str) -> bool) -> Result<Self> {
        let names = |language: &Language| {
            let [src_lang, tgt_lang] = self.uses.map(|used| used.then_some(language));
            // A language that the template does not take is refused when it is asked for.
            self.template.render(Variables { text: "a", src_lang, tgt_lang }).unwrap_or_default()
        };
        let known = self.languages.filtered(|language| tags(&names(language)).all(&is_token));
        if known.iter().next().is_none() {
            let names = self.languages.iter().next().map(names).unwrap_or_default();
            return Err(Error::invalid_argument(format!(
                "prompt_template: its tags of languages, such as `{}`, are no tokens of the model's vocabulary; write \
                 them as the model's tokenizer has them",
                tags(&names).find(|tag| !is_token(tag)).unwrap_or_default()
            )));
        }
        let unknown = self.languages.filtered(|language| known.find(&language.code).is_err());
        if unknown.iter().next().is_some() {
            log::warn!(
                "the model's vocabulary has no token for these languages, which are refused: {unknown}"
            );
        }
        Ok(Self { languages: known, ..self })
    }

    /// Refuses languages that it cannot name.
    pub fn check(&self, options: &PromptOptions) -> Result<()> {
        self.language(0, options.src_lang.as_deref())?;
        self.language(1, options.tgt_lang.as_deref())?;
        Ok(())
    }

    /// The prompt for a text.
    pub fn render(&self, text: &str, options: &PromptOptions) -> Result<String> {
        let src_lang = self.language(0, options.src_lang.as_deref())?;
        let tgt_lang = self.language(1, options.tgt_lang.as_deref())?;
        self.template.render(Variables { text, src_lang, tgt_lang }).map_err(|failure| {
            Error::invalid_argument(match failure {
                Failure::Raised(message) => message,
                Failure::Undefined(_) if self.missing([src_lang, tgt_lang]).is_some() => format!(
                    "the model's prompt needs the option `{}`; known languages are {}",
                    self.missing([src_lang, tgt_lang]).unwrap_or_default(),
                    self.languages
                ),
                other => format!("the model's prompt template cannot take the text: {other}"),
            })
        })
    }

    /// The first language that the template uses and that is not given, the target's before the source's, which
    /// templates often do without.
    fn missing(&self, given: [Option<&Language>; 2]) -> Option<&'static str> {
        let missing = |index: &usize| self.uses[*index] && given[*index].is_none();
        [1, 0].iter().find(|index| missing(index)).map(|&index| LANGUAGES[index])
    }

    fn language(&self, index: usize, asked: Option<&str>) -> Result<Option<&Language>> {
        let name = LANGUAGES[index];
        match asked {
            None => Ok(None),
            Some(_) if !self.uses[index] => Err(not_used(name)),
            Some(asked) => self
                .languages
                .find(asked)
                .map(Some)
                .map_err(|error| Error::invalid_argument(format!("{name}: {error}"))),
        }
    }
}

/// The tags of target languages in a prompt, as MADLAD writes them: `<2pt>`.
fn tags(prompt: &str) -> impl Iterator<Item = &str> {
    prompt.match_indices("<2").filter_map(|(start, _)| {
        let tag = &prompt[start..=start + prompt[start..].find('>')?];
        let is_tag = tag[2..].starts_with(char::is_alphabetic) && !tag[1..].contains(['<', '\n']);
        is_tag.then_some(tag)
    })
}

/// Refuses languages that a request gives to a model whose prompt has no place for them.
pub(super) fn refuse_languages(options: &PromptOptions) -> Result<()> {
    match (&options.src_lang, &options.tgt_lang) {
        (None, None) => Ok(()),
        (Some(_), _) => Err(not_used(LANGUAGES[0])),
        (None, Some(_)) => Err(not_used(LANGUAGES[1])),
    }
}

fn not_used(name: &str) -> Error {
    Error::unsupported(format!(
        "{name}: this model's prompt names no such language; leave it out, or give the model a configuration key \
         `prompt_template` that uses it"
    ))
}
