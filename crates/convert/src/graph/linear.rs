//! Linear layers; the number format of the weights is hidden here.

use textgen_artifact::{INT4_BLOCK, WeightFormat, ops};

use super::{
    GraphBuilder, Node, Value,
    builder::{INLINE_BYTES, initializer_name},
};
use crate::{
    error::Result,
    weights::{StoredTable, Weight},
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
    /// 4 bits in blocks of [`INT4_BLOCK`] inputs; a matrix whose inputs do not fill blocks is in
    /// [`LinearFormat::Int8Column`].
    Int4Block,
}

impl From<LinearFormat> for WeightFormat {
    fn from(format: LinearFormat) -> Self {
        match format {
            LinearFormat::F32 => Self::F32,
            LinearFormat::Int8Column => Self::Int8Column,
            LinearFormat::Int8Outlier => Self::Int8Outlier,
            LinearFormat::Int4Block => Self::Int4Block,
        }
    }
}

/// `y = x · weightᵀ + bias`
pub struct Linear<'s> {
    /// `[outputs, inputs]`. Layers of one input are best stacked into one ([`Weight::stack`]).
    pub weight: Weight<'s>,
    /// One for each output.
    pub bias: Option<Vec<f32>>,
    pub format: LinearFormat,
}

impl GraphBuilder<'_> {
    /// A linear layer, `[N, inputs]` to `[N, outputs]`.
    pub fn linear(&mut self, address: &str, x: Value<f32>, layer: Linear) -> Result<Value<f32>> {
        let Linear { weight, bias, mut format } = layer;
        if format == LinearFormat::Int4Block && weight.columns() % INT4_BLOCK != 0 {
            format = LinearFormat::Int8Column;
        }
        self.plan(address, format.into(), weight.shape());
        let bias = match bias {
            Some(bias) => Some(self.initializer(&initializer_name(address, "bias"), &[bias.len()], &bias)?),
            None => None,
        };
        match format {
            LinearFormat::F32 => {
                let weight = self.full(&initializer_name(address, "weight"), &weight)?;
                Ok(self.gemm(address, x, weight, bias))
            }
            LinearFormat::Int8Column => self.int8(address, x, &weight, bias, None),
            LinearFormat::Int8Outlier => self.int8(address, x, &weight, bias, Some(CLIP)),
            LinearFormat::Int4Block => self.int4(address, x, &weight, bias),
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
        weight: &Weight,
        bias: Option<Value<f32>>,
        clip: Option<f32>,
    ) -> Result<Value<f32>> {
        let (q, row_scale) = self.row_quantize(address, x, clip);
        let [outputs, inputs] = weight.shape();
        let (values, scales) = weight.to_int8()?;
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

    fn int4(
        &mut self,
        address: &str,
        x: Value<f32>,
        weight: &Weight,
        bias: Option<Value<f32>>,
    ) -> Result<Value<f32>> {
        let [outputs, inputs] = weight.shape();
        let (values, scales) = weight.to_int4(INT4_BLOCK)?;
        let shape = [outputs, inputs / INT4_BLOCK, INT4_BLOCK / 2];
        let weight = self.initializer(&initializer_name(address, "weight"), &shape, &values)?;
        let scale = self.initializer(&initializer_name(address, "weight_scale"), &[scales.len()], &scales)?;
        let product = Node::microsoft("MatMulNBits")
            .input(x)
            .input(weight)
            .input(scale)
            .int("K", inputs)
            .int("N", outputs)
            .int("bits", 4)
            .int("block_size", INT4_BLOCK)
            // Activations in 8 bits.
            .int("accuracy_level", 4);
        let product = self.apply(&format!("{address}/MatMulNBits"), product);
        Ok(match bias {
            Some(bias) => self.sum(&format!("{address}/Add"), product, bias),
            None => product,
        })
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

    /// A matrix in full precision.
    fn full(&mut self, name: &str, weight: &Weight) -> Result<Value<f32>> {
        let shape @ [rows, columns] = weight.shape();
        if rows * columns * size_of::<f32>() <= INLINE_BYTES {
            return self.initializer(name, &shape, &weight.to_f32()?);
        }
        let mut tensor = self.weights.start::<f32>(name, &shape)?;
        for stripe in weight.stripes() {
            tensor.extend(&stripe?.into_f32())?;
        }
        tensor.finish();
        Ok(self.external(name, &shape))
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
