//! Per-row dynamic quantization.

use super::isa::{dispatch, multiply_add};

/// Adding it leaves the rounded value plus the zero point 128 in the low byte of the float's bits.
const ROUND_TO_U8: f32 = 12_582_912.0 + 128.0;

dispatch! {
    /// Quantizes one row: `x ≈ (q − 128) · scale` with `scale = max|x| / 127`; a zero row has scale 0.
    /// A row with NaN or infinity has scale NaN, so that the fault shows in that row's logits.
    /// `x` and `q` have the same length.
    pub fn quantize_row(x: &[f32], q: &mut [u8], scale: &mut f32) = quantize_row_body
}

#[inline(always)]
fn quantize_row_body<const FMA: bool>(x: &[f32], q: &mut [u8], scale: &mut f32) {
    let mut lanes = [0.0f32; 16];
    // 0 for every finite number, NaN otherwise: a comparison alone would lose a NaN.
    let mut poison = [0.0f32; 16];
    let (chunks, tail) = x.as_chunks::<16>();
    for chunk in chunks {
        for lane in 0..16 {
            let magnitude = chunk[lane].abs();
            lanes[lane] = if magnitude > lanes[lane] { magnitude } else { lanes[lane] };
            poison[lane] = multiply_add::<FMA>(chunk[lane], 0.0, poison[lane]);
        }
    }
    let mut largest = lanes.into_iter().fold(0.0f32, f32::max);
    let mut poisoned: f32 = poison.into_iter().sum();
    for value in tail {
        largest = largest.max(value.abs());
        poisoned += value * 0.0;
    }
    if poisoned.is_nan() {
        q.fill(128);
        *scale = f32::NAN;
        return;
    }
    *scale = largest / 127.0;
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    // The inverse of a subnormal maximum overflows; such a row is as good as zero.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    for (q, value) in q.iter_mut().zip(x) {
        *q = (value * inverse + ROUND_TO_U8).to_bits() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_and_keeps_the_extremes() {
        let x: Vec<f32> = (-100..=100).map(|value| value as f32 * 0.37).collect();
        let (mut q, mut scale) = (vec![0; x.len()], 0.0);
        quantize_row(&x, &mut q, &mut scale);
        assert_eq!((q[0], q[100], q[200]), (1, 128, 255));
        for (q, x) in q.iter().zip(&x) {
            assert!(((f32::from(*q) - 128.0) * scale - x).abs() <= scale * 0.5001, "{x}");
        }
    }

    #[test]
    fn a_zero_row_stays_zero_and_a_bad_row_shows() {
        let (mut q, mut scale) = (vec![0; 20], 1.0);
        quantize_row(&[0.0; 20], &mut q, &mut scale);
        assert!(q.iter().all(|&q| q == 128) && scale == 0.0);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = [1.0; 20];
            x[7] = bad;
            quantize_row(&x, &mut q, &mut scale);
            assert!(scale.is_nan(), "{bad}");
            x[7] = 1.0;
            x[19] = bad;
            quantize_row(&x, &mut q, &mut scale);
            assert!(scale.is_nan(), "{bad} in the tail");
        }
    }
}
