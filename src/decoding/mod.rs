//! Slices in, token ids out: sampling parameters, logits processors, guides, the sampler, stopping.
//!
//! Called by the engine once for each row of a step. Knows neither the model nor the tokenizer.

mod blocks;
mod candidates;
mod guide;
mod logits;
mod params;
mod processors;
mod sampler;
mod stopping;
mod top;

pub use guide::{ChoiceGuide, ChoiceScore, normalize};
pub use params::SamplingParams;
pub use sampler::{Choice, SamplerScratch, TokenSampler, log_probability};
pub use stopping::StopMatcher;
pub use top::TopLogits;
