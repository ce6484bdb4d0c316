//! What an operator wants to know of the engine, as it happens.

use std::time::Duration;

/// Receives measurements on the engine thread; it must be cheap and must not block.
pub trait Observer: Send + Sync {
    /// A request left the queue: its first prompt is about to be encoded.
    fn request_started(&self, queue_time: Duration);
    /// A request ended; `total` counts from its arrival.
    fn request_ended(&self, outcome: Outcome, total: Duration);
    /// The first token of a request; `since_arrival` includes the queue.
    fn first_token(&self, since_arrival: Duration);
    /// Time between two tokens of one sequence. Those that one step brings share its time evenly.
    fn inter_token(&self, gap: Duration);
    /// Source or prompt tokens of a text that has been taken up.
    fn prompt_tokens(&self, count: usize);
    /// Of `prompt` tokens of a new sequence, `reused` were in a cache already.
    fn prefix_reuse(&self, prompt: usize, reused: usize);
    /// Tokens that have been generated.
    fn generated_tokens(&self, count: usize);
    /// Of `drafted` tokens of a sequence, `accepted` were what it then said.
    fn drafted_tokens(&self, drafted: usize, accepted: usize);
    /// A step of the model has run.
    fn step(&self, step: StepStats);
    /// State after a step, or when it changes while idle.
    fn load(&self, load: EngineLoad);
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Every sequence finished.
    Completed,
    /// The client gave it up.
    Cancelled,
    /// Its deadline passed.
    TimedOut,
    /// The queue was full, or the model is going away.
    Rejected,
    /// Anything else went wrong.
    Failed,
}

impl Outcome {
    /// Every outcome, for whoever keeps one counter each.
    pub const ALL: [Outcome; 5] =
        [Outcome::Completed, Outcome::Cancelled, Outcome::TimedOut, Outcome::Rejected, Outcome::Failed];

    /// The label operators see.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::Cancelled => "cancelled",
            Outcome::TimedOut => "timed_out",
            Outcome::Rejected => "rejected",
            Outcome::Failed => "failed",
        }
    }
}

/// One run of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepStats {
    /// Which graph ran.
    pub phase: Phase,
    /// Sources or sequences in the batch.
    pub rows: usize,
    /// Tokens in the batch.
    pub tokens: usize,
    /// Time of the run, without sampling.
    pub duration: Duration,
}

/// Part of the model that a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The encoder, over sources that are being admitted.
    Encode,
    /// The decoder, over all running sequences.
    Decode,
}

/// How busy an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineLoad {
    /// Sequences that hold a slot.
    pub running: usize,
    /// Sequences that wait for one.
    pub waiting: usize,
    /// All slots, free ones included.
    pub slots: usize,
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn request_started(&self, _: Duration) {}
    fn request_ended(&self, _: Outcome, _: Duration) {}
    fn first_token(&self, _: Duration) {}
    fn inter_token(&self, _: Duration) {}
    fn prompt_tokens(&self, _: usize) {}
    fn prefix_reuse(&self, _: usize, _: usize) {}
    fn generated_tokens(&self, _: usize) {}
    fn drafted_tokens(&self, _: usize, _: usize) {}
    fn step(&self, _: StepStats) {}
    fn load(&self, _: EngineLoad) {}
}
