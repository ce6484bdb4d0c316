//! Text augmentation: variants of a text, and the other tasks that its models are prompted for.
//!
//! - `request` is what a client asks for, checked; `task` what can be asked for, and the prompts.
//! - `pieces` cuts a text into what a model rewrites at once.
//! - `variants` draws until they are distinct, which `likeness` decides.
//! - `reading` warns of what a model cannot read.

mod likeness;
mod pieces;
mod reading;
mod request;
mod task;
mod variants;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, try_join_all},
    stream,
};
use serde_json::json;
use textgen_languages::{Language, Languages};
use tokio::sync::Semaphore;

use self::{
    pieces::{PieceLimits, Pieces},
    request::Limits,
    task::{Task, Tasks},
    variants::{Drawn, FinishReason, LabelProbability, Source, distinct},
};
use super::{MAX_TEMPERATURE, answers::Answers, deadline::Deadline};
use crate::{
    error::{ApiError, Result},
    settings::{AugmentTable, Operation},
    triton::{Excess, Generate, Input},
};

pub use reading::Warning;
pub use request::{Augmentation, DEFAULTS, MAX_VARIANTS, Plan};
pub use variants::Variant;

/// Questions of one request at work at once; the others wait here rather than in the server.
const AT_ONCE: usize = 16;
/// How much hotter the model is asked each time it is asked again.
const WARMER: f64 = 0.1;
/// Bytes of a line for each token of `max_length`, in most languages: a longer line is rewritten sentence by sentence.
const BYTES_PER_TOKEN: usize = 3;
/// A piece is not cut any smaller, in bytes.
const SMALLEST_PIECE: usize = 32;

/// Augments. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Augmenter {
    answers: Answers,
    tasks: Arc<Tasks>,
    /// What the configuration says of the languages of the service's model.
    languages: Option<Languages>,
    limits: Limits,
}

/// What came of one text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Augmented {
    /// In order.
    pub variants: Vec<Variant>,
    /// True where there are fewer than were asked for.
    pub exhausted: bool,
    /// What the model gives each label, in their order; when it was asked for.
    pub probabilities: Option<Vec<LabelProbability>>,
    /// Tokens generated, as far as the model says.
    pub output_tokens: u32,
}

impl Augmenter {
    /// Reads the table; a template that does not compile or leaves the text out is an error, as is a language that
    /// nobody knows.
    pub fn new(
        answers: Answers,
        table: AugmentTable,
        operation: &Operation,
    ) -> std::result::Result<Self, String> {
        let languages = table.languages.as_deref().map(Languages::parse).transpose();
        let languages = languages.map_err(|error| format!("table augment: languages: {error}"))?;
        let limits = Limits { max_chars: operation.max_text_chars, max_texts: operation.max_batch_texts };
        Ok(Self { answers, tasks: Arc::new(Tasks::of(table)?), languages, limits })
    }

    /// Every model it may ask, that of rewriting first.
    pub fn models(&self) -> Vec<String> {
        self.tasks.list().iter().map(|task| self.tasks.model(task).to_owned()).collect()
    }

    /// What it can be asked for.
    pub fn tasks(&self) -> &[Task] {
        self.tasks.list()
    }

    /// Longest text in characters, and most texts of a batch.
    pub fn limits(&self) -> (usize, usize) {
        (self.limits.max_chars, self.limits.max_texts)
    }

    /// The languages that the service's model reads, where its configuration or the model's says them.
    pub fn languages(&self) -> Option<Vec<Language>> {
        Some(self.known_languages()?.iter().cloned().collect())
    }

    fn known_languages(&self) -> Option<Languages> {
        let of_model = || {
            let list = self.answers.model(self.tasks.rewriter()).ok()?.languages?;
            Languages::parse(&list).ok()
        };
        self.languages.clone().or_else(of_model)
    }

    /// Checks a request.
    pub fn plan<'a>(&'a self, texts: &'a [String], asked: &'a Augmentation, id: &'a str) -> Result<Plan<'a>> {
        asked.plan(texts, &self.tasks, self.limits, |model| self.answers.model(model), id)
    }

    /// What is to be said of the texts before the model answers.
    pub fn warnings(&self, plan: &Plan<'_>) -> Vec<Warning> {
        let Some(languages) = self.languages_of(plan) else { return Vec::new() };
        let taken = |&(index, _): &(usize, &String)| plan.refused[index].is_none();
        let warning = |(index, text): (usize, &String)| {
            let warning = reading::warning(&languages, text)?;
            Some(Warning { index: plan.asked.texts.is_some().then_some(index), ..warning })
        };
        plan.texts.iter().enumerate().filter(taken).filter_map(warning).collect()
    }

    /// The languages that the model of a request reads, if they are known.
    fn languages_of(&self, plan: &Plan<'_>) -> Option<Languages> {
        if plan.task.other_model.is_none() { self.known_languages() } else { None }
    }

    /// The variants of each text, in order. Unless the request is partial, one that fails fails them all.
    pub async fn augment(&self, plan: &Plan<'_>, deadline: &Deadline) -> Result<Vec<Result<Augmented>>> {
        let at_work = Semaphore::new(AT_ONCE);
        let languages = self.languages_of(plan);
        let language = match languages.iter().flat_map(Languages::iter).collect::<Vec<_>>()[..] {
            [only] => Some(&*only.code),
            _ => None,
        };
        let drawings = (0..plan.texts.len()).map(|index| Drawing {
            augmenter: self,
            plan,
            index,
            language,
            at_work: &at_work,
            pieces: OnceLock::new(),
        });
        let drawings: Vec<Drawing<'_>> = drawings.collect();
        // Every text is drawn of once before any is drawn of again.
        let work: Vec<_> = drawings.iter().map(|drawing| drawing.first(deadline)).collect();
        let firsts = all(work, plan.asked.partial).await?;
        let work: Vec<_> = drawings
            .into_iter()
            .zip(firsts)
            .map(|(drawing, first)| drawing.augmented(first, deadline))
            .collect();
        all(work, plan.asked.partial).await
    }
}

/// What comes of the work, in order, so much of it at once. Unless it may be partial, one that fails fails all.
async fn all<T>(work: Vec<impl Future<Output = Result<T>>>, partial: bool) -> Result<Vec<Result<T>>> {
    let mut done = Vec::with_capacity(work.len());
    let mut work = stream::iter(work).buffered(AT_ONCE);
    while let Some(one) = work.next().await {
        match one {
            Err(error) if !partial => return Err(error),
            one => done.push(one),
        }
    }
    Ok(done)
}

/// One text, as it is asked for.
struct Drawing<'a> {
    augmenter: &'a Augmenter,
    plan: &'a Plan<'a>,
    /// Which text.
    index: usize,
    /// Code of the only language that the model reads.
    language: Option<&'a str>,
    at_work: &'a Semaphore,
    /// What the text is cut into, once it is drawn of.
    pieces: OnceLock<Pieces>,
}

impl<'a> Drawing<'a> {
    async fn first(&self, deadline: &Deadline) -> Result<Drawn> {
        match &self.plan.refused[self.index] {
            Some(error) => Err(error.clone()),
            None => {
                let first = deadline.within("before the answer was whole", self.draw(0, self.plan.variants));
                first.await.map_err(|error| self.told(error))
            }
        }
    }

    async fn augmented(mut self, first: Result<Drawn>, deadline: &Deadline) -> Result<Augmented> {
        let (mut drawn, wanted) = (first?, self.plan.variants);
        if self.plan.wants_distinct() {
            let distinct = distinct(self.text(), wanted, drawn, deadline, &mut self).await;
            drawn = distinct.map_err(|error| self.told(error))?;
        }
        let Drawn { variants, probabilities, output_tokens } = drawn;
        Ok(Augmented { exhausted: variants.len() < wanted, variants, probabilities, output_tokens })
    }

    /// An error with the text that it is about.
    fn told(&self, error: ApiError) -> ApiError {
        let of_batch = self.plan.asked.texts.is_some();
        if error.param.is_none() && of_batch { error.at(&self.plan.asked.key(self.index)) } else { error }
    }

    fn text(&self) -> &'a str {
        &self.plan.texts[self.index]
    }

    /// What a piece may be at most: what surely fits, and as many sentences as `max_length` leaves room for.
    fn piece_limits(&self) -> PieceLimits {
        let piece = self.plan.facts.segment_bytes;
        PieceLimits { sentences: piece.min(self.plan.max_length() * BYTES_PER_TOKEN), piece }
    }

    /// Draws of the whole text.
    async fn draw(&self, round: u32, count: usize) -> Result<Drawn> {
        let pieces = self.pieces.get_or_init(|| match self.plan.task.rewrites() {
            true => Pieces::of(self.text(), self.language, self.piece_limits()),
            false => Pieces::whole(self.text()),
        });
        self.draw_pieces(pieces, 0, round, count).await
    }

    /// Draws of every piece, and joins them.
    async fn draw_pieces(&self, pieces: &Pieces, start: usize, round: u32, count: usize) -> Result<Drawn> {
        let asked = pieces.rewritten().map(|(at, text)| self.draw_piece(text, start + at, round, count));
        let mut answers = try_join_all(asked).await?;
        let output_tokens = answers.iter().map(|answer| answer.output_tokens).sum();
        let probabilities = answers.iter_mut().find_map(|answer| answer.probabilities.take());
        let variants: Vec<Vec<Variant>> = answers.into_iter().map(|answer| answer.variants).collect();
        Ok(Drawn { variants: pieces.join(&variants, count), probabilities, output_tokens })
    }

    /// Draws of one piece, which begins at `start` in the text; one that is too long all the same is cut smaller.
    fn draw_piece<'b>(
        &'b self,
        text: &'b str,
        start: usize,
        round: u32,
        count: usize,
    ) -> BoxFuture<'b, Result<Drawn>> {
        async move {
            let error = match self.ask(text, start, round, count).await {
                Err(error) => error,
                drawn => return drawn,
            };
            let Some(excess) = Excess::told_in(&error.message) else { return Err(error) };
            let limit = text.len() / 2;
            if self.plan.task.rewrites() && limit >= SMALLEST_PIECE {
                let limits = PieceLimits { sentences: limit, piece: limit };
                return self.draw_pieces(&Pieces::of(text, self.language, limits), start, round, count).await;
            }
            let chars = self.text().chars().count();
            Err(ApiError::too_large(format!(
                "the text is too long for the task `{}`: got {chars} characters, about {} fit; shorten it",
                self.plan.task.name,
                excess.fitting(chars)
            ))
            .at(&self.plan.asked.key(self.index)))
        }
        .boxed()
    }

    async fn ask(&self, text: &str, start: usize, round: u32, count: usize) -> Result<Drawn> {
        let Self { augmenter, plan, .. } = self;
        let mut options = plan.options.clone();
        if let Some(seed) = plan.seed() {
            options.insert("seed".into(), json!(seed.wrapping_add(seed_offset(self.index, start, round))));
        }
        if round > 0 {
            let warmer = plan.temperature() + WARMER * f64::from(round);
            options.insert("temperature".into(), json!(warmer.min(MAX_TEMPERATURE)));
        }
        let prompt = augmenter.tasks.prompt(plan.task, plan.asked, text)?;
        // Each member of an ensemble would make so many of each: it is given the text as often instead.
        let copies = if plan.facts.ensemble { count } else { 1 };
        if !plan.facts.ensemble {
            options.insert("num_return_sequences".into(), json!(count));
        }
        let request = Generate {
            model: plan.model.to_owned(),
            input: Input::Texts(vec![prompt; copies]),
            options,
            stream: false,
            id: plan.id.to_owned(),
        };
        // Nobody closes it.
        let _permit = self.at_work.acquire().await;
        let replies = augmenter.answers.whole(request).await?;
        let probabilities = replies.iter().find_map(|reply| reply.choice_probabilities.first());
        let probabilities =
            probabilities.map(|json| serde_json::from_str(json)).transpose().map_err(|error| {
                ApiError::internal(format!("the model's probabilities cannot be read: {error}"))
            })?;
        let output_tokens = replies.iter().flat_map(|reply| &reply.output_tokens).sum();
        let variants: Vec<Variant> = replies
            .into_iter()
            .flat_map(|reply| {
                let mut reasons = reply.finish_reasons.into_iter();
                reply.texts.into_iter().map(move |text| {
                    let finish_reason = reasons.next().map(|name| FinishReason::named(&name));
                    Variant { text, finish_reason }
                })
            })
            .collect();
        if variants.len() != count {
            return Err(ApiError::internal(format!(
                "the model `{}` gave {} texts, expected {count}",
                plan.model,
                variants.len()
            )));
        }
        Ok(Drawn { variants, probabilities, output_tokens })
    }
}

impl Source for Drawing<'_> {
    async fn draw(&mut self, round: u32, count: usize) -> Result<Drawn> {
        Self::draw(self, round, count).await
    }
}

/// Every text of a batch, every piece of it and every round has seeds of its own, one for each variant.
fn seed_offset(index: usize, start: usize, round: u32) -> u64 {
    ((index as u64) << 40) + ((start as u64) << 7) + u64::from(round * MAX_VARIANTS)
}
