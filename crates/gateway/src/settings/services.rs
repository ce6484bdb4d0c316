//! The tables of the configuration file: which of Triton's models serve which service, and how they are asked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Options of a request as the backend names them; what a client does not give is taken from here.
pub type Options = Map<String, Value>;

/// Table `augment`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentTable {
    /// The model that rewrites, and that serves the tasks which name no other.
    pub model: String,
    /// Its languages, as the key `languages` of a model's configuration is written; without it, that key says.
    pub languages: Option<String>,
    /// Template of a rewriting, with `{{ text }}`.
    #[serde(default = "plain")]
    pub prompt: String,
    /// Defaults for every task, over those of the gateway.
    #[serde(default)]
    pub options: Options,
    /// Tasks beyond rewriting, by name.
    #[serde(default)]
    pub tasks: BTreeMap<String, TaskTable>,
}

impl AugmentTable {
    /// A model that is given the text as it is.
    pub fn rewriting(model: String) -> Self {
        Self { model, languages: None, prompt: plain(), options: Options::new(), tasks: BTreeMap::new() }
    }
}

fn plain() -> String {
    "{{ text }}".to_owned()
}

/// Table `augment.tasks.NAME`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskTable {
    /// Another model than the table's.
    pub model: Option<String>,
    /// Template of the prompt, with `{{ text }}` and what the task asks for.
    pub prompt: String,
    /// What a request has to give beside the text.
    #[serde(default)]
    pub asks: Vec<Ask>,
    /// Labels that do not depend on the request; the answer is one of them.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Defaults of this task.
    #[serde(default)]
    pub options: Options,
}

/// Something that a task needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// `labels`, of which the answer is one.
    Labels,
    /// `answer`.
    Answer,
    /// `tgt_lang`, and `src_lang` if it is known.
    Languages,
}

/// Table `translate`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TranslateTable {
    /// One model that goes from every language to every other.
    pub model: Option<String>,
    /// Its languages, as the key `languages` of a model's configuration is written; without it, that key says.
    pub languages: Option<String>,
    /// One model for each pair.
    pub pairs: Vec<PairTable>,
    /// What is translated at once.
    pub segments: Option<SegmentKind>,
    /// Defaults of every translation.
    pub options: Options,
}

/// One element of `translate.pairs`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairTable {
    /// Code or name of the language it reads.
    pub src: String,
    /// Code or name of the language it writes.
    pub tgt: String,
    /// The model.
    pub model: String,
}

/// What a model is given at once, as far as its limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentKind {
    /// One sentence: for models that were trained on sentences.
    Sentence,
    /// One line, so that a sentence is read with those before it.
    Paragraph,
}

/// Table `chat`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChatTable {
    /// Models of the OpenAI-compatible API.
    pub models: Vec<String>,
}

/// All tables.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub augment: Option<AugmentTable>,
    pub translate: Option<TranslateTable>,
    pub chat: ChatTable,
}
