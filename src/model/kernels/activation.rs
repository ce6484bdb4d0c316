//! Activations, element by element.

use textgen_artifact::ops::Activation;

use super::{exp::exp_nonpositive, isa::multiply_add};

/// Activates `values`.
#[inline(always)]
pub fn activate<const FMA: bool>(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Relu => {
            for x in values {
                // A NaN stays one.
                *x = if *x < 0.0 { 0.0 } else { *x };
            }
        }
        Activation::Silu => {
            for x in values {
                *x *= sigmoid::<FMA>(*x);
            }
        }
        Activation::GeluTanh => {
            // (1 + tanh u) / 2 = sigmoid(2u)
            const TWICE_ROOT: f32 = 1.595_769; // 2 √(2/π)
            for x in values {
                let cubic = multiply_add::<FMA>(0.044_715 * *x * *x, *x, *x);
                *x *= sigmoid::<FMA>(TWICE_ROOT * cubic);
            }
        }
        Activation::GeluErf => {
            for x in values {
                let erf = erf::<FMA>(*x * std::f32::consts::FRAC_1_SQRT_2);
                *x *= 0.5 * (1.0 + erf);
            }
        }
    }
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let weight = exp_nonpositive::<FMA>(-x.abs());
    // The exponential never quite reaches 0, which a huge factor would show.
    let small = if x < -80.0 { 0.0 } else { weight };
    let sigmoid = if x < 0.0 { small } else { 1.0 } / (1.0 + weight);
    if x.is_nan() { x } else { sigmoid }
}

/// Abramowitz and Stegun 7.1.26: off by 1.5e-7 at most.
#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    let size = x.abs();
    let t = 1.0 / multiply_add::<FMA>(0.327_591_1, size, 1.0);
    let mut p = 1.061_405_4;
    for factor in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = multiply_add::<FMA>(p, t, factor);
    }
    let erf = 1.0 - p * t * exp_nonpositive::<FMA>(-size * size);
    if x.is_nan() { x } else { erf.copysign(x) }
}

/// The formulas, in double precision.
#[cfg(test)]
pub fn plain_activation(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::GeluErf => {
            // ∫ by Simpson's rule.
            let (end, parts) = ((x / 2.0f64.sqrt()).abs().min(6.0), 2000);
            let width = end / f64::from(parts);
            let f = |index: i32| (-(f64::from(index) * width).powi(2)).exp();
            let inner: f64 = (1..parts).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
            let integral = (f(0) + inner + f(parts)) * width / 3.0;
            let erf = (2.0 / std::f64::consts::PI.sqrt() * integral).copysign(x);
            0.5 * x * (1.0 + erf)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Activation; 4] =
        [Activation::Relu, Activation::Silu, Activation::GeluTanh, Activation::GeluErf];

    #[test]
    fn agree_with_their_formulas() {
        for activation in ALL {
            for step in -4000..=4000 {
                let x = step as f32 / 200.0;
                let mut got = [x];
                activate::<false>(activation, &mut got);
                let expected = plain_activation(activation, f64::from(x));
                assert!(
                    (f64::from(got[0]) - expected).abs() < 2e-6,
                    "{activation:?}({x}): {} {expected}",
                    got[0]
                );
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so_and_what_is_huge_stays_finite() {
        for activation in ALL {
            let mut values = [f32::NAN, -1e38, 1e38];
            activate::<false>(activation, &mut values);
            assert!(values[0].is_nan(), "{activation:?}");
            assert_eq!(values[1..], [-0.0, 1e38], "{activation:?}");
        }
    }
}
