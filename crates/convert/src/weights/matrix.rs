//! A weight matrix in memory, and its quantizers.

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

    /// The rows of all parts, one part after the other. They stay quantized where all parts are.
    ///
    /// # Panics
    /// When a part has not `columns` columns.
    pub fn stack(columns: usize, parts: Vec<Self>) -> Self {
        assert!(parts.iter().all(|part| part.columns == columns), "columns of stacked matrices");
        let rows = parts.iter().map(|part| part.rows).sum();
        if parts.iter().any(|part| matches!(part.values, Values::F32(_))) {
            return Self::new(rows, columns, parts.into_iter().flat_map(Self::into_f32).collect());
        }
        let (mut all, mut all_scales) = (Vec::with_capacity(rows * columns), Vec::with_capacity(rows));
        for part in parts {
            let (values, row_scales) = part.into_int8();
            all.extend(values);
            all_scales.extend(row_scales);
        }
        Self::quantized(rows, columns, all, all_scales)
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

    /// 8-bit values and the scale of each block of `block` columns: `w = (value − 128) · scale`. A matrix that is
    /// quantized already keeps its own values.
    pub fn into_int8_blocks(self, block: usize) -> (Vec<u8>, Vec<f32>) {
        let blocks = self.columns / block;
        let (values, scales) = match self.values {
            Values::Int8 { values, row_scales } => (
                values,
                row_scales.into_iter().flat_map(|scale| std::iter::repeat_n(scale, blocks)).collect(),
            ),
            Values::F32(values) => Self::new(self.rows * blocks, block, values).into_int8(),
        };
        (values.into_iter().map(|value| value.cast_unsigned() ^ 128).collect(), scales)
    }

    /// 4-bit values, two a byte, the first in the low half, and the scale of each block of `block` columns:
    /// `w = (value − 8) · scale`. The value of largest magnitude in a block becomes 0, which is −8.
    pub fn into_int4(self, block: usize) -> (Vec<u8>, Vec<f32>) {
        let full = self.into_f32();
        let mut values = Vec::with_capacity(full.len() / 2);
        let mut scales = Vec::with_capacity(full.len() / block);
        for block in full.chunks_exact(block) {
            let extreme = block.iter().fold(0.0_f32, |a, &b| if b.abs() > a.abs() { b } else { a });
            let scale = extreme / -8.0;
            let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
            let quantized = |value: f32| (round(value * inverse, -8.0, 7.0) + 8.0) as u8;
            values.extend(block.chunks_exact(2).map(|pair| quantized(pair[0]) | quantized(pair[1]) << 4));
            scales.push(scale);
        }
        (values, scales)
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
    fn int8_blocks_have_a_scale_each_and_are_centred_at_128() {
        let (values, scales) = Matrix::new(1, 4, vec![1.0, -0.5, 0.0, 8.0]).into_int8_blocks(2);
        assert_eq!(values, [255, 64, 128, 255]);
        assert_eq!(scales, [1.0 / 127.0, 8.0 / 127.0]);
    }

    #[test]
    fn int8_blocks_of_a_quantized_matrix_are_its_own_values() {
        let matrix = Matrix::quantized(2, 4, vec![-128, 3, 0, 1, 2, -1, 127, 5], vec![0.5, 0.25]);
        let (values, scales) = matrix.into_int8_blocks(2);
        assert_eq!(values, [0, 131, 128, 129, 130, 127, 255, 133]);
        assert_eq!(scales, [0.5, 0.5, 0.25, 0.25]);
    }

    #[test]
    fn int4_restores_each_value_to_half_a_step_of_its_block() {
        let values: Vec<f32> =
            (0..64).map(|i| ((i * 37 % 64) as f32 - 40.0) * if i < 32 { 1.0 } else { 0.01 }).collect();
        let (packed, scales) = Matrix::new(1, 64, values.clone()).into_int4(32);
        for (i, value) in values.iter().enumerate() {
            let nibble = packed[i / 2] >> (4 * (i % 2)) & 15;
            let restored = (f32::from(nibble) - 8.0) * scales[i / 32];
            // The end opposite to the extreme has one step less.
            assert!((restored - value).abs() <= scales[i / 32].abs() * 1.01, "{value} became {restored}");
        }
    }

    #[test]
    fn a_transpose_has_rows_for_columns() {
        let matrix = Matrix::transposed(2, 3, &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(matrix, Matrix::new(2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    }
}
