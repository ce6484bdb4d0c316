//! A request that has not ended: what its rows share, and what is still missing of it.

use std::{sync::Arc, time::Instant};

use super::{EventSink, GenerateRequest, Outcome, Prompt, sequence::PromptScore};
use crate::{
    decoding::{SamplingParams, StopMatcher, normalize},
    error::{Error, ErrorKind, Result},
};

/// A request that has not ended.
pub struct ActiveRequest {
    pub params: Arc<SamplingParams>,
    /// At the start of a text; each sequence has a copy.
    pub stop: StopMatcher,
    /// Seed of sequence 0.
    pub seed: u64,
    pub arrival: Instant,
    pub deadline: Option<Instant>,
    pub sink: Box<dyn EventSink>,
    /// Rows that have not finished, waiting ones included.
    pub unfinished: usize,
    /// What has been found of the choices of each prompt; none when nobody asks for it.
    pub scores: Vec<PromptScores>,
    pub started: bool,
    pub has_token: bool,
}

/// The scores of one prompt.
pub struct PromptScores {
    /// Log-probability of each choice, as far as it is known.
    logprobs: Vec<f64>,
    /// Choices that have not been scored.
    missing: usize,
}

impl ActiveRequest {
    /// A request of which nothing has started, and its prompts.
    pub fn new(request: GenerateRequest) -> (Self, Vec<Prompt>) {
        let GenerateRequest { prompts, params, arrival, deadline, sink } = request;
        let choices = params.scored_choices();
        let scores = || PromptScores { logprobs: vec![0.0; choices], missing: choices };
        let active = Self {
            seed: params.seed.unwrap_or_else(rand::random),
            stop: StopMatcher::new(&params.stop_words),
            unfinished: prompts.len() * (params.num_return_sequences + choices),
            scores: match choices {
                0 => Vec::new(),
                _ => prompts.iter().map(|_| scores()).collect(),
            },
            params,
            arrival,
            deadline,
            sink,
            started: false,
            has_token: false,
        };
        (active, prompts)
    }

    /// Rows of each prompt.
    pub fn rows_per_prompt(&self) -> usize {
        self.params.num_return_sequences + self.params.scored_choices()
    }

    /// Takes in a score that is complete; tells the client when it was the last one of its prompt.
    pub fn scored(&mut self, scored: &PromptScore) -> Result<()> {
        let Some(scores) = self.scores.get_mut(scored.prompt) else { return Ok(()) };
        scores.logprobs[scored.score.choice()] = scored.score.logprob();
        scores.missing -= 1;
        if scores.missing == 0 {
            normalize(&mut scores.logprobs)?;
            self.sink.choice_probabilities(scored.prompt, &scores.logprobs);
        }
        Ok(())
    }

    /// How and why it ends before it is complete; none while it may go on.
    pub fn early_end(&self, now: Instant, drained: bool) -> Option<(Outcome, Error)> {
        if let Some(error) = self.sink.given_up() {
            let outcome = match error.kind {
                ErrorKind::Cancelled => Outcome::Cancelled,
                ErrorKind::Unavailable => Outcome::Rejected,
                _ => Outcome::Failed,
            };
            return Some((outcome, error));
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let error = Error::unavailable(format!(
                "the deadline passed after {} ms, {}; allow more time or ask for less",
                self.arrival.elapsed().as_millis(),
                if self.started { "while the text was generated" } else { "still in the queue" }
            ));
            return Some((Outcome::TimedOut, error));
        }
        drained
            .then(|| (Outcome::Rejected, Error::unavailable("the model is being unloaded; try again later")))
    }
}
