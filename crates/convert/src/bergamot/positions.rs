//! The fixed positions of Marian's transformers.

use std::f32::consts::LN_10;

/// Positions in the tables, hence the longest source and target. Marian computes them without end; models are
/// trained on far shorter texts.
pub const MAX_POSITIONS: usize = 1024;

/// `[MAX_POSITIONS, d_model]`: `[sin(p · w_j) | cos(p · w_j)]`, `w_j = exp(−j · ln 10000 / (d_model / 2 − 1))`;
/// in f32 throughout, as Marian.
pub fn table(d_model: usize) -> Vec<f32> {
    let half = d_model / 2;
    let increment = 4.0 * LN_10 / (half as f32 - 1.0);
    let frequencies: Vec<f32> = (0..half).map(|j| (j as f32 * -increment).exp()).collect();
    let mut table = Vec::with_capacity(MAX_POSITIONS * d_model);
    for position in 0..MAX_POSITIONS {
        let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
        table.extend(angles.clone().map(f32::sin));
        table.extend(angles.map(f32::cos));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sines_come_before_cosines_and_frequencies_span_four_decades() {
        let table = table(8);
        assert_eq!(table[..8], [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        let second = &table[8..16];
        for (j, frequency) in [1.0_f32, 0.046_415_888, 0.002_154_434_7, 1e-4].into_iter().enumerate() {
            assert!((second[j] - frequency.sin()).abs() < 1e-6);
            assert!((second[4 + j] - frequency.cos()).abs() < 1e-6);
        }
    }
}
