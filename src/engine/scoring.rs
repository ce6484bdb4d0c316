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
    let too_long = |got: usize, what: &str, limit: usize| {
        Error::invalid_argument(format!("{got} {what} tokens, at most {limit} are served"))
    };
    let mut cross = None;
    let mut fed = Vec::new();
    match limits.encoder {
        Some(encoder) => {
            if source.len() > encoder.max_source_tokens {
                return Err(too_long(source.len(), "source", encoder.max_source_tokens));
            }
            let mut encode = EncodeBatch::default();
            encode.push(source, 0);
            executor.encode(&encode)?;
            cross = Some(CrossView { slot: 0, tokens: source.len() });
            fed.push(encoder.decoder_start_token_id);
        }
        None => fed.extend_from_slice(source),
    }
    // The logits after this token are those of the first target token.
    let last_given = fed.len() - 1;
    fed.extend_from_slice(&target[..target.len() - 1]);
    if fed.len() > limits.max_target_tokens {
        return Err(too_long(fed.len(), "target", limits.max_target_tokens));
    }
    let mut scores = Vec::with_capacity(target.len());
    let mut batch = DecodeBatch::default();
    let mut position = 0;
    // The logits of a whole target would not fit for a large vocabulary.
    for chunk in fed.chunks(CHUNK_TOKENS) {
        batch.clear();
        batch.push(chunk, 0, position, cross);
        let first = last_given.saturating_sub(position).min(chunk.len());
        batch.logit_rows = (first as i64..chunk.len() as i64).collect();
        executor.decode(&batch)?;
        for row in 0..batch.logit_rows.len() {
            scores.push(log_probability(executor.logits_mut(row)?, target[scores.len()])?);
        }
        position += chunk.len();
    }
    Ok(scores)
}

/// Tokens whose logits are held at once.
const CHUNK_TOKENS: usize = 32;
