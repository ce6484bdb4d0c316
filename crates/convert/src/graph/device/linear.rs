//! Linear layers of a device; the number format of the weights is hidden here.

use half::f16;
use textgen_artifact::{INT4_BLOCK, WeightFormat, ops::Activation};

use super::{DeviceGraph, Node, Value};
use crate::{
    error::Result,
    graph::{Linear, builder::initializer_name},
    weights::{Float, Stored, StoredTable, Weight},
};

/// Inputs that share a scale, in 4 bits and in 8: CUDA's kernels know this size, and it is the most exact of those in
/// use.
const BLOCK: usize = INT4_BLOCK;

/// Format of a linear layer's weights. Activations are never quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceFormat {
    /// The type that the product is computed in.
    Float,
    /// 8 bits in blocks. Weights whose inputs do not fill blocks stay in floating point, here and in 4 bits.
    Int8,
    Int4,
}

impl DeviceFormat {
    fn bits(self) -> Option<usize> {
        match self {
            Self::Float => None,
            Self::Int8 => Some(8),
            Self::Int4 => Some(4),
        }
    }
}

impl<T: Float> DeviceGraph<'_, T> {
    /// A linear layer, `[B, S, inputs]` to `[B, S, outputs]`, computed in `E`.
    pub fn linear<E: Float>(
        &mut self,
        address: &str,
        x: Value<E>,
        layer: Linear<DeviceFormat>,
    ) -> Result<Value<E>> {
        let Linear { weight, bias, format } = layer;
        let product = match format.bits() {
            Some(bits) if weight.columns() % BLOCK == 0 => self.blocks(address, x, &weight, bits)?,
            _ => {
                self.inner.plan(address, float_format::<E>(), weight.shape());
                let weight = self.inner.full(&initializer_name(address, "weight"), &weight)?;
                self.product(address, x, weight)
            }
        };
        let Some(bias) = bias else { return Ok(product) };
        let bias: Vec<E> = bias.into_iter().map(E::of).collect();
        let bias = self.inner.initializer(&initializer_name(address, "bias"), &[bias.len()], &bias)?;
        Ok(self.binary(&format!("{address}/Add"), "Add", product, bias))
    }

    /// A linear layer whose outputs are a gate and values, one after the other: `activation(gate) · values`.
    pub fn gated_linear(
        &mut self,
        address: &str,
        x: Value<T>,
        layer: Linear<DeviceFormat>,
        activation: Activation,
    ) -> Result<Value<T>> {
        let [gate, values] = self.gate_and_values(address, x, layer, activation)?;
        Ok(self.multiply(address, gate, values))
    }

    /// The same without the product: `activation(gate)` and the values.
    pub fn gate_and_values(
        &mut self,
        address: &str,
        x: Value<T>,
        layer: Linear<DeviceFormat>,
        activation: Activation,
    ) -> Result<[Value<T>; 2]> {
        let half = layer.weight.rows() / 2;
        let both = self.linear(address, x, layer)?;
        let [gate, values] = self.split(&format!("{address}/Split"), both, [half; 2]);
        Ok([self.activation(&format!("{address}/act"), gate, activation), values])
    }

    /// `a · b`, element by element.
    pub fn multiply<E: Float>(&mut self, address: &str, a: Value<E>, b: Value<E>) -> Value<E> {
        self.binary(&format!("{address}/Mul"), "Mul", a, b)
    }

    /// The head: hidden states `[M, inputs]` to logits. A head that is tied to a table in f16 is not stored again.
    pub fn head(
        &mut self,
        hidden: Value<f32>,
        layer: Linear<DeviceFormat>,
        tied: Option<&StoredTable>,
    ) -> Result<Value<f32>> {
        const ADDRESS: &str = "/lm_head";
        let hidden = self.cast::<f32, f16>(&format!("{ADDRESS}/narrow"), hidden);
        let dtype = |table: &StoredTable| self.inner.weights.tensor(&table.table).map(|tensor| tensor.dtype);
        let tied =
            tied.filter(|table| dtype(table) == Some(f16::DTYPE) && layer.format == DeviceFormat::Float);
        let logits = match tied {
            None => self.linear(ADDRESS, hidden, layer)?,
            Some(table) => {
                let shape = layer.weight.shape();
                self.inner.plan(ADDRESS, WeightFormat::F16, shape);
                // `embed` has declared the table, perhaps with more rows.
                let weight = self.inner.external_again::<f16>(&table.table, &shape);
                let logits = self.product(ADDRESS, hidden, weight);
                match layer.bias {
                    None => logits,
                    Some(bias) => {
                        let bias: Vec<f16> = bias.into_iter().map(f16::from_f32).collect();
                        let name = initializer_name(ADDRESS, "bias");
                        let bias = self.inner.initializer(&name, &[bias.len()], &bias)?;
                        self.binary(&format!("{ADDRESS}/Add"), "Add", logits, bias)
                    }
                }
            }
        };
        Ok(self.cast(&format!("{ADDRESS}/widen"), logits))
    }

    /// `x · weightᵀ`. Unlike Gemm it takes any number of axes, unlike MatMul the weights as checkpoints have them.
    fn product<E: Float>(&mut self, address: &str, x: Value<E>, weight: Value<E>) -> Value<E> {
        let node = Node::microsoft("FusedMatMul").input(x).input(weight).int("transB", 1);
        self.inner.apply(&format!("{address}/FusedMatMul"), node)
    }

    fn blocks<E: Float>(
        &mut self,
        address: &str,
        x: Value<E>,
        weight: &Weight,
        bits: usize,
    ) -> Result<Value<E>> {
        let shape @ [outputs, inputs] = weight.shape();
        let (values, scales, format) = if bits == 8 {
            let (values, scales) = weight.to_int8_blocks(BLOCK)?;
            (values, scales, WeightFormat::Int8Weight { block: BLOCK })
        } else {
            let (values, scales) = weight.to_int4(BLOCK)?;
            (values, scales, WeightFormat::Int4Weight { block: BLOCK })
        };
        self.inner.plan(address, format, shape);
        let scales: Vec<E> = scales.into_iter().map(E::of).collect();
        let stored = [outputs, inputs / BLOCK, BLOCK * bits / 8];
        let values = self.inner.initializer(&initializer_name(address, "weight"), &stored, &values)?;
        let name = initializer_name(address, "weight_scale");
        let scales = self.inner.initializer(&name, &[outputs, inputs / BLOCK], &scales)?;
        let node = Node::microsoft("MatMulNBits")
            .input(x)
            .input(values)
            .input(scales)
            .int("K", inputs)
            .int("N", outputs)
            .int("bits", bits)
            .int("block_size", BLOCK);
        Ok(self.inner.apply(&format!("{address}/MatMulNBits"), node))
    }
}

fn float_format<E: Float>() -> WeightFormat {
    match E::DTYPE {
        textgen_artifact::DType::F16 => WeightFormat::F16,
        textgen_artifact::DType::BF16 => WeightFormat::Bf16,
        _ => WeightFormat::F32,
    }
}
