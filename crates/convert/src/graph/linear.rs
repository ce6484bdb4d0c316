//! Linear layers; the number format of the weights is hidden here.

use textgen_artifact::{WeightFormat, ops};

use super::{GraphBuilder, Node, Value, builder::initializer_name};
use crate::{
    error::{ConvertError, Result},
    weights::{Matrix, StoredTable},
};

/// Columns in a block of [`LinearFormat::Int8Block32`].
const BLOCK: usize = 32;
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
    /// 8 bits, a scale for each 32 inputs of an output: nearly fp32, slower for many rows.
    Int8Block32,
}

impl From<LinearFormat> for WeightFormat {
    fn from(format: LinearFormat) -> Self {
        match format {
            LinearFormat::F32 => Self::F32,
            LinearFormat::Int8Column => Self::Int8Column,
            LinearFormat::Int8Block32 => Self::Int8Block32,
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
            LinearFormat::Int8Column => {
                let y = self.int8_column(address, x, weight)?;
                Ok(self.add_bias(address, y, bias))
            }
            LinearFormat::Int8Block32 => {
                let y = self.int8_blocks(address, x, weight)?;
                Ok(self.add_bias(address, y, bias))
            }
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

    // x ─ RowQuantize ─┬─ q ──── MatMulIntegerToFloat ─ Mul ─ y
    //                  └─ scale ────────────────────────┘
    fn int8_column(&mut self, address: &str, x: Value<f32>, weight: Matrix) -> Result<Value<f32>> {
        let (q, row_scale) = self.row_quantize(address, x);
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
        Ok(self.mul(&format!("{address}/Mul"), product, row_scale))
    }

    fn int8_blocks(&mut self, address: &str, x: Value<f32>, weight: Matrix) -> Result<Value<f32>> {
        let (outputs, inputs) = (weight.rows(), weight.columns());
        if !inputs.is_multiple_of(BLOCK) {
            return Err(ConvertError::Format {
                node: address.to_owned(),
                what: "the number of inputs",
                got: inputs.to_string(),
                expected: format!("a multiple of {BLOCK}"),
                format: "int8_block32",
            });
        }
        let blocks = weight.into_blocks(BLOCK);
        let shape = [outputs, blocks.blocks_per_row, BLOCK];
        let weight = self.initializer(&initializer_name(address, "weight"), &shape, &blocks.values)?;
        let scale = self.initializer(
            &initializer_name(address, "weight_scale"),
            &[outputs * blocks.blocks_per_row],
            &blocks.scales,
        )?;
        let product = Node::microsoft("MatMulNBits")
            .input(x)
            .input(weight)
            .input(scale)
            .int("K", inputs)
            .int("N", outputs)
            .int("bits", 8)
            .int("block_size", BLOCK)
            .int("accuracy_level", 4);
        Ok(self.apply(&format!("{address}/MatMulNBits"), product))
    }

    /// Quantized rows and their scales; once for each value, however many layers take it.
    fn row_quantize(&mut self, address: &str, x: Value<f32>) -> (Value<u8>, Value<f32>) {
        if let Some(&quantized) = self.quantized.get(&x.id) {
            return quantized;
        }
        let node = self.add(&format!("{address}/RowQuantize"), Node::textgen(ops::ROW_QUANTIZE).input(x));
        let quantized = (self.result(node, 0), self.result(node, 1));
        self.quantized.insert(x.id, quantized);
        quantized
    }

    fn add_bias(&mut self, address: &str, y: Value<f32>, bias: Option<Value<f32>>) -> Value<f32> {
        match bias {
            Some(bias) => self.sum(&format!("{address}/Add"), y, bias),
            None => y,
        }
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
