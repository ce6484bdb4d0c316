//! The largest logits of a row, where something else than the sampler has found them.
//!
//! A device that computes logits of a quarter of a million tokens finds the largest few faster than it hands all of
//! them over. They are enough where no other token can be chosen, and that can be said of them alone: every other logit
//! is at most the smallest of them, and no processor raises one.

use std::ops::Range;

use super::{SamplingParams, processors::LogitsByToken};

/// The largest logits of a row, in any order.
#[derive(Debug, Clone, Copy)]
pub struct TopLogits<'a> {
    /// Tokens `[k]`, each once.
    pub tokens: &'a [i64],
    /// Their logits `[k]`; no other token has a larger one than the smallest of these.
    pub logits: &'a [f32],
    /// `ln Σ exp(x)` over all logits of the row.
    pub log_sum_exp: f32,
    /// Number of logits of the row.
    pub vocab_size: usize,
}

/// [`TopLogits`] in the order of their tokens, so that whatever goes through them in order does as it would through
/// the whole row. Keeps its memory between rows.
#[derive(Debug, Default)]
pub(super) struct TopRow {
    ordered: Vec<(u32, f32)>,
    logits: Vec<f32>,
    bound: f32,
}

impl TopRow {
    /// Reads a row; tokens that are none of the vocabulary are left out.
    pub fn read(&mut self, top: TopLogits) {
        self.bound = top.logits.iter().copied().fold(f32::INFINITY, f32::min);
        let pairs = top.tokens.iter().zip(top.logits);
        self.ordered.clear();
        self.ordered.extend(pairs.filter_map(|(&token, &logit)| Some((u32::try_from(token).ok()?, logit))));
        self.ordered.sort_unstable_by_key(|&(token, _)| token);
        self.logits.clear();
        self.logits.extend(self.ordered.iter().map(|&(_, logit)| logit));
    }

    /// The logits as processors have left them, in the order of their tokens.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// No token that is missing here had a larger logit.
    pub fn bound(&self) -> f32 {
        self.bound
    }

    /// True when no token is missing.
    pub fn is_complete(&self, top: TopLogits) -> bool {
        self.ordered.len() >= top.vocab_size
    }

    /// What the tokens that are missing weigh together, beside one of logit `max`: at least and at most.
    ///
    /// At temperature 1 it is what the sum over all has beyond those that are here, less what processors lower. Of `n`
    /// weights of 1 at most, `Σ w^(1/T)` is at least `Σ w` and at most `n^(1 − 1/T) (Σ w)^(1/T)` for `T ≥ 1`, by
    /// Hölder's inequality; for `T < 1` it is at most `max(w)^(1/T − 1) Σ w`.
    pub fn weight_of_others(&self, top: TopLogits, max: f32, params: &SamplingParams) -> Range<f64> {
        /// The rounding of a sum over all logits in f32, relatively.
        const ROUNDING: f64 = 1e-4;
        let weight = |logit: f32| (f64::from(logit) - f64::from(max)).exp();
        let all = weight(top.log_sum_exp);
        let here: f64 = self.ordered.iter().map(|&(_, logit)| weight(logit)).sum();
        let (least, most) = (all * (1.0 - ROUNDING) - here, (all * (1.0 + ROUNDING) - here).max(0.0));
        let inverse = 1.0 / f64::from(params.temperature);
        if params.temperature < 1.0 {
            return 0.0..most * weight(self.bound).powf(inverse - 1.0);
        }
        let missing = top.vocab_size.saturating_sub(self.ordered.len()) as f64;
        let most = missing.powf(1.0 - inverse) * most.powf(inverse);
        let lowers = !params.leaves_logits() || self.bound > max;
        (if lowers { 0.0 } else { least.clamp(0.0, most) })..most
    }

    /// The token of logit `index`.
    pub fn token(&self, index: u32) -> Option<u32> {
        self.ordered.get(index as usize).map(|&(token, _)| token)
    }

    /// The logit of `token` as it was read.
    pub fn original(&self, token: u32) -> f32 {
        self.index(token).map_or(f32::NEG_INFINITY, |index| self.ordered[index].1)
    }

    fn index(&self, token: u32) -> Option<usize> {
        self.ordered.binary_search_by_key(&token, |&(token, _)| token).ok()
    }
}

impl LogitsByToken for TopRow {
    fn logit_mut(&mut self, token: u32) -> Option<&mut f32> {
        let index = self.index(token)?;
        self.logits.get_mut(index)
    }
}

#[cfg(test)]
mod tests;
