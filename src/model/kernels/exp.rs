//! A vectorisable exponential.

use super::isa::multiply_add;

/// Adding and subtracting it rounds an f32 of moderate size to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, the first exact in few bits, after Cody and Waite.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `e^x` for `x ≤ 0`, within 2 units in the last place; results below 1e-37 flush to about that.
/// Range reduction by powers of two and a minimax polynomial of degree 6 on [−ln 2 / 2, ln 2 / 2] (Cephes).
#[inline(always)]
pub fn exp_nonpositive<const FMA: bool>(x: f32) -> f32 {
    let x = if x > -85.0 { x } else { -85.0 };
    let shifted = multiply_add::<FMA>(x, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = multiply_add::<FMA>(n, -LN_2_HIGH, x);
    let r = multiply_add::<FMA>(n, -LN_2_LOW, r);
    let mut p = 1.987_569_1e-4;
    p = multiply_add::<FMA>(p, r, 1.398_199_9e-3);
    p = multiply_add::<FMA>(p, r, 8.333_452e-3);
    p = multiply_add::<FMA>(p, r, 4.166_579_6e-2);
    p = multiply_add::<FMA>(p, r, 1.666_666_5e-1);
    p = multiply_add::<FMA>(p, r, 5.0e-1);
    let p = multiply_add::<FMA>(p, r * r, r + 1.0);
    // `shifted` holds n in its low bits; moving them to the exponent multiplies by 2^n.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    p * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_library_over_its_range() {
        for step in 0..=80_000 {
            let x = -(step as f32) / 1000.0;
            let (got, expected) = (exp_nonpositive::<false>(x), f64::from(x).exp());
            assert!(
                (f64::from(got) - expected).abs() <= expected * 3e-7,
                "e^{x}: got {got}, expected {expected}"
            );
        }
    }
}
