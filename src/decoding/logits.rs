//! Passes over the logits of one row, up to a quarter of a million values each: written over fixed lanes so
//! that the compiler vectorises them, without reordering that depends on the machine.

/// Values handled side by side.
const LANES: usize = 16;
/// Values whose sum is kept in single precision, and whose maximum is located together.
const BLOCK: usize = 1024;

/// The largest logit and the lowest token that has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Peak {
    pub logit: f32,
    pub token: u32,
}

/// None when a logit is NaN or positive infinity, or when there is none at all. A row of negative infinities
/// has its peak there.
pub(super) fn peak(logits: &[f32]) -> Option<Peak> {
    let mut best = f32::NEG_INFINITY;
    let mut best_block = 0;
    let mut nan = false;
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut unordered = [0_u32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                let x = chunk[lane];
                lanes[lane] = if x > lanes[lane] { x } else { lanes[lane] };
                unordered[lane] |= u32::from(x.is_nan());
            }
        }
        for &x in rest {
            lanes[0] = if x > lanes[0] { x } else { lanes[0] };
            unordered[0] |= u32::from(x.is_nan());
        }
        nan |= unordered.iter().any(|&flag| flag != 0);
        let block_best = lanes.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        if block_best > best {
            best = block_best;
            best_block = index;
        }
    }
    if nan || best == f32::INFINITY {
        return None;
    }
    let start = best_block * BLOCK;
    let offset = logits.get(start..)?.iter().position(|&x| x == best)?;
    Some(Peak { logit: best, token: u32::try_from(start + offset).ok()? })
}

/// `exp(x)` for `x ≤ 0`, within two units in the last place; 0 below -87. Own arithmetic rather than the C
/// library's, so that it vectorises and gives the same bits everywhere.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    const MIN: f32 = -87.0;
    // Adding 1.5 · 2^23 leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let clamped = if x > MIN { x } else { MIN };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    // Cephes' minimax polynomial of (exp(r) - 1 - r) / r² on [-ln 2 / 2, ln 2 / 2].
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let mantissa = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let y = mantissa * f32::from_bits(exponent);
    if x > MIN { y } else { 0.0 }
}

/// `Σ exp((x - max) / temperature)`.
pub(super) fn sum_exp(logits: &[f32], max: f32, temperature: f32) -> f64 {
    let mut total = 0.0;
    for block in logits.chunks(BLOCK) {
        let mut lanes = [0.0_f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                lanes[lane] += exp((chunk[lane] - max) / temperature);
            }
        }
        for &x in rest {
            lanes[0] += exp((x - max) / temperature);
        }
        total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    }
    total
}

/// `ln Σ exp(x)`; none for logits that have no distribution: NaN, positive infinity, or nothing but negative
/// infinities.
pub(super) fn log_sum_exp(logits: &[f32]) -> Option<f64> {
    let max = peak(logits).map(|peak| peak.logit).filter(|&logit| logit > f32::NEG_INFINITY)?;
    Some(f64::from(max) + sum_exp(logits, max, 1.0).ln())
}

/// The `k`-th largest logit, equals counted each; negative infinity when fewer are above that. `buffer` is
/// scratch memory.
pub(super) fn kth_largest(logits: &[f32], k: usize, buffer: &mut Vec<f32>) -> f32 {
    let Some(last) = k.checked_sub(1) else { return f32::INFINITY };
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let limit = k.saturating_mul(2).max(64);
    let mut threshold = f32::NEG_INFINITY;
    buffer.clear();
    for chunk in logits.chunks(LANES) {
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
    if buffer.len() < k {
        return f32::NEG_INFINITY;
    }
    *buffer.select_nth_unstable_by(last, descending).1
}

/// Calls `visit` with every token whose logit is at least `floor`, in order of their ids.
pub(super) fn for_each_from(logits: &[f32], floor: f32, mut visit: impl FnMut(u32, f32)) {
    let mut token = 0_u32;
    for chunk in logits.chunks(LANES) {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exp_is_close_to_the_exact_value() {
        let mut x = 0.0_f32;
        while x > -86.9 {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}): relative error {error}");
            x -= 0.0137;
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-87.5), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn the_peak_is_the_first_of_equals_wherever_it_lies() {
        for len in [1, 15, 16, 17, 1023, 1024, 1025, 5000] {
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
        for bad in [f32::NAN, f32::INFINITY] {
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
            values in prop::collection::vec((-20_i32..20).prop_map(|v| v as f32 / 2.0), 1..400),
            k in 1_usize..500,
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let expected = sorted.get(k - 1).copied().unwrap_or(f32::NEG_INFINITY);
            prop_assert_eq!(kth_largest(&values, k, &mut Vec::new()), expected);
        }

        #[test]
        fn log_sum_exp_equals_the_plain_formula(values in prop::collection::vec(-60_f32..60.0, 1..3000)) {
            let max = values.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(f64::from(b)));
            let expected = max + values.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
            let got = log_sum_exp(&values).unwrap();
            prop_assert!((got - expected).abs() < 2e-6, "{} {}", got, expected);
        }
    }
}
