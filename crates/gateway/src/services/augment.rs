//! Text augmentation: variants of a text, and the other tasks that its models are prompted for.

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt, TryFutureExt, TryStreamExt, stream};
use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{MAX_LENGTH, answers::Answers, check_text, wanted::Wanted};
use crate::{
    error::{ApiError, Result},
    settings::{Ask, AugmentTable, Operation, Options, TaskTable},
    triton::{Generate, Input, ModelFacts},
};

/// The task of a request that names none.
const REWRITE: &str = "rewrite";
/// Variants of one text at most.
pub const MAX_VARIANTS: u32 = 20;
/// What a rewriting is asked with unless configuration or request say otherwise.
pub const DEFAULTS: Defaults =
    Defaults { num_return_sequences: 3, temperature: 0.85, top_p: 0.95, top_k: 50, max_length: 128 };
/// How often the model is asked again for variants that it gave twice.
const ROUNDS: u64 = 3;
/// Texts of one batch at work at once; the others wait here rather than in the server.
const AT_ONCE: usize = 16;
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

/// Augments. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Augmenter {
    answers: Answers,
    tasks: Arc<Vec<Task>>,
    prompts: Arc<Environment<'static>>,
    max_chars: usize,
    max_texts: usize,
}

/// What a model can be asked to do with a text.
#[derive(Debug, Clone, Serialize)]
pub struct Task {
    name: String,
    #[serde(skip)]
    model: String,
    /// True when a request gives labels.
    labels: bool,
    /// True when a request gives an answer.
    answer: bool,
    /// True when a request gives languages.
    languages: bool,
    #[serde(skip)]
    own_labels: Vec<String>,
    #[serde(skip)]
    options: Options,
}

/// What a client asks for: of `text` and `texts` the door takes one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    pub text: Option<String>,
    pub texts: Option<Vec<String>>,
    #[serde(default)]
    pub grouped: bool,
    task: Option<String>,
    num_return_sequences: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    max_length: Option<u32>,
    repetition_penalty: Option<f64>,
    seed: Option<u64>,
    labels: Option<Vec<String>>,
    answer: Option<String>,
    src_lang: Option<String>,
    tgt_lang: Option<String>,
    #[serde(default)]
    return_probabilities: bool,
}

impl Augmentation {
    /// The key that a text stands under.
    fn key(&self, index: usize) -> String {
        if self.texts.is_some() { format!("texts[{index}]") } else { "text".to_owned() }
    }
}

impl Plan<'_> {
    /// The model that is asked.
    pub fn model(&self) -> &str {
        &self.task.model
    }
}

/// The variants of one text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Augmented {
    /// In order; each has its index for good.
    pub variants: Vec<String>,
    /// What the model gives each label, in their order; when it was asked for.
    pub probabilities: Option<Vec<LabelProbability>>,
    /// Tokens generated, as far as the model says.
    pub output_tokens: u32,
}

/// What a model gives a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelProbability {
    #[serde(alias = "choice")]
    label: String,
    probability: f64,
}

/// A request that was checked, but for what Triton says.
#[derive(Debug)]
pub struct Plan<'a> {
    texts: &'a [String],
    task: &'a Task,
    facts: ModelFacts,
    options: Options,
    variants: usize,
    labelled: bool,
    asked: &'a Augmentation,
    id: &'a str,
}

impl Augmenter {
    /// Reads the table; a template that does not compile or leaves the text out is an error.
    pub fn new(
        answers: Answers,
        table: AugmentTable,
        limits: &Operation,
    ) -> std::result::Result<Self, String> {
        let mut prompts = Environment::new();
        prompts.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        let mut tasks = Vec::new();
        let AugmentTable { model, prompt, options, tasks: others } = table;
        let rewrite =
            TaskTable { model: None, prompt, asks: Vec::new(), labels: Vec::new(), options: Options::new() };
        let all = std::iter::once((REWRITE.to_owned(), rewrite)).chain(others);
        for (name, task) in all {
            if tasks.iter().any(|other: &Task| other.name == name) {
                return Err(format!(
                    "table augment: the task `{name}` is there by itself; give `prompt` in the table"
                ));
            }
            let wrong = |error: &dyn std::fmt::Display| {
                format!("table augment: prompt of the task `{name}`: {error}")
            };
            prompts.add_template_owned(name.clone(), task.prompt).map_err(|error| wrong(&error))?;
            let used =
                prompts.get_template(&name).map_err(|error| wrong(&error))?.undeclared_variables(false);
            if !used.contains("text") {
                return Err(wrong(&"it leaves out {{ text }}"));
            }
            let asks = |ask| task.asks.contains(&ask);
            tasks.push(Task {
                labels: asks(Ask::Labels),
                answer: asks(Ask::Answer),
                languages: asks(Ask::Languages),
                own_labels: task.labels,
                model: task.model.unwrap_or_else(|| model.clone()),
                options: options.clone().into_iter().chain(task.options).collect(),
                name,
            });
        }
        Ok(Self {
            answers,
            tasks: Arc::new(tasks),
            prompts: Arc::new(prompts),
            max_chars: limits.max_text_chars,
            max_texts: limits.max_batch_texts,
        })
    }

    /// Every model it may ask, that of rewriting first.
    pub fn models(&self) -> Vec<String> {
        self.tasks.iter().map(|task| task.model.clone()).collect()
    }

    /// What it can be asked for.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Longest text in characters, and most texts of a batch.
    pub fn limits(&self) -> (usize, usize) {
        (self.max_chars, self.max_texts)
    }

    /// Checks a request.
    pub fn plan<'a>(&'a self, texts: &'a [String], asked: &'a Augmentation, id: &'a str) -> Result<Plan<'a>> {
        if texts.is_empty() || texts.len() > self.max_texts {
            let error = match texts.len() {
                0 => ApiError::invalid_argument("got an empty list, expected one text or more"),
                count => {
                    ApiError::too_large(format!("got {count} texts, at most {} are taken", self.max_texts))
                }
            };
            return Err(error.at("texts"));
        }
        for (index, text) in texts.iter().enumerate() {
            check_text(&asked.key(index), text, self.max_chars)?;
        }
        let name = asked.task.as_deref().unwrap_or(REWRITE);
        let task = self.tasks.iter().find(|task| task.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.tasks.iter().map(|task| task.name.as_str()).collect();
            let got: String = name.chars().take(40).collect();
            ApiError::invalid_argument(format!("got {got:?}, expected one of {}", known.join(", ")))
                .at("task")
        })?;
        for (key, given, taken, needed) in [
            ("labels", asked.labels.is_some(), task.labels, true),
            ("answer", asked.answer.is_some(), task.answer, true),
            ("tgt_lang", asked.tgt_lang.is_some(), task.languages, true),
            ("src_lang", asked.src_lang.is_some(), task.languages, false),
        ] {
            let error =
                |what: &str| Err(ApiError::invalid_argument(format!("the task `{name}` {what}")).at(key));
            match (given, taken) {
                (true, false) => return error("has no use for it; leave it out"),
                (false, true) if needed => return error("needs it, and it is missing"),
                _ => {}
            }
        }
        let labels = asked.labels.as_deref().unwrap_or(&task.own_labels);
        check_labels(labels, asked.labels.is_some())?;
        if asked.return_probabilities && labels.is_empty() {
            return Err(ApiError::invalid_argument(format!(
                "the task `{name}` has no labels to give one to"
            ))
            .at("return_probabilities"));
        }
        let samples = name == REWRITE;
        let mut wanted = Wanted::over(&task.options);
        wanted.number("temperature", asked.temperature, 0.0..=2.0)?;
        wanted.share("top_p", asked.top_p)?;
        wanted.integer("top_k", asked.top_k, 0..=1000)?;
        wanted.integer("max_length", asked.max_length, 1..=MAX_LENGTH)?;
        wanted.integer("num_return_sequences", asked.num_return_sequences, 1..=MAX_VARIANTS)?;
        if let Some(penalty) = asked.repetition_penalty
            && !(penalty > 0.0 && penalty <= 10.0)
        {
            return Err(ApiError::invalid_argument(format!(
                "got {penalty}, expected a number above 0 and at most 10"
            ))
            .at("repetition_penalty"));
        }
        wanted.number("repetition_penalty", asked.repetition_penalty, 0.0..=10.0)?;
        wanted.seed(asked.seed);
        wanted.default("temperature", json!(if samples { DEFAULTS.temperature } else { 0.0 }));
        wanted.default("top_p", json!(DEFAULTS.top_p));
        wanted.default("top_k", json!(DEFAULTS.top_k));
        wanted.default("max_length", json!(DEFAULTS.max_length));
        if !labels.is_empty() {
            wanted.put("guided_decoding_guide_type", json!("choice"));
            wanted.put("guided_decoding_guide", json!(json!(labels).to_string()));
            if asked.return_probabilities {
                wanted.put("return_choice_probabilities", json!(true));
            }
        }
        let mut options = wanted.options();
        let variants = options.remove("num_return_sequences").and_then(|count| count.as_u64());
        let variants = variants.unwrap_or(if samples { DEFAULTS.num_return_sequences.into() } else { 1 });
        let facts = self.answers.model(&task.model)?;
        if facts.names_languages && task.languages {
            for (key, language) in [("src_lang", &asked.src_lang), ("tgt_lang", &asked.tgt_lang)] {
                if let Some(language) = language {
                    options.insert(key.to_owned(), json!(language));
                }
            }
        }
        Ok(Plan {
            texts,
            task,
            facts,
            options,
            variants: variants as usize,
            labelled: !labels.is_empty(),
            asked,
            id,
        })
    }

    /// The variants of each text, in order.
    pub async fn augment(&self, plan: &Plan<'_>) -> Result<Vec<Augmented>> {
        let Plan { texts, asked, .. } = plan;
        // Nothing runs before it is polled, and of these so many are at once.
        let mut work = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let one = self.one(plan, index, text, self.prompt(plan, text)?);
            work.push(one.map_err(
                move |error| {
                    if asked.texts.is_some() { error.at(&asked.key(index)) } else { error }
                },
            ));
        }
        stream::iter(work).buffered(AT_ONCE).try_collect().await
    }

    fn prompt(&self, plan: &Plan<'_>, text: &str) -> Result<String> {
        let Augmentation { labels, answer, src_lang, tgt_lang, .. } = plan.asked;
        let labels = labels.as_deref().unwrap_or(&plan.task.own_labels);
        let template = self.prompts.get_template(&plan.task.name);
        let prompt = template.and_then(|template| {
            template.render(context! { text, labels => labels.to_vec(), answer, src_lang, tgt_lang })
        });
        prompt.map_err(|error| {
            ApiError::internal(format!("the prompt of the task `{}`: {error}", plan.task.name))
        })
    }

    async fn one(&self, plan: &Plan<'_>, index: usize, text: &str, prompt: String) -> Result<Augmented> {
        let count = plan.variants;
        // Every text of a batch has seeds of its own, as every variant has.
        let seed = plan.options.get("seed").and_then(Value::as_u64);
        let stride = u64::from(MAX_VARIANTS) * (ROUNDS + 1);
        let seed = seed.map(|seed| seed.wrapping_add(index as u64 * stride));
        let mut answer = self.ask(plan, &prompt, count, seed).await?;
        let can_differ =
            plan.options.get("temperature").and_then(Value::as_f64) != Some(0.0) && !plan.labelled;
        if !can_differ {
            return Ok(answer);
        }
        let variants = &mut answer.variants;
        // The text itself is no variant of it, if the model has another.
        let mut seen = HashSet::from([normal(text)]);
        let mut again: Vec<usize> =
            (0..variants.len()).filter(|&at| !seen.insert(normal(&variants[at]))).collect();
        for round in 1..=ROUNDS {
            if again.is_empty() {
                break;
            }
            let seed = seed.map(|seed| seed.wrapping_add(round * u64::from(MAX_VARIANTS)));
            let others = self.ask(plan, &prompt, again.len(), seed).await?;
            answer.output_tokens += others.output_tokens;
            for other in others.variants {
                if seen.insert(normal(&other)) {
                    variants[again.remove(0)] = other;
                }
            }
        }
        Ok(answer)
    }

    async fn ask(&self, plan: &Plan<'_>, prompt: &str, count: usize, seed: Option<u64>) -> Result<Augmented> {
        let mut options = plan.options.clone();
        if let Some(seed) = seed {
            options.insert("seed".into(), json!(seed));
        }
        // Each member of an ensemble would make so many of each: it is given the text as often instead.
        let copies = if plan.facts.ensemble { count } else { 1 };
        if !plan.facts.ensemble {
            options.insert("num_return_sequences".into(), json!(count));
        }
        let request = Generate {
            model: plan.task.model.clone(),
            input: Input::Texts(vec![prompt.to_owned(); copies]),
            options,
            stream: false,
            id: plan.id.to_owned(),
        };
        let replies = self.answers.whole(request).await?;
        let probabilities = replies.iter().find_map(|reply| reply.choice_probabilities.first());
        let probabilities =
            probabilities.map(|json| serde_json::from_str(json)).transpose().map_err(|error| {
                ApiError::internal(format!("the model's probabilities cannot be read: {error}"))
            })?;
        let counts = replies.iter().flat_map(|reply| &reply.output_tokens);
        let output_tokens = counts.sum();
        let variants: Vec<String> = replies.into_iter().flat_map(|reply| reply.texts).collect();
        if variants.len() != count {
            return Err(ApiError::internal(format!(
                "the model `{}` gave {} texts, expected {count}",
                plan.task.model,
                variants.len()
            )));
        }
        Ok(Augmented { variants, probabilities, output_tokens })
    }
}

/// Two texts that look alike are one.
fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
