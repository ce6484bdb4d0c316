//! Where weights come from.

use crate::{error::Result, weights::Matrix};

/// A checkpoint, read one tensor at a time: nothing stays in memory between two calls.
///
/// A tensor whose shape is not the one asked for, or that holds a value that is not finite, is an error.
pub trait TensorSource {
    /// Shape as the checkpoint has it; none when there is no such tensor.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// A matrix of `rows` outputs (or tokens) and `columns` inputs (or features).
    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix>;

    /// A vector, such as a bias.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>>;

    fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }
}
