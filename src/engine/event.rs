//! What the engine says back.

use crate::error::Error;

/// Receives the events of one request. Called on the engine thread, so it must not block: it hands over and
/// returns. After [`EventSink::complete`] or [`EventSink::fail`], which consume it, nothing follows.
pub trait EventSink: Send {
    /// New tokens of one sequence, or its end. Events of one sequence arrive in order.
    fn update(&mut self, update: &SequenceUpdate<'_>);
    /// How probable the choices of the guide are for prompt `prompt`, in their order, summing to 1. Comes once for each
    /// prompt when asked for: before the end of the request, and before or after the ends of the prompt's sequences.
    fn choice_probabilities(&mut self, prompt: usize, probabilities: &[f64]);
    /// Every sequence has finished.
    fn complete(self: Box<Self>);
    /// The request has failed as a whole; sequences that have not finished will not. The engine does not log it:
    /// whether it concerns the operator or the client alone, the sink knows.
    fn fail(self: Box<Self>, error: Error);
    /// Why the request must end early; none while it may go on. Asked between steps: it must be cheap.
    fn given_up(&self) -> Option<Error>;
}

/// A piece of one sequence. The texts of all updates of a sequence, joined, are its whole text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SequenceUpdate<'a> {
    /// Index of the sequence within the request, see [`super::GenerateRequest`].
    pub sequence_index: usize,
    /// Final text since the last update; may be empty.
    pub text: &'a str,
    /// Tokens since the last update, the end-of-sequence token included, a forced prefix excluded.
    pub token_ids: &'a [u32],
    /// Natural log-probability of each of `token_ids`; empty unless asked for.
    pub logprobs: &'a [f32],
    /// Set on the last update of the sequence.
    pub finished: Option<Finished>,
}

/// Totals of a finished sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// Sum of the log-probabilities of its tokens; 0 unless they were asked for.
    pub cumulative_logprob: f32,
    /// Source tokens.
    pub num_input_tokens: usize,
    /// Generated tokens, the end-of-sequence token included.
    pub num_output_tokens: usize,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token or a stop word.
    Stop,
    /// `max_new_tokens`, or the end of the cache.
    Length,
}

impl FinishReason {
    /// The name clients see.
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}
