//! The tokens that may be drawn: temperature, top-k, top-p and min-p, in this order, as Hugging Face
//! `generate()` applies them.

use super::{
    SamplingParams,
    logits::{exp, for_each_from, kth_largest, sum_exp},
};

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
    values: Vec<f32>,
}

impl Candidates {
    /// Finds the candidates of `logits`, whose largest is `max` and finite.
    pub fn select(&mut self, params: &SamplingParams, logits: &[f32], max: f32) -> &[Candidate] {
        let temperature = params.temperature;
        let truncates = params.top_k > 0 && params.top_k < logits.len();
        let nucleus = params.top_p < 1.0;
        // Of the whole vocabulary; the candidates' own sum when top-k has truncated it.
        let mut total = None;
        let floor = if truncates {
            kth_largest(logits, params.top_k, &mut self.values)
        } else {
            // Min-p comes last, but what it drops ranks below all that it keeps: no need to rank it.
            let mut weight = f64::from(params.min_p);
            if nucleus {
                // The tokens below this weight together weigh less than top-p cuts off: none of them survives.
                let sum = sum_exp(logits, max, temperature);
                weight = weight.max(0.99 * (1.0 - f64::from(params.top_p)) * sum / logits.len() as f64);
                total = Some(sum);
            }
            logit_below(weight, max, temperature)
        };

        self.kept.clear();
        for_each_from(logits, floor, |token, logit| {
            let weight = exp((logit - max) / temperature);
            if weight > 0.0 {
                self.kept.push(Candidate { token, weight });
            }
        });
        if nucleus {
            let total = total.unwrap_or_else(|| self.kept.iter().map(|c| f64::from(c.weight)).sum());
            self.keep_nucleus(f64::from(params.top_p) * total);
        }
        if params.min_p > 0.0 {
            self.kept.retain(|candidate| candidate.weight >= params.min_p);
        }
        &self.kept
    }

    /// Keeps the smallest set of heaviest candidates whose weights reach `target`; the lower id goes first
    /// among equals.
    fn keep_nucleus(&mut self, target: f64) {
        /// Below this many, sorting is faster than another split.
        const SORTED: usize = 64;
        let heaviest_first =
            |a: &Candidate, b: &Candidate| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token));
        self.ranking.clone_from(&self.kept);
        let mut open = self.ranking.as_mut_slice();
        let mut missing = target;
        // The last candidate to keep is in `open`; what ranks before `open` is `missing` short of the target.
        while open.len() > SORTED {
            let middle = open.len() / 2;
            open.select_nth_unstable_by(middle, heaviest_first);
            let (upper, lower) = std::mem::take(&mut open).split_at_mut(middle);
            let weight: f64 = upper.iter().map(|c| f64::from(c.weight)).sum();
            open = if weight >= missing {
                upper
            } else {
                missing -= weight;
                lower
            };
        }
        open.sort_unstable_by(heaviest_first);
        let last = open.iter().find(|candidate| {
            missing -= f64::from(candidate.weight);
            missing <= 0.0
        });
        if let Some(&last) = last {
            self.kept.retain(|candidate| heaviest_first(candidate, &last).is_le());
        }
    }
}

/// A logit that surely weighs less than `weight`, whatever the rounding; negative infinity for weight 0.
fn logit_below(weight: f64, max: f32, temperature: f32) -> f32 {
    let logit = f64::from(max) + f64::from(temperature) * (weight.ln() - 1e-3);
    (logit - logit.abs() * 1e-6) as f32
}
