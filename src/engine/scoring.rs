//! Teacher forcing: how probable a model finds a given target.

use super::{CrossView, DecodeBatch, EncodeBatch, Executor};
use crate::{
    decoding::log_probability,
    error::{Error, Result},
};

/// Natural log-probability of each token of `target` after `source`, under the model's own distribution.
/// Uses slot 0 and cross slot 0, so nothing else may run on `executor`.
pub fn score(executor: &mut dyn Executor, source: &[u32], target: &[u32]) -> Result<Vec<f32>> {
    let limits = executor.limits();
    if source.is_empty() || target.is_empty() {
        return Err(Error::invalid_argument("scoring needs at least one source and one target token"));
    }
    if source.len() > limits.max_source_tokens || target.len() > limits.max_target_tokens {
        return Err(Error::invalid_argument(format!(
            "{} source and {} target tokens, at most {} and {} are served",
            source.len(),
            target.len(),
            limits.max_source_tokens,
            limits.max_target_tokens
        )));
    }
    let mut encode = EncodeBatch::default();
    encode.push(source, 0);
    executor.encode(&encode)?;
    let cross = CrossView { slot: 0, tokens: source.len() };
    let mut scores = Vec::with_capacity(target.len());
    let mut batch = DecodeBatch::default();
    let mut position = 0;
    let mut fed = vec![limits.decoder_start_token_id];
    fed.extend_from_slice(&target[..target.len() - 1]);
    // The logits of a whole target would not fit for a large vocabulary.
    for chunk in fed.chunks(CHUNK_TOKENS) {
        batch.clear();
        batch.push(chunk, 0, position, cross);
        batch.logit_rows = (0..chunk.len() as i64).collect();
        executor.decode(&batch)?;
        for index in 0..chunk.len() {
            scores.push(log_probability(executor.logits_mut(index), target[position + index])?);
        }
        position += chunk.len();
    }
    Ok(scores)
}

/// Tokens whose logits are held at once.
const CHUNK_TOKENS: usize = 32;
