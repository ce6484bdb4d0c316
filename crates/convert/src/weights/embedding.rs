//! Embedding tables.

use half::f16;
use textgen_artifact::{Part, WeightFormat};

use super::{Matrix, WeightsWriter};
use crate::error::Result;

/// Format of an embedding table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddingFormat {
    F32,
    F16,
    Int8Row,
}

/// Names of the tensors of an embedding table in `weights.bin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTable {
    pub table: String,
    pub row_scale: Option<String>,
}

impl WeightsWriter {
    /// Writes a lookup table `[tokens, d_model]`.
    pub fn embedding(&mut self, name: &str, table: Matrix, format: EmbeddingFormat) -> Result<StoredTable> {
        let shape = [table.rows(), table.columns()];
        // What half precision cannot hold stays as it is.
        let format = match format {
            EmbeddingFormat::F16 if table.largest() > f16::MAX.to_f32() => EmbeddingFormat::F32,
            format => format,
        };
        let mut row_scale = None;
        let plan = match format {
            EmbeddingFormat::F32 => {
                self.write(name, &shape, &table.into_f32())?;
                WeightFormat::F32
            }
            EmbeddingFormat::F16 => {
                let values: Vec<f16> = table.into_f32().into_iter().map(f16::from_f32).collect();
                self.write(name, &shape, &values)?;
                WeightFormat::F16
            }
            EmbeddingFormat::Int8Row => {
                let (values, scales) = table.into_int8();
                self.write(name, &shape, &values)?;
                let scale_name = format!("{name}_scale");
                self.write(&scale_name, &shape[..1], &scales)?;
                row_scale = Some(scale_name);
                WeightFormat::Int8Row
            }
        };
        self.plan(name, Part::Embedding, plan, shape);
        Ok(StoredTable { table: name.to_owned(), row_scale })
    }
}
