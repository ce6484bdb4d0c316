//! A row of logits block by block: one pass finds the largest logit of each block, and what follows looks only into
//! the blocks in which there is something to find.

use super::logits::{BLOCK, LANES, Weight, block_maxima, block_sums};

/// The largest logit and the lowest token that has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Peak {
    pub logit: f32,
    pub token: u32,
}

/// What is known of the blocks of a row. One serves all rows, one after the other; every method takes the row that
/// was read last.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// The largest logit of each.
    maxima: Vec<f32>,
    /// What its tokens weigh, once [`Blocks::weigh`] was called.
    sums: Vec<f32>,
}

impl Blocks {
    /// Reads a row. None when a logit is NaN or positive infinity, or when there is none at all. A row of negative
    /// infinities has its peak there.
    pub fn read(&mut self, logits: &[f32]) -> Option<Peak> {
        self.maxima.resize(logits.len().div_ceil(BLOCK), 0.0);
        block_maxima(logits, &mut self.maxima);
        self.peak(logits)
    }

    /// Reads again what has changed; `replaced` gives the tokens and the logits they had.
    pub fn reread(&mut self, logits: &[f32], replaced: impl Iterator<Item = (u32, f32)>) -> Option<Peak> {
        for (token, old) in replaced {
            let index = token as usize / BLOCK;
            let (Some(&new), Some(largest)) = (logits.get(token as usize), self.maxima.get_mut(index)) else {
                continue;
            };
            // Any other block keeps the largest that it has.
            if old == *largest || new > *largest || new.is_nan() {
                block_maxima(block(logits, index), std::slice::from_mut(largest));
            }
        }
        self.peak(logits)
    }

    fn peak(&self, logits: &[f32]) -> Option<Peak> {
        let (mut index, mut logit) = (0, *self.maxima.first()?);
        for (at, &largest) in self.maxima.iter().enumerate() {
            if largest.is_nan() || largest == f32::INFINITY {
                return None;
            }
            if largest > logit {
                (index, logit) = (at, largest);
            }
        }
        let offset = block(logits, index).iter().position(|&x| x == logit)?;
        Some(Peak { logit, token: u32::try_from(index * BLOCK + offset).ok()? })
    }

    /// What all tokens weigh together.
    pub fn weigh(&mut self, logits: &[f32], weight: Weight) -> f64 {
        self.sums.resize(logits.len().div_ceil(BLOCK), 0.0);
        block_sums(logits, weight, &mut self.sums);
        self.sums.iter().map(|&sum| f64::from(sum)).sum()
    }

    /// `ln Σ exp(x)`; `max` is the largest logit, and finite.
    pub fn log_sum(&mut self, logits: &[f32], max: f32) -> f64 {
        f64::from(max) + self.weigh(logits, Weight::new(max, 1.0)).ln()
    }

    /// The token with which the weights, added up in the order of the ids, exceed `target`, which is below what
    /// [`Blocks::weigh`] has found with the same `weight`.
    pub fn reach(&self, logits: &[f32], weight: Weight, target: f64) -> Option<u32> {
        let mut before = 0.0;
        let index = self.sums.iter().position(|&sum| {
            let exceeds = before + f64::from(sum) > target;
            before += if exceeds { 0.0 } else { f64::from(sum) };
            exceeds
        })?;
        let mut last = None;
        for (token, &logit) in (index * BLOCK..).zip(block(logits, index)) {
            let weight = f64::from(weight.of(logit));
            if weight > 0.0 {
                before += weight;
                last = u32::try_from(token).ok();
                if before > target {
                    break;
                }
            }
        }
        // The block's sum was rounded: when it is not reached after all, the last is closest.
        last
    }

    /// The `k`-th largest logit, equals counted each; negative infinity when there are fewer. `buffer` is scratch
    /// memory.
    pub fn kth_largest(&self, logits: &[f32], k: usize, buffer: &mut Vec<f32>) -> f32 {
        let Some(last) = k.checked_sub(1) else { return f32::INFINITY };
        let descending = |a: &f32, b: &f32| b.total_cmp(a);
        let mut threshold = f32::NEG_INFINITY;
        if k <= self.maxima.len() {
            // So many blocks have one as large, so that at least `k` logits reach it.
            buffer.clone_from(&self.maxima);
            threshold = *buffer.select_nth_unstable_by(last, descending).1;
        }
        let limit = k.saturating_mul(2).max(64);
        buffer.clear();
        for (index, &largest) in self.maxima.iter().enumerate() {
            let block = if largest > threshold { block(logits, index) } else { &[] };
            for chunk in block.chunks(LANES) {
                if !chunk.iter().fold(false, |any, &x| any | (x > threshold)) {
                    continue;
                }
                for &x in chunk {
                    if x > threshold {
                        buffer.push(x);
                        if buffer.len() >= limit {
                            threshold = *buffer.select_nth_unstable_by(last, descending).1;
                            buffer.truncate(k);
                        }
                    }
                }
            }
        }
        // When fewer exceed the threshold, the `k`-th is among those that equal it.
        if buffer.len() < k { threshold } else { *buffer.select_nth_unstable_by(last, descending).1 }
    }

    /// Calls `visit` with every token whose logit is at least `floor`, in order of their ids.
    pub fn for_each_from(&self, logits: &[f32], floor: f32, mut visit: impl FnMut(u32, f32)) {
        for (index, _) in self.maxima.iter().enumerate().filter(|&(_, &largest)| largest >= floor) {
            let mut token = (index * BLOCK) as u32;
            for chunk in block(logits, index).chunks(LANES) {
                if chunk.iter().fold(false, |any, &x| any | (x >= floor)) {
                    for (&x, token) in chunk.iter().zip(token..) {
                        if x >= floor {
                            visit(token, x);
                        }
                    }
                }
                token = token.wrapping_add(LANES as u32);
            }
        }
    }
}

/// `ln Σ exp(x)`; none for logits that have no distribution: NaN, positive infinity, or nothing but negative
/// infinities.
pub(super) fn log_sum_exp(logits: &[f32]) -> Option<f64> {
    let mut blocks = Blocks::default();
    let max = blocks.read(logits).map(|peak| peak.logit).filter(|&logit| logit > f32::NEG_INFINITY)?;
    Some(blocks.log_sum(logits, max))
}

fn block(logits: &[f32], index: usize) -> &[f32] {
    let start = index * BLOCK;
    logits.get(start..logits.len().min(start + BLOCK)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peak(logits: &[f32]) -> Option<Peak> {
        Blocks::default().read(logits)
    }

    fn read(logits: &[f32]) -> Blocks {
        let mut blocks = Blocks::default();
        blocks.read(logits);
        blocks
    }

    #[test]
    fn the_peak_is_the_first_of_equals_wherever_it_lies() {
        for len in [1, 15, 16, 17, 255, 256, 257, 5000] {
            for first in [0, len / 2, len - 1] {
                let mut logits = vec![-1.0; len];
                logits[first] = 3.0;
                logits[len - 1] = 3.0;
                assert_eq!(peak(&logits), Some(Peak { logit: 3.0, token: first as u32 }));
            }
        }
    }

    #[test]
    fn a_row_without_a_peak_is_noticed() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
            for at in [0, 15, 16, 1100, 2000] {
                let mut logits = vec![0.5; 2001];
                logits[at] = bad;
                assert_eq!(peak(&logits), None);
                assert_eq!(log_sum_exp(&logits), None);
            }
        }
        assert_eq!(peak(&[]), None);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), None);
    }

    #[test]
    fn log_sum_exp_of_a_large_flat_row() {
        let got = log_sum_exp(&vec![7.25; 250_112]).unwrap();
        assert!((got - (7.25 + 250_112_f64.ln())).abs() < 1e-6, "{got}");
    }

    proptest! {
        #[test]
        fn kth_largest_equals_sorting(
            values in prop::collection::vec((-20_i32..20).prop_map(|v| v as f32 / 2.0), 1..2000),
            k in prop_oneof![1_usize..12, 1_usize..2500],
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let expected = sorted.get(k - 1).copied().unwrap_or(f32::NEG_INFINITY);
            prop_assert_eq!(read(&values).kth_largest(&values, k, &mut Vec::new()), expected);
        }

        #[test]
        fn every_token_from_the_floor_is_visited(
            values in prop::collection::vec((-20_i32..20).prop_map(|v| v as f32 / 2.0), 1..2000),
            floor in -11_f32..11.0,
        ) {
            let expected: Vec<(u32, f32)> = (0..).zip(values.iter().copied()).filter(|&(_, x)| x >= floor).collect();
            let mut visited = Vec::new();
            read(&values).for_each_from(&values, floor, |token, x| visited.push((token, x)));
            prop_assert_eq!(visited, expected);
        }

        #[test]
        fn what_has_changed_is_read_again(
            values in prop::collection::vec((-20_i32..20).prop_map(|v| v as f32 / 2.0), 1..2000),
            changes in prop::collection::vec((0_usize..2000, prop_oneof![
                (-30_i32..30).prop_map(|v| v as f32 / 2.0), Just(f32::NEG_INFINITY), Just(f32::NAN)
            ]), 0..300),
        ) {
            let mut blocks = read(&values);
            let mut changed = values.clone();
            let replaced: Vec<(u32, f32)> = changes
                .iter()
                .filter(|&&(at, _)| at < values.len())
                .map(|&(at, new)| (at as u32, std::mem::replace(&mut changed[at], new)))
                .collect();
            prop_assert_eq!(blocks.reread(&changed, replaced.into_iter()), peak(&changed));
        }

        #[test]
        fn log_sum_exp_equals_the_plain_formula(values in prop::collection::vec(-60_f32..60.0, 1..3000)) {
            let max = values.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(f64::from(b)));
            let expected = max + values.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
            let got = log_sum_exp(&values).unwrap();
            prop_assert!((got - expected).abs() < 2e-6, "{} {}", got, expected);
        }

        #[test]
        fn weights_are_reached_in_order(
            values in prop::collection::vec(prop_oneof![-12_f32..0.0, Just(f32::NEG_INFINITY)], 1..2000),
            share in 0.0_f64..1.0,
        ) {
            let weight = Weight::new(0.0, 1.0);
            let mut blocks = read(&values);
            let target = share * blocks.weigh(&values, weight);
            let token = blocks.reach(&values, weight, target);
            prop_assert_eq!(token.is_some(), values.iter().any(|x| x.is_finite()));
            let Some(token) = token else { return Ok(()) };
            let sum = |end: usize| values[..end].iter().map(|&x| f64::from(x).exp()).sum::<f64>();
            prop_assert!(values[token as usize].is_finite());
            prop_assert!(sum(token as usize) <= target + 1e-3 && sum(token as usize + 1) >= target - 1e-3);
        }
    }
}
