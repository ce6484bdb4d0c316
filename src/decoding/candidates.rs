//! The tokens that may be drawn: temperature, top-k, top-p and min-p, in this order, as Hugging Face
//! `generate()` applies them.

use std::ops::Range;

use super::{SamplingParams, blocks::Blocks, logits::Weight};

/// A token that survived truncation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub token: u32,
    /// Its probability, divided by that of the most probable token: in (0, 1].
    pub weight: f32,
}

/// Buffers that keep their memory between rows.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Ordered by token.
    kept: Vec<Candidate>,
    ranking: Vec<Candidate>,
    /// Sum of the weights of each bin.
    bins: Vec<f64>,
    values: Vec<f32>,
}

impl Candidates {
    /// Finds the candidates of `logits`, which `blocks` has read; the largest is `max` and finite. Tokens that are not
    /// among them and cannot be chosen weigh `others` together.
    pub fn select(
        &mut self,
        params: &SamplingParams,
        logits: &[f32],
        blocks: &mut Blocks,
        max: f32,
        others: f64,
    ) -> &[Candidate] {
        let weight = Weight::new(max, params.temperature);
        let top_p = f64::from(params.top_p);
        let nucleus = params.top_p < 1.0;
        if params.top_k > 0 && params.top_k < logits.len() {
            let floor = self.kth_largest(params.top_k, logits, blocks);
            let total = self.keep_from(floor, logits, blocks, weight);
            if nucleus {
                self.keep_nucleus(top_p * total);
            }
        } else if nucleus {
            let total = blocks.weigh(logits, weight);
            let target = top_p * (total + others);
            // All tokens lighter than `least` weigh less together than top-p cuts off if they are at most `tokens`.
            // Of the whole vocabulary that is certain; a smaller number most often does, and keeps few.
            for tokens in [logits.len().min(1024), logits.len()] {
                let least = f64::from(params.min_p).max(0.99 * (total - target) / tokens as f64);
                let floor = logit_below(least, max, params.temperature);
                if self.keep_from(floor, logits, blocks, weight) >= target {
                    break;
                }
            }
            self.keep_nucleus(target);
        } else {
            let floor = self.min_p_floor(params, max);
            self.keep_from(floor, logits, blocks, weight);
        }
        if params.min_p > 0.0 {
            self.kept.retain(|candidate| candidate.weight >= params.min_p);
        }
        &self.kept
    }

    /// A logit below all that min-p keeps where the largest is `max`.
    pub fn min_p_floor(&self, params: &SamplingParams, max: f32) -> f32 {
        logit_below(f64::from(params.min_p), max, params.temperature)
    }

    /// The `k`-th largest of `logits`, which `blocks` has read.
    pub fn kth_largest(&mut self, k: usize, logits: &[f32], blocks: &Blocks) -> f32 {
        blocks.kth_largest(logits, k, &mut self.values)
    }

    /// The least logit that top-p keeps of `logits`, which `blocks` has read, where others weigh `rest` together, whatever
    /// of that range it is. None if it matters.
    pub fn nucleus_floor(
        &mut self,
        params: &SamplingParams,
        logits: &[f32],
        blocks: &Blocks,
        max: f32,
        rest: Range<f64>,
    ) -> Option<f32> {
        /// More than sums in another order can differ, relatively.
        const ROUNDING: f64 = 1e-4;
        let weight = Weight::new(max, params.temperature);
        let total = self.keep_from(f32::NEG_INFINITY, logits, blocks, weight);
        self.kept.sort_unstable_by(|a, b| b.weight.total_cmp(&a.weight));
        let top_p = f64::from(params.top_p);
        let least = top_p * (total + rest.start) * (1.0 - ROUNDING);
        let most = top_p * (total + rest.end) * (1.0 + ROUNDING);
        let mut sum = 0.0;
        // Whether the first that reaches the least target reaches the greatest as well.
        let last = self.kept.iter().find(|candidate| {
            sum += f64::from(candidate.weight);
            sum >= least
        })?;
        (sum >= most).then(|| logits.get(last.token as usize).copied())?
    }

    /// Keeps the tokens from `floor` on; returns what they weigh together.
    fn keep_from(&mut self, floor: f32, logits: &[f32], blocks: &Blocks, weight: Weight) -> f64 {
        let mut total = 0.0;
        self.kept.clear();
        blocks.for_each_from(logits, floor, |token, logit| {
            let weight = weight.of(logit);
            if weight > 0.0 {
                total += f64::from(weight);
                self.kept.push(Candidate { token, weight });
            }
        });
        total
    }

    /// Keeps the smallest set of heaviest candidates whose weights reach `target`; the lower id goes first
    /// among equals.
    fn keep_nucleus(&mut self, target: f64) {
        // Coarsely by weight first, so that only those at the border need sorting.
        self.bins.clear();
        self.bins.resize(bin(1.0) + 1, 0.0);
        for candidate in &self.kept {
            self.bins[bin(candidate.weight)] += f64::from(candidate.weight);
        }
        let mut missing = target;
        let border = self.bins.iter().rposition(|&sum| {
            let reaches = sum >= missing;
            missing -= if reaches { 0.0 } else { sum };
            reaches
        });
        let Some(border) = border else { return };
        self.ranking.clear();
        self.ranking.extend(self.kept.iter().filter(|candidate| bin(candidate.weight) == border));
        let heaviest_first =
            |a: &Candidate, b: &Candidate| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token));
        self.ranking.sort_unstable_by(heaviest_first);
        let last = self.ranking.iter().find(|candidate| {
            missing -= f64::from(candidate.weight);
            missing <= 0.0
        });
        if let Some(&last) = last.or(self.ranking.last()) {
            self.kept.retain(|candidate| heaviest_first(candidate, &last).is_le());
        }
    }
}

/// Number of the bin of a weight, which lies in (0, 1]: heavier ones have higher numbers, and a bin ends about 3 %
/// above its beginning.
fn bin(weight: f32) -> usize {
    (weight.to_bits() >> 18) as usize
}

/// A logit that surely weighs less than `weight`, whatever the rounding; negative infinity for weight 0.
fn logit_below(weight: f64, max: f32, temperature: f32) -> f32 {
    let logit = f64::from(max) + f64::from(temperature) * (weight.ln() - 1e-3);
    (logit - logit.abs() * 1e-6) as f32
}
