//! Requests in, events out: the continuous-batching engine of one model instance.
//!
//! One OS thread owns the engine; nobody else touches its state, so the step path has no locks. It names
//! neither ONNX Runtime nor Triton: the model is an [`Executor`], the client an [`EventSink`], the
//! vocabulary a [`TextDecoder`].

mod active;
mod draft;
#[allow(clippy::module_inception)]
mod engine;
mod event;
mod executor;
mod observer;
mod pace;
mod prefix;
mod request;
mod scoring;
mod sequence;
mod slots;
mod spelling;
mod step_plan;
#[cfg(test)]
mod tests;
mod waiting;
mod worker;

pub use draft::PromptLookup;
pub use engine::{Engine, EngineOptions};
pub use event::{EventSink, FinishReason, Finished, SequenceUpdate};
pub use executor::{
    CrossView, DecodeBatch, EncodeBatch, EncoderLimits, Executor, ExecutorLimits, MemoryUse, choose,
};
pub use observer::{EngineLoad, NoObserver, Observer, Outcome, Phase, StepStats};
pub use request::{GenerateRequest, Prompt, TextDecoder, TextDecoderFactory};
pub use scoring::score;
