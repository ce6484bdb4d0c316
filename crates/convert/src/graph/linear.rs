//! Linear layers; the number format of the weights is hidden here.

use textgen_artifact::{WeightFormat, ops};

use super::{GraphBuilder, Node, Value, builder::initializer_name};
use crate::{
    error::Result,
    weights::{Matrix, StoredTable},
};

/// Root mean squares of a row beyond which [`LinearFormat::Int8Outlier`] multiplies in full precision. At 4, a
/// row of Gaussian noise has next to none of them, and the step of the 8-bit grid is as fine as such a row's own.
const CLIP: f32 = 4.0;
/// Zero point that [`ops::ROW_QUANTIZE`] uses.
const ACTIVATION_ZERO_POINT: u8 = 128;
/// Lines of a matrix that are transposed at a time.
const STRIPE: usize = 32;

/// Format of a linear layer's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearFormat {
    F32,
    /// Signed 8 bits, a scale for each output; activations are quantized for each row.
    Int8Column,
    /// The same, and the few inputs of a row that lie far out are multiplied in full precision, so that they
    /// do not coarsen the rest.
    Int8Outlier,
}

impl From<LinearFormat> for WeightFormat {
    fn from(format: LinearFormat) -> Self {
        match format {
            LinearFormat::F32 => Self::F32,
            LinearFormat::Int8Column => Self::Int8Column,
            LinearFormat::Int8Outlier => Self::Int8Outlier,
        }
    }
}

/// `y = x · weightᵀ + bias`
pub struct Linear {
    /// `[outputs, inputs]`. Layers of one input are best stacked into one ([`Matrix::stack`]).
    pub weight: Matrix,
    /// One for each output.
    pub bias: Option<Vec<f32>>,
    pub format: LinearFormat,
}

impl GraphBuilder<'_> {
    /// A linear layer, `[N, inputs]` to `[N, outputs]`.
    pub fn linear(&mut self, address: &str, x: Value<f32>, layer: Linear) -> Result<Value<f32>> {
        let Linear { weight, bias, format } = layer;
        let shape = [weight.rows(), weight.columns()];
        self.plan(address, format.into(), shape);
        let bias = match bias {
            Some(bias) => Some(self.initializer(&initializer_name(address, "bias"), &[bias.len()], &bias)?),
            None => None,
        };
        match format {
            LinearFormat::F32 => {
                let weight =
                    self.initializer(&initializer_name(address, "weight"), &shape, &weight.into_f32())?;
                Ok(self.gemm(address, x, weight, bias))
            }
            LinearFormat::Int8Column => self.int8(address, x, weight, bias, None),
            LinearFormat::Int8Outlier => self.int8(address, x, weight, bias, Some(CLIP)),
        }
    }

    /// A linear layer in fp32 whose weights are the first `outputs` rows of an embedding table that
    /// [`crate::weights::WeightsWriter::embedding`] has written: a tied head, stored once.
    pub fn tied_linear(
        &mut self,
        address: &str,
        x: Value<f32>,
        table: &StoredTable,
        shape: [usize; 2],
        bias: Option<&[f32]>,
    ) -> Result<Value<f32>> {
        self.plan(address, WeightFormat::F32, shape);
        let weight = self.external(&table.table, &shape);
        let bias = match bias {
            Some(bias) => Some(self.initializer(&initializer_name(address, "bias"), &[bias.len()], bias)?),
            None => None,
        };
        Ok(self.gemm(address, x, weight, bias))
    }

    // Gemm takes the weights as checkpoints have them, and gives the same bits as MatMul and Add.
    fn gemm(
        &mut self,
        address: &str,
        x: Value<f32>,
        weight: Value<f32>,
        bias: Option<Value<f32>>,
    ) -> Value<f32> {
        let mut node = Node::onnx("Gemm").input(x).input(weight).int("transB", 1);
        if bias.is_some() {
            node = node.optional(bias);
        }
        self.apply(&format!("{address}/Gemm"), node)
    }

    // x ─ RowQuantize ─┬─ q ──── MatMulIntegerToFloat ─ RowDequantize ─ y
    //                  └─ scale ────────────────────────┘ (bias, outliers of x)
    fn int8(
        &mut self,
        address: &str,
        x: Value<f32>,
        weight: Matrix,
        bias: Option<Value<f32>>,
        clip: Option<f32>,
    ) -> Result<Value<f32>> {
        let (q, row_scale) = self.row_quantize(address, x, clip);
        let (outputs, inputs) = (weight.rows(), weight.columns());
        let (values, scales) = weight.into_int8();
        let weight = self.transposed(&initializer_name(address, "weight"), outputs, inputs, &values)?;
        let scale = self.initializer(&initializer_name(address, "weight_scale"), &[outputs], &scales)?;
        // The rows' own scales come after the product, which knows only one for the whole tensor.
        let one = self.scalar("one", 1.0_f32);
        let zero_point = self.scalar("activation_zero_point", ACTIVATION_ZERO_POINT);
        let product = Node::microsoft("MatMulIntegerToFloat")
            .input(q)
            .input(weight)
            .input(one)
            .input(scale)
            .input(zero_point);
        let product = self.apply::<f32>(&format!("{address}/MatMulIntegerToFloat"), product);
        let mut complete = Node::textgen(ops::ROW_DEQUANTIZE).input(product).input(row_scale).optional(bias);
        if clip.is_some() {
            complete = complete.input(x).input(weight).input(scale);
        }
        Ok(self.apply(&format!("{address}/RowDequantize"), complete))
    }

    /// Quantized rows and their scales; once for each value, however many layers take it.
    fn row_quantize(&mut self, address: &str, x: Value<f32>, clip: Option<f32>) -> (Value<u8>, Value<f32>) {
        let key = (x.id, clip.is_some());
        if let Some(&quantized) = self.quantized.get(&key) {
            return quantized;
        }
        let mut node = Node::textgen(ops::ROW_QUANTIZE).input(x);
        if let Some(clip) = clip {
            node = node.float(ops::ATTR_CLIP, clip);
        }
        let node = self.add(&format!("{address}/RowQuantize"), node);
        let quantized = (self.result(node, 0), self.result(node, 1));
        self.quantized.insert(key, quantized);
        quantized
    }

    /// Writes a `[rows, columns]` matrix as `[columns, rows]`, a stripe at a time.
    fn transposed(&mut self, name: &str, rows: usize, columns: usize, values: &[i8]) -> Result<Value<i8>> {
        let shape = [columns, rows];
        let mut tensor = self.weights.start::<i8>(name, &shape)?;
        let mut stripe = vec![0; STRIPE * rows];
        for first in (0..columns).step_by(STRIPE) {
            let width = STRIPE.min(columns - first);
            for (r, row) in values.chunks_exact(columns).enumerate() {
                for (c, &value) in row[first..first + width].iter().enumerate() {
                    stripe[c * rows + r] = value;
                }
            }
            tensor.extend(&stripe[..width * rows])?;
        }
        tensor.finish();
        Ok(self.external(name, &shape))
    }
}
