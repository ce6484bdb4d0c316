//! Norm and rotation of one query or key head.

use super::isa::{dispatch, multiply_add};

/// RMS norm of a head.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorm<'a> {
    /// `[head_dim]`
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

dispatch! {
    /// `head = head · weight / √(mean square + ε)`
    pub fn normalize_head(head: &mut [f32], norm: HeadNorm<'_>) = normalize_head_body
}

#[inline(always)]
fn normalize_head_body<const FMA: bool>(head: &mut [f32], norm: HeadNorm<'_>) {
    let mut squares = [0.0f32; 16];
    let (chunks, tail) = head.as_chunks::<16>();
    for chunk in chunks {
        for lane in 0..16 {
            squares[lane] = multiply_add::<FMA>(chunk[lane], chunk[lane], squares[lane]);
        }
    }
    let sum = squares.into_iter().sum::<f32>() + tail.iter().map(|value| value * value).sum::<f32>();
    let inverse = 1.0 / (sum / head.len() as f32 + norm.epsilon).sqrt();
    for (value, weight) in head.iter_mut().zip(norm.weight) {
        *value = *value * inverse * weight;
    }
}

dispatch! {
    /// Rotates the pairs `(i, i + pairs)` of a head by the angles whose cosines and sines are given, `pairs` each.
    pub fn rotate_head(head: &mut [f32], cosines: &[f32], sines: &[f32]) = rotate_head_body
}

#[inline(always)]
fn rotate_head_body<const FMA: bool>(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let pairs = cosines.len();
    let (first, second) = head[..2 * pairs].split_at_mut(pairs);
    for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        let (x, y) = (*a, *b);
        *a = x * cosine - y * sine;
        *b = y * cosine + x * sine;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_swaps_the_halves_and_leaves_the_rest() {
        let mut head = [1.0, 2.0, 3.0, 4.0, 9.0];
        rotate_head(&mut head, &[0.0, 0.0], &[1.0, 1.0]);
        assert_eq!(head, [-3.0, -4.0, 1.0, 2.0, 9.0]);
    }

    #[test]
    fn a_norm_has_the_weight_for_its_root_mean_square() {
        let mut head: Vec<f32> = (0..37).map(|value| value as f32 - 11.0).collect();
        let weight = [2.0; 37];
        normalize_head(&mut head, HeadNorm { weight: &weight, epsilon: 0.0 });
        let mean = head.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / 37.0;
        assert!((mean - 4.0).abs() < 1e-5, "{mean}");
    }
}
