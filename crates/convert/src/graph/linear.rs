//! Linear layers; the number format of the weights is hidden here.

use textgen_artifact::{
    INT4_BLOCK, WeightFormat,
    ops::{self, Activation, PANEL_INPUTS, PANEL_OUTPUTS, panel_inputs, panel_place, panels},
};

use super::{
    GraphBuilder, Node, Value,
    builder::{INLINE_BYTES, initializer_name},
};
use crate::{
    error::Result,
    weights::{Float, StoredTable, Weight},
};

/// Root mean squares of a row beyond which [`LinearFormat::Int8Outlier`] multiplies in full precision. At 4, a
/// row of Gaussian noise has next to none of them, and the step of the 8-bit grid is as fine as such a row's own.
const CLIP: f32 = 4.0;

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
pub struct Linear<'s, F = LinearFormat> {
    /// `[outputs, inputs]`. Layers of one input are best stacked into one ([`Weight::stack`]).
    pub weight: Weight<'s>,
    /// One for each output.
    pub bias: Option<Vec<f32>>,
    pub format: F,
}

/// What becomes of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Nothing,
    Activated(Activation),
    /// `activation(first half) · second half`
    Gated(Activation),
}

impl GraphBuilder<'_> {
    /// A linear layer, `[N, inputs]` to `[N, outputs]`.
    pub fn linear(&mut self, address: &str, x: Value<f32>, layer: Linear) -> Result<Value<f32>> {
        self.linear_and(address, x, layer, After::Nothing)
    }

    /// A linear layer and an activation.
    pub fn activated_linear(
        &mut self,
        address: &str,
        x: Value<f32>,
        layer: Linear,
        activation: Activation,
    ) -> Result<Value<f32>> {
        self.linear_and(address, x, layer, After::Activated(activation))
    }

    /// A linear layer whose outputs are a gate and values, one after the other: `activation(gate) · values`.
    pub fn gated_linear(
        &mut self,
        address: &str,
        x: Value<f32>,
        layer: Linear,
        activation: Activation,
    ) -> Result<Value<f32>> {
        self.linear_and(address, x, layer, After::Gated(activation))
    }

    fn linear_and(
        &mut self,
        address: &str,
        x: Value<f32>,
        layer: Linear,
        after: After,
    ) -> Result<Value<f32>> {
        let Linear { weight, bias, mut format } = layer;
        if format == LinearFormat::Int4Block && weight.columns() % INT4_BLOCK != 0 {
            format = LinearFormat::Int8Column;
        }
        self.plan(address, format.into(), weight.shape());
        let bias = match bias {
            Some(bias) => Some(self.initializer(&initializer_name(address, "bias"), &[bias.len()], &bias)?),
            None => None,
        };
        let y = match format {
            LinearFormat::F32 => {
                let weight = self.full(&initializer_name(address, "weight"), &weight)?;
                self.gemm(address, x, weight, bias)
            }
            LinearFormat::Int8Column => return self.int8(address, x, &weight, bias, None, after),
            LinearFormat::Int8Outlier => return self.int8(address, x, &weight, bias, Some(CLIP), after),
            LinearFormat::Int4Block => self.int4(address, x, &weight, bias)?,
        };
        Ok(match after {
            After::Nothing => y,
            After::Activated(activation) => self.activation(&format!("{address}/act"), y, activation),
            After::Gated(activation) => {
                let (gate, values) = self.halves(&format!("{address}/Split"), y);
                let gate = self.activation(&format!("{address}/act"), gate, activation);
                self.mul(&format!("{address}/Mul"), gate, values)
            }
        })
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

    fn int8(
        &mut self,
        address: &str,
        x: Value<f32>,
        weight: &Weight,
        bias: Option<Value<f32>>,
        clip: Option<f32>,
        after: After,
    ) -> Result<Value<f32>> {
        let [outputs, inputs] = weight.shape();
        let (mut values, scales) = weight.to_int8()?;
        // The operator's range is symmetric; the quantizers of ours and of Bergamot keep to it.
        values.iter_mut().for_each(|value| *value = (*value).max(-i8::MAX));
        let halves = if matches!(after, After::Gated(_)) { 2 } else { 1 };
        let weight = self.packed(&initializer_name(address, "weight"), inputs, &values, halves)?;
        let sums: Vec<i32> =
            values.chunks_exact(inputs).map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect();
        let scale = self.initializer(&initializer_name(address, "weight_scale"), &[outputs], &scales)?;
        let sum = self.initializer(&initializer_name(address, "weight_sum"), &[outputs], &sums)?;
        let mut node =
            Node::textgen(ops::INT8_LINEAR).input(x).input(weight).input(scale).input(sum).optional(bias);
        if let Some(clip) = clip {
            node = node.float(ops::ATTR_CLIP, clip);
        }
        if let After::Activated(activation) | After::Gated(activation) = after {
            node = node.string(ops::ATTR_ACTIVATION, activation.name());
        }
        if halves == 2 {
            node = node.int(ops::ATTR_GATED, 1);
        }
        Ok(self.apply(&format!("{address}/{}", ops::INT8_LINEAR), node))
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

    /// A matrix in floating point.
    pub(super) fn full<T: Float>(&mut self, name: &str, weight: &Weight) -> Result<Value<T>> {
        let shape @ [rows, columns] = weight.shape();
        let rounded = |values: Vec<f32>| -> Vec<T> { values.into_iter().map(T::of).collect() };
        if rows * columns * size_of::<T>() <= INLINE_BYTES {
            return self.initializer(name, &shape, &rounded(weight.to_f32()?));
        }
        let mut tensor = self.weights.start::<T>(name, &shape)?;
        for stripe in weight.stripes() {
            tensor.extend(&rounded(stripe?.into_f32()))?;
        }
        tensor.finish();
        Ok(self.external(name, &shape))
    }

    /// Writes a matrix `[outputs, inputs]` in panels; those of several equal parts of the outputs take turns.
    fn packed(&mut self, name: &str, inputs: usize, values: &[i8], parts: usize) -> Result<Value<i8>> {
        let part = values.len() / parts;
        let (count, width) = (panels(part / inputs), panel_inputs(inputs));
        let shape = [parts * count, width / PANEL_INPUTS, PANEL_OUTPUTS * PANEL_INPUTS];
        let mut tensor = self.weights.start::<i8>(name, &shape)?;
        let mut panel = vec![0; width * PANEL_OUTPUTS];
        for index in 0..count {
            for part in values.chunks_exact(part) {
                panel.fill(0);
                let rows = part.chunks_exact(inputs).skip(index * PANEL_OUTPUTS).take(PANEL_OUTPUTS);
                for (output, row) in rows.enumerate() {
                    for (input, &value) in row.iter().enumerate() {
                        panel[panel_place(output, input)] = value;
                    }
                }
                tensor.extend(&panel)?;
            }
        }
        tensor.finish();
        Ok(self.external(name, &shape))
    }
}
