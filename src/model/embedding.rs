//! Input embeddings, looked up from the mapped weights: `table[id] · row_scale[id] · scale + positions[p]`.

use std::sync::Arc;

use textgen_artifact::{DType, EmbeddingSpec, Manifest};

use super::weights::{TensorData, TensorHandle, Weights};
use crate::error::{Error, Result};

/// The embedding of one graph.
pub struct Embedding {
    weights: Arc<Weights>,
    table: TensorHandle,
    row_scale: Option<TensorHandle>,
    positions: Option<TensorHandle>,
    scale: f32,
    rows: usize,
    d_model: usize,
}

impl Embedding {
    /// Checks that the tables have the shapes that `spec` promises.
    pub fn new(weights: Arc<Weights>, manifest: &Manifest, spec: &EmbeddingSpec) -> Result<Self> {
        let d_model = manifest.geometry.d_model;
        let mismatch = |name: &str, got: &TensorHandle, expected: String| {
            Error::invalid_argument(format!(
                "embedding {name}: {:?} {:?}, expected {expected}; convert the model again",
                got.dtype(),
                got.shape()
            ))
        };
        let table = weights.find(manifest, &spec.table, 2)?;
        let rows = table.shape()[0];
        if table.shape()[1] != d_model || rows == 0 {
            return Err(mismatch(&spec.table, &table, format!("[rows, {d_model}]")));
        }
        if spec.row_scale.is_some() != (table.dtype() == DType::I8) {
            return Err(Error::invalid_argument(format!(
                "embedding {}: an i8 table needs row_scale, any other must not have it; convert the model again",
                spec.table
            )));
        }
        let row_scale = match &spec.row_scale {
            None => None,
            Some(name) => {
                let scale = weights.find(manifest, name, 1)?;
                if scale.dtype() != DType::F32 || scale.shape()[0] != rows {
                    return Err(mismatch(name, &scale, format!("F32 [{rows}]")));
                }
                Some(scale)
            }
        };
        let positions = match &spec.positions {
            None => None,
            Some(name) => {
                let positions = weights.find(manifest, name, 2)?;
                if positions.dtype() != DType::F32 || positions.shape()[1] != d_model {
                    return Err(mismatch(name, &positions, format!("F32 [positions, {d_model}]")));
                }
                Some(positions)
            }
        };
        Ok(Self { weights, table, row_scale, positions, scale: spec.scale, rows, d_model })
    }

    /// Appends the embeddings of `tokens`, which stand at `position` and after, to `x`.
    pub fn append(&self, tokens: &[u32], position: usize, x: &mut Vec<f32>) -> Result<()> {
        let table = self.weights.data(&self.table);
        let row_scale = self.row_scale.as_ref().map(|tensor| self.weights.data(tensor));
        let positions = self.positions.as_ref().map(|tensor| self.weights.data(tensor));
        for (index, &token) in tokens.iter().enumerate() {
            let row = token as usize;
            if row >= self.rows {
                return Err(Error::invalid_argument(format!(
                    "token id {token}: the model has {} embeddings; the tokenizer does not belong to the model",
                    self.rows
                )));
            }
            let span = row * self.d_model..(row + 1) * self.d_model;
            let start = x.len();
            match table {
                TensorData::F32(table) => x.extend(table[span].iter().map(|value| value * self.scale)),
                TensorData::F16(table) => {
                    x.extend(table[span].iter().map(|value| value.to_f32() * self.scale))
                }
                TensorData::I8(table) => {
                    let scale = match row_scale {
                        Some(TensorData::F32(scales)) => scales[row] * self.scale,
                        _ => self.scale,
                    };
                    x.extend(table[span].iter().map(|&value| f32::from(value) * scale));
                }
            }
            if let Some(TensorData::F32(positions)) = positions {
                let offset = (position + index) * self.d_model;
                let positions = positions.get(offset..offset + self.d_model).ok_or_else(|| {
                    Error::invalid_argument(format!(
                        "position {}: the model has {}",
                        position + index,
                        positions.len() / self.d_model
                    ))
                })?;
                for (value, position) in x[start..].iter_mut().zip(positions) {
                    *value += position;
                }
            }
        }
        Ok(())
    }
}
