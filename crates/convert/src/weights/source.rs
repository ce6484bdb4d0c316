//! Where weights come from.

use std::{ops::Range, path::Path};

use crate::{error::Result, weights::Matrix};

/// Elements of a stripe of rows: what is in memory of a large tensor at one time.
const STRIPE_ELEMENTS: usize = 1 << 22;

/// A checkpoint, read some rows at a time: nothing stays in memory between two calls.
///
/// A tensor whose shape is not the one asked for, or that holds a value that is not finite, is an error.
pub trait TensorSource {
    /// The file or folder, for messages.
    fn path(&self) -> &Path;

    /// Names of all tensors.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// Shape as the checkpoint has it; none when there is no such tensor.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// Some rows of a matrix of `shape[0]` outputs (or tokens) and `shape[1]` inputs (or features).
    ///
    /// # Panics
    /// When the range is not within the shape.
    fn rows(&self, name: &str, shape: [usize; 2], range: Range<usize>) -> Result<Matrix>;

    /// A vector, such as a bias.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>>;

    /// A whole matrix.
    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        self.rows(name, [rows, columns], 0..rows)
    }

    fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// True when two matrices exist and hold the same values.
    fn same(&self, a: &str, b: &str) -> Result<bool> {
        let (Some(&[rows, columns]), Some(other)) = (self.shape(a), self.shape(b)) else { return Ok(false) };
        if [rows, columns] != other {
            return Ok(false);
        }
        for range in stripes(rows, columns) {
            let read = |name| self.rows(name, [rows, columns], range.clone()).map(Matrix::into_f32);
            if read(a)? != read(b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Ranges of rows that together are all of a matrix.
pub fn stripes(rows: usize, columns: usize) -> impl Iterator<Item = Range<usize>> {
    let height = (STRIPE_ELEMENTS / columns.max(1)).max(1);
    (0..rows).step_by(height).map(move |first| first..rows.min(first + height))
}
