//! Rotary position embeddings: cosines and sines by position, computed once for all layers and steps.

use std::ops::Range;

use textgen_artifact::RotarySpec;

use crate::error::{Error, Result};

/// Cosines, then sines, of each position.
pub struct RotaryTable {
    inverse_frequencies: Vec<f32>,
    magnitude: f32,
    /// `[positions, width]`
    rows: Vec<f32>,
}

impl RotaryTable {
    /// No position yet.
    pub fn new(spec: &RotarySpec) -> Self {
        Self {
            inverse_frequencies: spec.inverse_frequencies.clone(),
            magnitude: spec.magnitude,
            rows: Vec::new(),
        }
    }

    /// Elements of one position.
    pub fn width(&self) -> usize {
        2 * self.inverse_frequencies.len()
    }

    /// Makes the table hold positions `0 .. positions`.
    pub fn extend_to(&mut self, positions: usize) {
        self.rows.reserve_exact(positions * self.width() - self.rows.len().min(positions * self.width()));
        for position in self.rows.len() / self.width()..positions {
            // The angle is rounded to f32 as the checkpoints' own code does.
            let angle = |frequency: &f32| f64::from(position as f32 * frequency);
            let magnitude = f64::from(self.magnitude);
            let [cosines, sines] = [f64::cos, f64::sin].map(|function| {
                self.inverse_frequencies
                    .iter()
                    .map(move |frequency| (function(angle(frequency)) * magnitude) as f32)
            });
            self.rows.extend(cosines.chain(sines));
        }
    }

    /// Appends the rows of `positions` to `values`.
    pub fn append(&self, positions: Range<usize>, values: &mut Vec<f32>) -> Result<()> {
        let rows =
            self.rows.get(positions.start * self.width()..positions.end * self.width()).ok_or_else(|| {
                Error::internal(format!("positions {positions:?} are beyond the reserved context"))
            })?;
        values.extend_from_slice(rows);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_cosines_then_sines() {
        let spec = RotarySpec { inverse_frequencies: vec![1.0, 0.5], magnitude: 2.0 };
        let mut table = RotaryTable::new(&spec);
        table.extend_to(4);
        let mut values = Vec::new();
        table.append(2..4, &mut values).unwrap();
        let expected = [2.0f64.cos(), 1.0f64.cos(), 2.0f64.sin(), 1.0f64.sin(), 3.0f64.cos()];
        for (got, expected) in values.iter().zip(expected) {
            assert!((f64::from(*got) - 2.0 * expected).abs() < 1e-6);
        }
        assert!(table.append(3..5, &mut values).is_err());
    }
}
