//! A request for augmentation, and its checks.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::task::{Task, Tasks};
use crate::{
    error::{ApiError, Result},
    services::{MAX_LENGTH, MAX_TEMPERATURE, MAX_TOP_K, check_text, wanted::Wanted},
    settings::Options,
    triton::ModelFacts,
};

/// Variants of one text at most.
pub const MAX_VARIANTS: u32 = 20;
/// What a rewriting is asked with unless configuration or request say otherwise.
pub const DEFAULTS: Defaults =
    Defaults { num_return_sequences: 3, temperature: 0.85, top_p: 0.95, top_k: 50, max_length: 128 };
/// Labels of one request at most, and their length in characters.
const MAX_LABELS: usize = 256;
const MAX_LABEL_CHARS: usize = 200;

/// See [`DEFAULTS`].
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Defaults {
    num_return_sequences: u32,
    temperature: f64,
    top_p: f64,
    top_k: u32,
    max_length: u32,
}

/// What a client asks for: of `text` and `texts` the door takes one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    pub text: Option<String>,
    pub texts: Option<Vec<String>>,
    #[serde(default)]
    pub grouped: bool,
    #[serde(default)]
    pub partial: bool,
    pub(super) task: Option<String>,
    num_return_sequences: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    max_length: Option<u32>,
    repetition_penalty: Option<f64>,
    seed: Option<u64>,
    pub(super) labels: Option<Vec<String>>,
    pub(super) answer: Option<String>,
    pub(super) src_lang: Option<String>,
    pub(super) tgt_lang: Option<String>,
    #[serde(default)]
    return_probabilities: bool,
}

/// Longest text in characters, and most texts of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_chars: usize,
    pub max_texts: usize,
}

/// A request whose own values were checked; Triton may still refuse it.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(super) texts: &'a [String],
    /// For each text, why it cannot be taken; of a request that is not partial, none is refused.
    pub(super) refused: Vec<Option<ApiError>>,
    pub(super) task: &'a Task,
    /// The model that is asked.
    pub model: &'a str,
    pub(super) facts: ModelFacts,
    pub(super) options: Options,
    pub(super) variants: usize,
    pub(super) asked: &'a Augmentation,
    pub(super) id: &'a str,
}

impl Augmentation {
    /// The key that a text stands under.
    pub(super) fn key(&self, index: usize) -> String {
        if self.texts.is_some() { format!("texts[{index}]") } else { "text".to_owned() }
    }

    /// Checks the request; `facts` tells what is known of a model.
    pub(super) fn plan<'a>(
        &'a self,
        texts: &'a [String],
        tasks: &'a Tasks,
        limits: Limits,
        facts: impl FnOnce(&str) -> Result<ModelFacts>,
        id: &'a str,
    ) -> Result<Plan<'a>> {
        check_count(texts.len(), limits.max_texts)?;
        let mut refused = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match check_text(&self.key(index), text, limits.max_chars) {
                Err(error) if !self.partial => return Err(error),
                checked => refused.push(checked.err()),
            }
        }
        let task = tasks.find(self.task.as_deref())?;
        self.check_what_the_task_asks(task)?;
        let labels = self.labels.as_deref().unwrap_or(&task.own_labels);
        check_labels(labels, self.labels.is_some())?;
        if self.return_probabilities && labels.is_empty() {
            return Err(ApiError::invalid_argument(format!(
                "the task `{}` has no labels to give one to",
                task.name
            ))
            .at("return_probabilities"));
        }
        let (mut options, variants) = self.options(task, labels)?;
        let model = tasks.model(task);
        let facts = facts(model)?;
        if facts.names_languages && task.languages {
            for (key, language) in [("src_lang", &self.src_lang), ("tgt_lang", &self.tgt_lang)] {
                if let Some(language) = language {
                    options.insert(key.to_owned(), json!(language));
                }
            }
        }
        Ok(Plan { texts, refused, task, model, facts, options, variants, asked: self, id })
    }

    fn check_what_the_task_asks(&self, task: &Task) -> Result<()> {
        for (key, given, taken, needed) in [
            ("labels", self.labels.is_some(), task.labels, true),
            ("answer", self.answer.is_some(), task.answer, true),
            ("tgt_lang", self.tgt_lang.is_some(), task.languages, true),
            ("src_lang", self.src_lang.is_some(), task.languages, false),
        ] {
            let error = |what: &str| {
                Err(ApiError::invalid_argument(format!("the task `{}` {what}", task.name)).at(key))
            };
            match (given, taken) {
                (true, false) => return error("has no use for it; leave it out"),
                (false, true) if needed => return error("needs it, and it is missing"),
                _ => {}
            }
        }
        Ok(())
    }

    /// What the backend is asked with, and how many variants there are to be.
    fn options(&self, task: &Task, labels: &[String]) -> Result<(Options, usize)> {
        let mut wanted = Wanted::over(&task.options);
        wanted.number("temperature", self.temperature, 0.0..=MAX_TEMPERATURE)?;
        wanted.share("top_p", self.top_p)?;
        wanted.integer("top_k", self.top_k, 0..=MAX_TOP_K)?;
        wanted.integer("max_length", self.max_length, 1..=MAX_LENGTH)?;
        wanted.integer("num_return_sequences", self.num_return_sequences, 1..=MAX_VARIANTS)?;
        if let Some(penalty) = self.repetition_penalty
            && !(penalty > 0.0 && penalty <= 10.0)
        {
            return Err(ApiError::invalid_argument(format!(
                "got {penalty}, expected a number above 0 and at most 10"
            ))
            .at("repetition_penalty"));
        }
        wanted.number("repetition_penalty", self.repetition_penalty, 0.0..=10.0)?;
        wanted.seed(self.seed);
        wanted.default("temperature", json!(if task.rewrites() { DEFAULTS.temperature } else { 0.0 }));
        wanted.default("top_p", json!(DEFAULTS.top_p));
        wanted.default("top_k", json!(DEFAULTS.top_k));
        wanted.default("max_length", json!(DEFAULTS.max_length));
        if !labels.is_empty() {
            wanted.put("guided_decoding_guide_type", json!("choice"));
            wanted.put("guided_decoding_guide", json!(json!(labels).to_string()));
            if self.return_probabilities {
                wanted.put("return_choice_probabilities", json!(true));
            }
        }
        let mut options = wanted.options();
        let variants = options.remove("num_return_sequences").and_then(|count| count.as_u64());
        let own = if task.rewrites() { DEFAULTS.num_return_sequences } else { 1 };
        Ok((options, variants.unwrap_or(own.into()) as usize))
    }
}

impl Plan<'_> {
    /// How hot the model is asked.
    pub(super) fn temperature(&self) -> f64 {
        self.option("temperature").and_then(Value::as_f64).unwrap_or(DEFAULTS.temperature)
    }

    /// Where sampling begins, if the request or the configuration says it.
    pub(super) fn seed(&self) -> Option<u64> {
        self.option("seed").and_then(Value::as_u64)
    }

    /// Tokens of one answer at most.
    pub(super) fn max_length(&self) -> usize {
        let given = self.option("max_length").and_then(Value::as_u64);
        given.map_or(DEFAULTS.max_length as usize, |tokens| tokens as usize)
    }

    /// True when variants that repeat are drawn again: of a rewriting that is sampled. Another task may well give the same
    /// answer twice.
    pub(super) fn wants_distinct(&self) -> bool {
        self.task.rewrites() && self.temperature() > 0.0
    }

    fn option(&self, name: &str) -> Option<&Value> {
        self.options.get(name)
    }
}

fn check_count(count: usize, max_texts: usize) -> Result<()> {
    let error = match count {
        0 => ApiError::invalid_argument("got an empty list, expected one text or more"),
        _ if count <= max_texts => return Ok(()),
        _ => ApiError::too_large(format!("got {count} texts, at most {max_texts} are taken")),
    };
    Err(error.at("texts"))
}

fn check_labels(labels: &[String], given: bool) -> Result<()> {
    let wrong = |message: String| Err(ApiError::invalid_argument(message).at("labels"));
    if given && !(1..=MAX_LABELS).contains(&labels.len()) {
        return wrong(format!("got {} labels, expected 1 to {MAX_LABELS}", labels.len()));
    }
    let mut seen = HashSet::new();
    for (index, label) in labels.iter().enumerate() {
        if label.trim().is_empty() || label.chars().count() > MAX_LABEL_CHARS {
            return wrong(format!("label {index} is blank or longer than {MAX_LABEL_CHARS} characters"));
        }
        if !seen.insert(label) {
            return wrong(format!("label {index} is there twice: {label:?}"));
        }
    }
    Ok(())
}
