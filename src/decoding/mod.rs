//! Slices in, token ids out: sampling parameters, logits processors, the sampler, stopping.
//!
//! Called by the engine once for each row of a step. Knows neither the model nor the tokenizer.

mod params;

pub use params::SamplingParams;
