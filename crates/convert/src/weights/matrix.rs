//! A weight matrix in memory, and its quantizers.

use std::mem;

/// Largest magnitude of a symmetric signed 8-bit value.
const INT8_MAX: f32 = 127.0;

/// A weight matrix `[rows, columns]`, row-major. A row is one output of a linear layer, or one token of an
/// embedding; a column is one input, or one feature. Checkpoints of linear layers lie this way.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Values,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    /// `w = values · scale of its row`
    Int8 {
        values: Vec<i8>,
        row_scales: Vec<f32>,
    },
}

impl Default for Values {
    fn default() -> Self {
        Self::F32(Vec::new())
    }
}

impl Matrix {
    /// # Panics
    /// When the number of values is not `rows · columns`.
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Self {
        assert_eq!(Some(values.len()), rows.checked_mul(columns), "values of a [{rows}, {columns}] matrix");
        Self { rows, columns, values: Values::F32(values) }
    }

    /// A matrix from the values of its transpose, `[columns, rows]`.
    ///
    /// # Panics
    /// When the number of values is not `rows · columns`.
    pub fn transposed(rows: usize, columns: usize, values: &[f32]) -> Self {
        let mut matrix = Self::new(rows, columns, vec![0.0; values.len()]);
        if let Values::F32(full) = &mut matrix.values {
            for (r, row) in full.chunks_exact_mut(columns.max(1)).enumerate() {
                row.iter_mut().enumerate().for_each(|(c, value)| *value = values[c * rows + r]);
            }
        }
        matrix
    }

    /// A matrix that is already quantized, with one scale for each row.
    ///
    /// # Panics
    /// When the number of values is not `rows · columns`, or that of scales not `rows`.
    pub fn quantized(rows: usize, columns: usize, values: Vec<i8>, row_scales: Vec<f32>) -> Self {
        assert_eq!(Some(values.len()), rows.checked_mul(columns), "values of a [{rows}, {columns}] matrix");
        assert_eq!(row_scales.len(), rows, "scales of a [{rows}, {columns}] matrix");
        Self { rows, columns, values: Values::Int8 { values, row_scales } }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn into_values(self) -> Values {
        self.values
    }

    /// The rows of all parts, one part after the other: several linear layers of the same input as one. It is
    /// quantized when every part is.
    ///
    /// # Panics
    /// When there is no part, or the numbers of columns differ.
    pub fn stack(parts: Vec<Matrix>) -> Self {
        let mut parts = parts.into_iter();
        let mut whole = parts.next().expect("a stack has at least one part");
        for part in parts {
            assert_eq!(part.columns, whole.columns, "columns of stacked matrices");
            match (&mut whole.values, part.values) {
                (
                    Values::Int8 { values, row_scales },
                    Values::Int8 { values: part_values, row_scales: part_scales },
                ) => {
                    values.extend(part_values);
                    row_scales.extend(part_scales);
                }
                (_, values) => {
                    let mut full = Matrix { values: mem::take(&mut whole.values), ..whole }.into_f32();
                    full.extend(Matrix { values, ..part }.into_f32());
                    whole.values = Values::F32(full);
                }
            }
            whole.rows += part.rows;
        }
        whole
    }

    /// Appends a row of zeros.
    pub fn push_zero_row(&mut self) {
        self.rows += 1;
        match &mut self.values {
            Values::F32(values) => values.resize(self.rows * self.columns, 0.0),
            Values::Int8 { values, row_scales } => {
                values.resize(self.rows * self.columns, 0);
                row_scales.push(0.0);
            }
        }
    }

    /// The largest magnitude.
    pub fn largest(&self) -> f32 {
        match &self.values {
            Values::F32(values) => values.iter().fold(0.0, |max, value| value.abs().max(max)),
            Values::Int8 { row_scales, .. } => {
                row_scales.iter().fold(0.0, |max, scale| scale.max(max)) * INT8_MAX
            }
        }
    }

    /// The values in full precision.
    pub fn into_f32(self) -> Vec<f32> {
        match self.values {
            Values::F32(values) => values,
            Values::Int8 { values, row_scales } => {
                let mut full = Vec::with_capacity(values.len());
                for (row, scale) in values.chunks_exact(self.columns.max(1)).zip(row_scales) {
                    full.extend(row.iter().map(|&value| f32::from(value) * scale));
                }
                full
            }
        }
    }

    /// Signed 8-bit values and the scale of each row, `max|row| / 127`. A matrix that is quantized already
    /// keeps its own values.
    pub fn into_int8(self) -> (Vec<i8>, Vec<f32>) {
        let full = match self.values {
            Values::Int8 { values, row_scales } => return (values, row_scales),
            Values::F32(values) => values,
        };
        let mut values = Vec::with_capacity(full.len());
        let mut row_scales = Vec::with_capacity(self.rows);
        for row in full.chunks_exact(self.columns.max(1)) {
            let scale = row.iter().fold(0.0_f32, |max, value| max.max(value.abs())) / INT8_MAX;
            let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
            values.extend(row.iter().map(|value| round(value * inverse, -INT8_MAX, INT8_MAX) as i8));
            row_scales.push(scale);
        }
        (values, row_scales)
    }
}

fn round(value: f32, low: f32, high: f32) -> f32 {
    value.round_ties_even().clamp(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_restores_each_value_to_half_a_step() {
        let values = vec![1.0, -2.0, 0.5, 0.0, 100.0, -3.0, 0.0, 0.0, 0.0];
        let (quantized, scales) = Matrix::new(3, 3, values.clone()).into_int8();
        assert_eq!(scales, [2.0 / 127.0, 100.0 / 127.0, 0.0]);
        assert_eq!((quantized[1], quantized[4]), (-127, 127));
        let restored = Matrix::quantized(3, 3, quantized, scales.clone()).into_f32();
        for (i, (a, b)) in values.iter().zip(&restored).enumerate() {
            assert!((a - b).abs() <= scales[i / 3] * 0.5001, "{i}: {a} became {b}");
        }
    }

    #[test]
    fn a_transpose_has_rows_for_columns() {
        let matrix = Matrix::transposed(2, 3, &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(matrix, Matrix::new(2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    }

    #[test]
    fn a_quantized_matrix_keeps_its_values_through_a_stack() {
        let part = |value, scale| Matrix::quantized(1, 2, vec![value, -value], vec![scale]);
        let mut whole = Matrix::stack(vec![part(3, 0.5), part(7, 0.25)]);
        whole.push_zero_row();
        assert_eq!(whole.clone().into_f32(), [1.5, -1.5, 1.75, -1.75, 0.0, 0.0]);
        assert_eq!(whole.into_int8(), (vec![3, -3, 7, -7, 0, 0], vec![0.5, 0.25, 0.0]));
    }
}
