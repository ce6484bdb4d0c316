//! The tasks: what the models can be asked to do with a text, and the prompts that ask it.

use minijinja::{Environment, context};
use serde::Serialize;

use super::request::Augmentation;
use crate::{
    error::{ApiError, Result},
    settings::{Ask, AugmentTable, Options, TaskTable},
};

/// The task of a request that names none.
pub const REWRITE: &str = "rewrite";

/// What a model can be asked to do with a text.
#[derive(Debug, Clone, Serialize)]
pub struct Task {
    pub name: String,
    /// The model that does it, where it is another than the service's.
    #[serde(rename = "model", skip_serializing_if = "Option::is_none")]
    pub other_model: Option<String>,
    /// True when a request gives labels.
    pub labels: bool,
    /// True when a request gives an answer.
    pub answer: bool,
    /// True when a request gives languages.
    pub languages: bool,
    #[serde(skip)]
    pub own_labels: Vec<String>,
    #[serde(skip)]
    pub options: Options,
}

/// All tasks of a service, rewriting first.
#[derive(Debug)]
pub struct Tasks {
    model: String,
    list: Vec<Task>,
    prompts: Environment<'static>,
}

impl Task {
    /// True for the task that says a text in other words: it is sampled, and can be done piece by piece. The others
    /// need the text as a whole.
    pub fn rewrites(&self) -> bool {
        self.name == REWRITE
    }
}

impl Tasks {
    /// Reads the table; a template that does not compile or leaves the text out is an error.
    pub fn of(table: AugmentTable) -> std::result::Result<Self, String> {
        let mut prompts = Environment::new();
        prompts.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        let mut list = Vec::new();
        let AugmentTable { model, languages: _, prompt, options, tasks: others } = table;
        let rewrite =
            TaskTable { model: None, prompt, asks: Vec::new(), labels: Vec::new(), options: Options::new() };
        let all = std::iter::once((REWRITE.to_owned(), rewrite)).chain(others);
        for (name, task) in all {
            if list.iter().any(|other: &Task| other.name == name) {
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
            list.push(Task {
                labels: asks(Ask::Labels),
                answer: asks(Ask::Answer),
                languages: asks(Ask::Languages),
                own_labels: task.labels,
                other_model: task.model.filter(|other| *other != model),
                options: options.clone().into_iter().chain(task.options).collect(),
                name,
            });
        }
        Ok(Self { model, list, prompts })
    }

    /// Every one.
    pub fn list(&self) -> &[Task] {
        &self.list
    }

    /// The service's model.
    pub fn rewriter(&self) -> &str {
        &self.model
    }

    /// The model that does a task.
    pub fn model<'a>(&'a self, task: &'a Task) -> &'a str {
        task.other_model.as_deref().unwrap_or(&self.model)
    }

    /// The task of a request.
    pub fn find(&self, name: Option<&str>) -> Result<&Task> {
        let name = name.unwrap_or(REWRITE);
        self.list.iter().find(|task| task.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.list.iter().map(|task| task.name.as_str()).collect();
            let got: String = name.chars().take(40).collect();
            ApiError::invalid_argument(format!("got {got:?}, expected one of {}", known.join(", ")))
                .at("task")
        })
    }

    /// What a model is given to do a task with a text.
    pub fn prompt(&self, task: &Task, asked: &Augmentation, text: &str) -> Result<String> {
        let Augmentation { labels, answer, src_lang, tgt_lang, .. } = asked;
        let labels = labels.as_deref().unwrap_or(&task.own_labels);
        let template = self.prompts.get_template(&task.name);
        let prompt = template.and_then(|template| {
            template.render(context! { text, labels => labels.to_vec(), answer, src_lang, tgt_lang })
        });
        prompt.map_err(|error| ApiError::internal(format!("the prompt of the task `{}`: {error}", task.name)))
    }
}
