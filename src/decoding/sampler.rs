//! Chooses the next token of one sequence.

use std::sync::Arc;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::{
    SamplingParams,
    blocks::{Blocks, Peak, log_sum_exp},
    candidates::{Candidate, Candidates},
    guide::GuideCursor,
    logits::Weight,
    processors::{Edits, TargetHistory},
    top::{TopLogits, TopRow},
};
use crate::error::{Error, Result};

/// A token, and what the model thought of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Its id.
    pub token: u32,
    /// Its natural log-probability under the model's own distribution; 0 when nobody asked for it.
    pub logprob: f32,
}

/// Buffers of a [`TokenSampler`]. One serves all sequences of an engine, one after the other; nothing in it
/// outlives a call.
#[derive(Debug, Default)]
pub struct SamplerScratch {
    edits: Edits,
    blocks: Blocks,
    candidates: Candidates,
    /// Logits of the tokens that a guide allows.
    allowed: Vec<f32>,
    top: TopRow,
}

/// Chooses the tokens of one sequence, one after the other.
///
/// A choice depends on the parameters, the seed, the logits and the sequence's own past, never on other
/// sequences. A greedy choice draws no random number, any other draws exactly one.
#[derive(Debug)]
pub struct TokenSampler {
    params: Arc<SamplingParams>,
    /// ChaCha gives the same numbers on every machine and in every version.
    rng: ChaCha8Rng,
    history: TargetHistory,
    guide: Option<GuideCursor>,
}

impl TokenSampler {
    /// A sampler that continues `context`: start token and forced prefix, or the prompt of a decoder-only model.
    /// `seed` is the sequence's own: that of the request plus the index of the sequence.
    pub fn new(params: Arc<SamplingParams>, seed: u64, context: &[u32]) -> Self {
        let history = TargetHistory::new(&params, context);
        let guide = params.guide.clone().map(GuideCursor::new);
        Self { params, rng: ChaCha8Rng::seed_from_u64(seed), history, guide }
    }

    /// Chooses the next token and counts it as generated. Overwrites `logits`. After an error the sequence
    /// cannot go on; other sequences are not affected.
    pub fn sample(&mut self, logits: &mut [f32], scratch: &mut SamplerScratch) -> Result<Choice> {
        let params = &*self.params;
        let SamplerScratch { edits, blocks, candidates, allowed, .. } = scratch;
        edits.clear();
        // A guide looks at its own tokens alone, unless a log-probability is asked for.
        let mut normalizer = None;
        if self.guide.is_none() || params.logprobs {
            let best = open(blocks.read(logits)).ok_or_else(no_distribution)?;
            if params.logprobs {
                normalizer = Some(blocks.log_sum(logits, best.logit));
            }
        }
        let token = match &mut self.guide {
            Some(guide) => {
                // What is forbidden was looked for in the choices when the guide was made.
                self.history.penalize(params, logits, edits);
                let logit = |token: u32| logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
                allowed.clear();
                allowed.extend(guide.edges().iter().map(|edge| logit(edge.token)));
                let best = open(blocks.read(allowed)).ok_or_else(no_distribution)?;
                guide.follow(choose(params, allowed, best, blocks, candidates, 0.0, &mut self.rng) as usize)
            }
            None => {
                self.history.process(params, logits, edits);
                let best = blocks.reread(logits, edits.replaced()).ok_or_else(no_distribution)?;
                let best = open(Some(best)).ok_or_else(all_forbidden)?;
                choose(params, logits, best, blocks, candidates, 0.0, &mut self.rng)
            }
        };
        let logprob = normalizer
            .map_or(0.0, |normalizer| (f64::from(edits.original(logits, token)) - normalizer) as f32);
        self.history.push(token);
        Ok(Choice { token, logprob })
    }

    /// As [`TokenSampler::sample`], of the largest logits alone: the same token, and the same log-probability up to
    /// the rounding of `top.log_sum_exp`. None, and nothing is changed, when others might matter; then all are needed.
    pub fn sample_top(&mut self, top: TopLogits, scratch: &mut SamplerScratch) -> Result<Option<Choice>> {
        let params = &*self.params;
        let SamplerScratch { edits, blocks, candidates, top: row, .. } = scratch;
        if self.guide.is_some() || !params.only_lowers() {
            return Ok(None);
        }
        // One logit that is no number, or infinite, makes the sum so.
        if !top.log_sum_exp.is_finite() {
            return Err(no_distribution());
        }
        row.read(top);
        edits.clear();
        self.history.process(params, row, edits);
        let Some(best) = open(blocks.read(row.logits())) else { return Ok(None) };
        let mut others = 0.0;
        if !row.is_complete(top) {
            let bound = row.bound();
            let floor = if params.temperature == 0.0 {
                best.logit
            } else if params.top_k > 0 && params.top_k < top.vocab_size {
                candidates.kth_largest(params.top_k, row.logits(), blocks)
            } else if params.min_p > 0.0 && params.top_p >= 1.0 {
                candidates.min_p_floor(params, best.logit)
            } else if params.top_p < 1.0 {
                let rest = row.weight_of_others(top, best.logit, params);
                others = rest.start;
                match candidates.nucleus_floor(params, row.logits(), blocks, best.logit, rest) {
                    Some(floor) => floor,
                    None => return Ok(None),
                }
            } else {
                return Ok(None);
            };
            // What is not among the largest is at most the bound, and may equal it.
            if floor <= bound {
                return Ok(None);
            }
        }
        let index = choose(params, row.logits(), best, blocks, candidates, others, &mut self.rng);
        let Some(token) = row.token(index) else { return Ok(None) };
        let logprob = if params.logprobs {
            (f64::from(row.original(token)) - f64::from(top.log_sum_exp)) as f32
        } else {
            0.0
        };
        self.history.push(token);
        Ok(Some(Choice { token, logprob }))
    }
}

/// None when even the best is forbidden.
fn open(best: Option<Peak>) -> Option<Peak> {
    best.filter(|best| best.logit > f32::NEG_INFINITY)
}

/// Index of the logit that is chosen among `logits`, which `blocks` has read; `best` is the largest, and finite. Tokens
/// that are not among them weigh `others`.
fn choose(
    params: &SamplingParams,
    logits: &[f32],
    best: Peak,
    blocks: &mut Blocks,
    candidates: &mut Candidates,
    others: f64,
    rng: &mut ChaCha8Rng,
) -> u32 {
    if params.temperature == 0.0 {
        return best.token;
    }
    let uniform = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let drawn = if params.truncates(logits.len()) {
        draw(candidates.select(params, logits, blocks, best.logit, others), uniform)
    } else {
        let weight = Weight::new(best.logit, params.temperature);
        let total = blocks.weigh(logits, weight);
        blocks.reach(logits, weight, uniform * total)
    };
    drawn.unwrap_or(best.token)
}

/// Natural log-probability of `token` under `logits`.
pub fn log_probability(logits: &[f32], token: u32) -> Result<f32> {
    log_probability_of_any(logits, &[token])
}

/// Natural logarithm of the probability that one of `tokens` comes next under `logits`.
pub(super) fn log_probability_of_any(logits: &[f32], tokens: &[u32]) -> Result<f32> {
    let logit = |token: u32| {
        logits.get(token as usize).map(|&logit| f64::from(logit)).ok_or_else(|| {
            Error::invalid_argument(format!(
                "token {token}: the model has {} tokens; give ids below that",
                logits.len()
            ))
        })
    };
    let normalizer = log_sum_exp(logits).ok_or_else(no_distribution)?;
    let mut max = f64::NEG_INFINITY;
    for &token in tokens {
        max = max.max(logit(token)?);
    }
    if max == f64::NEG_INFINITY {
        return Ok(f32::NEG_INFINITY);
    }
    let mut sum = 0.0;
    for &token in tokens {
        sum += (logit(token)? - max).exp();
    }
    // Of a single token the sum is 1, and its logarithm exactly 0.
    Ok((max + sum.ln() - normalizer) as f32)
}

/// Draws one candidate by its weight, with a number in [0, 1); none only when there are no candidates.
fn draw(candidates: &[Candidate], uniform: f64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let target = uniform * total;
    let mut reached = 0.0;
    let drawn = candidates.iter().find(|candidate| {
        reached += f64::from(candidate.weight);
        reached > target
    });
    drawn.or(candidates.last()).map(|candidate| candidate.token)
}

fn no_distribution() -> Error {
    Error::internal(
        "logits: got NaN, positive infinity or nothing but negative infinity, expected finite numbers; the model \
         or its conversion is damaged, or its precision too low for this input",
    )
}

fn all_forbidden() -> Error {
    Error::invalid_argument(
        "every token of the vocabulary is forbidden at this step, expected at least one that may follow; relax \
         bad_words or min_tokens",
    )
}

#[cfg(test)]
mod tests;
