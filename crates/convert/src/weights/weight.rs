//! A matrix that is read while it is written.

use super::{Matrix, TensorSource, stripes};
use crate::error::Result;

/// A weight matrix of a model, most often still in its checkpoint. Large ones never are in memory as a whole.
pub struct Weight<'s> {
    parts: Vec<Part<'s>>,
}

enum Part<'s> {
    Stored { source: &'s dyn TensorSource, name: String, shape: [usize; 2] },
    Held(Matrix),
}

impl Part<'_> {
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Stored { shape, .. } => *shape,
            Self::Held(matrix) => [matrix.rows(), matrix.columns()],
        }
    }
}

impl From<Matrix> for Weight<'_> {
    fn from(matrix: Matrix) -> Self {
        Self { parts: vec![Part::Held(matrix)] }
    }
}

impl<'s> Weight<'s> {
    /// A tensor of a checkpoint with `rows` outputs (or tokens) and `columns` inputs (or features). Whether it is
    /// there, and of that shape, shows when it is read.
    pub fn stored(source: &'s dyn TensorSource, name: &str, rows: usize, columns: usize) -> Self {
        Self { parts: vec![Part::Stored { source, name: name.to_owned(), shape: [rows, columns] }] }
    }

    /// The rows of all parts, one part after the other: several linear layers of the same input as one.
    ///
    /// # Panics
    /// When there is no part, or the numbers of columns differ.
    pub fn stack(parts: impl IntoIterator<Item = Self>) -> Self {
        let whole = Self { parts: parts.into_iter().flat_map(|weight| weight.parts).collect() };
        let columns = whole.columns();
        assert!(whole.parts.iter().all(|part| part.shape()[1] == columns), "columns of stacked matrices");
        whole
    }

    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.shape()[0]).sum()
    }

    pub fn columns(&self) -> usize {
        self.parts[0].shape()[1]
    }

    pub fn shape(&self) -> [usize; 2] {
        [self.rows(), self.columns()]
    }

    /// All rows in order, some at a time. A part that is quantized in the checkpoint is so here.
    pub fn stripes(&self) -> impl Iterator<Item = Result<Matrix>> {
        self.parts.iter().flat_map(|part| -> Box<dyn Iterator<Item = Result<Matrix>>> {
            match part {
                &Part::Stored { source, ref name, shape } => {
                    let ranges = stripes(shape[0], shape[1]);
                    Box::new(ranges.map(move |range| source.rows(name, shape, range)))
                }
                Part::Held(matrix) => Box::new([Ok(matrix.clone())].into_iter()),
            }
        })
    }

    /// All values in full precision.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut values = Vec::with_capacity(self.rows() * self.columns());
        for stripe in self.stripes() {
            values.extend(stripe?.into_f32());
        }
        Ok(values)
    }

    /// All values in signed 8 bits, and the scale of each row ([`Matrix::into_int8`]).
    pub fn to_int8(&self) -> Result<(Vec<i8>, Vec<f32>)> {
        let mut values = Vec::with_capacity(self.rows() * self.columns());
        let mut row_scales = Vec::with_capacity(self.rows());
        for stripe in self.stripes() {
            let (stripe, scales) = stripe?.into_int8();
            values.extend(stripe);
            row_scales.extend(scales);
        }
        Ok((values, row_scales))
    }

    /// All values in 8 bits, and the scale of each block ([`Matrix::into_int8_blocks`]).
    pub fn to_int8_blocks(&self, block: usize) -> Result<(Vec<u8>, Vec<f32>)> {
        let mut values = Vec::with_capacity(self.rows() * self.columns());
        let mut scales = Vec::with_capacity(self.rows() * self.columns() / block);
        for stripe in self.stripes() {
            let (stripe, of_stripe) = stripe?.into_int8_blocks(block);
            values.extend(stripe);
            scales.extend(of_stripe);
        }
        Ok((values, scales))
    }

    /// All values in 4 bits, and the scale of each block ([`Matrix::into_int4`]).
    pub fn to_int4(&self, block: usize) -> Result<(Vec<u8>, Vec<f32>)> {
        let mut values = Vec::with_capacity(self.rows() * self.columns() / 2);
        let mut scales = Vec::with_capacity(self.rows() * self.columns() / block);
        for stripe in self.stripes() {
            let (stripe, of_stripe) = stripe?.into_int4(block);
            values.extend(stripe);
            scales.extend(of_stripe);
        }
        Ok((values, scales))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_has_the_rows_of_all_its_parts_in_order() {
        let part = |value, scale| Weight::from(Matrix::quantized(1, 2, vec![value, -value], vec![scale]));
        let whole = Weight::stack([part(3, 0.5), Weight::stack([part(7, 0.25), part(0, 0.0)])]);
        assert_eq!(whole.shape(), [3, 2]);
        assert_eq!(whole.to_f32().unwrap(), [1.5, -1.5, 1.75, -1.75, 0.0, 0.0]);
        assert_eq!(whole.to_int8().unwrap(), (vec![3, -3, 7, -7, 0, 0], vec![0.5, 0.25, 0.0]));
    }
}
