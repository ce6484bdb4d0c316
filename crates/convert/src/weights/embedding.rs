//! Embedding tables.

use half::f16;
use textgen_artifact::{Part, WeightFormat};

use super::{Weight, WeightsWriter};
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
    pub fn embedding(&mut self, name: &str, table: &Weight, format: EmbeddingFormat) -> Result<StoredTable> {
        let shape = table.shape();
        // What half precision cannot hold stays as it is.
        let format = match format {
            EmbeddingFormat::F16 if largest(table)? > f16::MAX.to_f32() => EmbeddingFormat::F32,
            format => format,
        };
        let mut row_scale = None;
        let plan = match format {
            EmbeddingFormat::F32 => {
                let mut tensor = self.start::<f32>(name, &shape)?;
                for stripe in table.stripes() {
                    tensor.extend(&stripe?.into_f32())?;
                }
                tensor.finish();
                WeightFormat::F32
            }
            EmbeddingFormat::F16 => {
                let mut tensor = self.start::<f16>(name, &shape)?;
                for stripe in table.stripes() {
                    let values: Vec<f16> = stripe?.into_f32().into_iter().map(f16::from_f32).collect();
                    tensor.extend(&values)?;
                }
                tensor.finish();
                WeightFormat::F16
            }
            EmbeddingFormat::Int8Row => {
                let mut scales = Vec::with_capacity(shape[0]);
                let mut tensor = self.start::<i8>(name, &shape)?;
                for stripe in table.stripes() {
                    let (values, row_scales) = stripe?.into_int8();
                    tensor.extend(&values)?;
                    scales.extend(row_scales);
                }
                tensor.finish();
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

/// The largest magnitude.
fn largest(table: &Weight) -> Result<f32> {
    table.stripes().try_fold(0.0, |largest: f32, stripe| Ok(largest.max(stripe?.largest())))
}
