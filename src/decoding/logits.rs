//! Passes over the logits of one row, up to a quarter of a million values each.
//!
//! They are written over fixed lanes and compiled for several instruction sets; a call takes the best that the machine
//! has. All give the same bits: sums are formed in one order, and no product is fused with a sum.

use multiversion::multiversion;

/// Values handled side by side.
pub(super) const LANES: usize = 16;
/// Values that are summed up together, and of which the largest is known.
pub(super) const BLOCK: usize = 256;

/// Writes the largest logit of each block to `maxima`, `[logits.len().div_ceil(BLOCK)]`; NaN where one is NaN.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn block_maxima(logits: &[f32], maxima: &mut [f32]) {
    let (blocks, rest) = logits.as_chunks::<BLOCK>();
    for (block, maximum) in blocks.iter().zip(&mut *maxima) {
        *maximum = largest(block);
    }
    if let (Some(block), Some(maximum)) = (filled(rest), maxima.last_mut()) {
        *maximum = largest(&block);
    }
}

/// Writes what the tokens of each block weigh together to `sums`, `[logits.len().div_ceil(BLOCK)]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn block_sums(logits: &[f32], weight: Weight, sums: &mut [f32]) {
    let (blocks, rest) = logits.as_chunks::<BLOCK>();
    for (block, sum) in blocks.iter().zip(&mut *sums) {
        *sum = total(block, weight);
    }
    if let (Some(block), Some(sum)) = (filled(rest), sums.last_mut()) {
        *sum = total(&block, weight);
    }
}

#[inline(always)]
fn largest(block: &[f32; BLOCK]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    // Comparisons pass over NaN: its magnitude gives it away, which lies beyond infinity's.
    let mut magnitudes = [0; LANES];
    for chunk in block.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let x = chunk[lane];
            lanes[lane] = if x > lanes[lane] { x } else { lanes[lane] };
            magnitudes[lane] = magnitudes[lane].max(x.to_bits() & 0x7fff_ffff);
        }
    }
    if magnitudes.into_iter().fold(0, u32::max) > f32::INFINITY.to_bits() {
        return f32::NAN;
    }
    // The compiler may join integers in any order, and so does it side by side.
    let ordinals = lanes.map(|x| ordinal(x.to_bits().cast_signed()));
    f32::from_bits(ordinal(ordinals.into_iter().fold(i32::MIN, i32::max)).cast_unsigned())
}

/// The bits of a number as an integer that orders as the number does; and back.
#[inline(always)]
fn ordinal(bits: i32) -> i32 {
    bits ^ ((bits >> 31) & i32::MAX)
}

#[inline(always)]
fn total(block: &[f32; BLOCK], weight: Weight) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for chunk in block.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            lanes[lane] += weight.of(chunk[lane]);
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The last block, if it is not whole, filled up with what has no weight.
#[inline(always)]
fn filled(rest: &[f32]) -> Option<[f32; BLOCK]> {
    (!rest.is_empty()).then(|| {
        let mut block = [f32::NEG_INFINITY; BLOCK];
        block[..rest.len()].copy_from_slice(rest);
        block
    })
}

/// What a token weighs beside the most probable one: `exp((logit - max) / temperature)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    max: f32,
    /// For the power of two.
    scale: f32,
}

impl Weight {
    /// `max` is the largest logit.
    pub fn new(max: f32, temperature: f32) -> Self {
        Self { max, scale: std::f32::consts::LOG2_E / temperature }
    }

    /// In [0, 1]; 1 for the largest, 0 for negative infinity.
    #[inline(always)]
    pub fn of(self, logit: f32) -> f32 {
        exp2((logit - self.max) * self.scale)
    }
}

/// `2^x` for `x ≤ 0`, with a relative error below 2e-7; 0 from -126 down. Own arithmetic rather than the C library's,
/// so that it vectorises and gives the same bits everywhere.
#[inline(always)]
#[expect(clippy::approx_constant, reason = "the coefficients are the polynomial's own")]
fn exp2(x: f32) -> f32 {
    const MIN: f32 = -126.0;
    // Adding 1.5 · 2^23 leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    // Minimax polynomial of 2^r on [-1/2, 1/2] that is exact at 0.
    let mut p = 1.326_472_7e-3;
    p = p * r + 9.671_513e-3;
    p = p * r + 5.550_733_6e-2;
    p = p * r + 2.402_224_2e-1;
    p = p * r + 6.931_47e-1;
    p = p * r + 1.0;
    // The integer goes to the exponent.
    let y = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x > MIN { y } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_close_to_the_exact_value() {
        let mut x = 0.0_f32;
        while x > -126.0 {
            let exact = f64::from(x).exp2();
            let error = (f64::from(exp2(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "2^{x}: relative error {error}");
            x -= 0.0137;
        }
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(-126.0), 0.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
    }

    /// Logits that differ in all their bits, one block and a part of another.
    fn row(len: u32) -> Vec<f32> {
        (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 500_000.0 - 20.0).collect()
    }

    #[test]
    fn the_passes_give_the_bits_of_plain_loops() {
        for len in [1, 15, 16, 17, 255, 256, 257, 1000] {
            let logits = row(len);
            let weight = Weight::new(14.0, 0.7);
            let blocks = len.div_ceil(BLOCK as u32) as usize;
            let (mut maxima, mut sums) = (vec![0.0; blocks], vec![0.0; blocks]);
            block_maxima(&logits, &mut maxima);
            block_sums(&logits, weight, &mut sums);
            for (index, block) in logits.chunks(BLOCK).enumerate() {
                assert_eq!(maxima[index], block.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                let mut lanes = [0.0_f32; LANES];
                for (at, &logit) in block.iter().enumerate() {
                    lanes[at % LANES] += weight.of(logit);
                }
                let [a, b, c, d] =
                    [0, 1, 2, 3].map(|i| (lanes[i] + lanes[i + 8]) + (lanes[i + 4] + lanes[i + 12]));
                assert_eq!(sums[index].to_bits(), ((a + c) + (b + d)).to_bits(), "{len}");
            }
        }
    }

    #[test]
    fn a_block_with_nan_has_no_largest() {
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0xffff_ffff), f32::from_bits(0x7f80_0001)] {
            for at in [0, 15, 16, 255, 300] {
                let mut logits = vec![f32::NEG_INFINITY; 301];
                logits[at] = nan;
                let mut maxima = [0.0; 2];
                block_maxima(&logits, &mut maxima);
                let expected: [bool; 2] = std::array::from_fn(|index| at / BLOCK == index);
                assert_eq!(maxima.map(f32::is_nan), expected, "{nan:?} at {at}");
            }
        }
    }
}
