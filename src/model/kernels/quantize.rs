//! Per-row dynamic quantization.

use super::isa::{dispatch, multiply_add};

/// Largest magnitude of a quantized value.
const LIMIT: f32 = 127.0;
/// What stands for 0.
pub const ZERO_POINT: u8 = 128;
/// Adding it leaves the rounded value plus the zero point in the low byte of the float's bits.
const ROUND_TO_U8: f32 = 12_582_912.0 + ZERO_POINT as f32;

dispatch! {
    /// Quantizes one row: `x ≈ (q − 128) · scale` with `scale = max|x| / 127`, at most `clip · rms(x) / 127`
    /// when `clip` is above 0; what lies beyond becomes ±127. A zero row has scale 0. A row with NaN or
    /// infinity has scale NaN, so that the fault shows in that row's logits. `x` and `q` have the same length.
    pub fn quantize_row(x: &[f32], clip: f32, q: &mut [u8], scale: &mut f32) = quantize_row_body
}

#[inline(always)]
fn quantize_row_body<const FMA: bool>(x: &[f32], clip: f32, q: &mut [u8], scale: &mut f32) {
    let mut lanes = [0.0f32; 16];
    // Also the guard against NaN and infinity: a comparison alone would lose a NaN.
    let mut squares = [0.0f32; 16];
    let (chunks, tail) = x.as_chunks::<16>();
    for chunk in chunks {
        for lane in 0..16 {
            let magnitude = chunk[lane].abs();
            lanes[lane] = if magnitude > lanes[lane] { magnitude } else { lanes[lane] };
            squares[lane] = multiply_add::<FMA>(chunk[lane], chunk[lane], squares[lane]);
        }
    }
    let mut largest = lanes.into_iter().fold(0.0f32, f32::max);
    let mut sum: f32 = squares.into_iter().sum();
    for value in tail {
        largest = largest.max(value.abs());
        sum += value * value;
    }
    // The square of a large finite number is infinite; such a row is not clipped, and not at fault either.
    if sum.is_nan() || (sum.is_infinite() && x.iter().any(|value| !value.is_finite())) {
        q.fill(ZERO_POINT);
        *scale = f32::NAN;
        return;
    }
    if clip > 0.0 && sum.is_finite() {
        largest = largest.min(clip * (sum / x.len() as f32).sqrt());
    }
    *scale = largest / LIMIT;
    let inverse = if largest > 0.0 { LIMIT / largest } else { 0.0 };
    // The inverse of a subnormal maximum overflows; such a row is as good as zero.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    for (q, value) in q.iter_mut().zip(x) {
        let scaled = value * inverse;
        let scaled = if scaled > LIMIT { LIMIT } else { scaled };
        let scaled = if scaled < -LIMIT { -LIMIT } else { scaled };
        *q = (scaled + ROUND_TO_U8).to_bits() as u8;
    }
}

/// Values of a row of `inputs` that [`quantize_row`] can cut off, at most: more beyond `clip` times the root mean
/// square would make that larger.
pub fn cut_off_room(inputs: usize, clip: f32) -> usize {
    if clip > 0.0 {
        // A little more, since the mean square is rounded.
        let most = 1.01 * inputs as f32 / (clip * clip) + 1.0;
        inputs.min(most as usize)
    } else {
        0
    }
}

dispatch! {
    /// Writes what [`quantize_row`] cut off a row at this scale, input and value, to the front of `cut_off`, which has
    /// [`cut_off_room`], and how many there are to `count`.
    pub fn collect_cut_off(x: &[f32], scale: f32, cut_off: &mut [(u32, f32)], count: &mut usize) = collect_cut_off_body
}

#[inline(always)]
fn collect_cut_off_body<const FMA: bool>(
    x: &[f32],
    scale: f32,
    cut_off: &mut [(u32, f32)],
    count: &mut usize,
) {
    const CHUNK: usize = 64;
    let limit = LIMIT * scale;
    // Within rounding of the limit nothing was cut. Of a row that is NaN, there is nothing to save.
    let reach = limit * (1.0 + 1e-6);
    // Where squares vanish the limit is 0 and all of a row would be cut off: no room, and nothing lost.
    let mut places = cut_off.iter_mut();
    *count = 0;
    for (index, chunk) in x.chunks(CHUNK).enumerate() {
        if chunk.iter().fold(false, |any, value| any | (value.abs() > reach)) {
            for (lane, &value) in chunk.iter().enumerate().filter(|(_, value)| value.abs() > reach) {
                let Some(place) = places.next() else { return };
                *place = ((CHUNK * index + lane) as u32, value - limit.copysign(value));
                *count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_and_keeps_the_extremes() {
        let x: Vec<f32> = (-100..=100).map(|value| value as f32 * 0.37).collect();
        let (mut q, mut scale) = (vec![0; x.len()], 0.0);
        quantize_row(&x, 0.0, &mut q, &mut scale);
        assert_eq!((q[0], q[100], q[200]), (1, 128, 255));
        for (q, x) in q.iter().zip(&x) {
            assert!(((f32::from(*q) - 128.0) * scale - x).abs() <= scale * 0.5001, "{x}");
        }
    }

    #[test]
    fn an_outlier_is_cut_off_and_the_rest_keeps_its_resolution() {
        let mut x: Vec<f32> = (0..400).map(|value| ((value * 37 % 101) as f32 - 50.0) / 50.0).collect();
        x[7] = -300.0;
        let (mut q, mut scale) = (vec![0; x.len()], 0.0);
        quantize_row(&x, 4.0, &mut q, &mut scale);
        assert_eq!(q[7], 1);
        let rms = (x.iter().map(|value| value * value).sum::<f32>() / x.len() as f32).sqrt();
        assert!((scale - 4.0 * rms / 127.0).abs() < 1e-5);
        let cut = cut_off(&x, scale);
        assert_eq!(cut.len(), 1);
        assert_eq!(cut[0].0, 7);
        for (index, (q, &x)) in q.iter().zip(&x).enumerate() {
            let restored = (f32::from(*q) - 128.0) * scale + if index == 7 { cut[0].1 } else { 0.0 };
            assert!((restored - x).abs() <= scale * 0.5001, "{x} became {restored}");
        }
    }

    fn cut_off(x: &[f32], scale: f32) -> Vec<(u32, f32)> {
        let (mut cut_off, mut count) = (vec![(0, 0.0); cut_off_room(x.len(), 4.0)], 0);
        collect_cut_off(x, scale, &mut cut_off, &mut count);
        cut_off.truncate(count);
        cut_off
    }

    #[test]
    fn as_many_outliers_as_can_be_have_room() {
        for clip in [1.5f32, 4.0] {
            // All of one size, and the rest nothing: one more, and none would be an outlier.
            let outliers = (128.0 / (clip * clip)).ceil() as usize - 1;
            let mut x = vec![0.0; 128];
            x[..outliers].fill(1.0);
            let (mut q, mut scale) = (vec![0; x.len()], 0.0);
            quantize_row(&x, clip, &mut q, &mut scale);
            let (mut cut_off, mut count) = (vec![(0, 0.0); cut_off_room(x.len(), clip)], 0);
            collect_cut_off(&x, scale, &mut cut_off, &mut count);
            assert_eq!(count, outliers);
        }
        // Squares that vanish.
        assert!(cut_off(&[1e-30; 100], 0.0).len() < 100);
    }

    #[test]
    fn a_row_within_the_clip_is_quantized_as_without() {
        let x: Vec<f32> = (0..64).map(|value| (value as f32 * 0.7).sin()).collect();
        let [mut plain, mut clipped] = [vec![0; 64], vec![0; 64]];
        let [mut scale, mut clipped_scale] = [0.0; 2];
        quantize_row(&x, 0.0, &mut plain, &mut scale);
        quantize_row(&x, 4.0, &mut clipped, &mut clipped_scale);
        assert_eq!((plain, scale), (clipped, clipped_scale));
        assert!(cut_off(&x, scale).is_empty() && cut_off(&[1.0, f32::NAN], f32::NAN).is_empty());
    }

    #[test]
    fn a_zero_row_stays_zero_and_a_bad_row_shows() {
        for clip in [0.0, 4.0] {
            let (mut q, mut scale) = (vec![0; 20], 1.0);
            quantize_row(&[0.0; 20], clip, &mut q, &mut scale);
            assert!(q.iter().all(|&q| q == 128) && scale == 0.0);
            for bad in [f32::NAN, f32::INFINITY] {
                let mut x = [1.0; 20];
                x[7] = bad;
                quantize_row(&x, clip, &mut q, &mut scale);
                assert!(scale.is_nan(), "{bad}");
                x[7] = 1.0;
                x[19] = bad;
                quantize_row(&x, clip, &mut q, &mut scale);
                assert!(scale.is_nan(), "{bad} in the tail");
            }
            quantize_row(&[1e30; 20], clip, &mut q, &mut scale);
            assert!(scale.is_finite() && q.iter().all(|&q| q == 255), "squares overflow, the row does not");
        }
    }
}
