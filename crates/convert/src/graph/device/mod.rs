//! The builder of graphs for a device: operators that ONNX Runtime has CUDA kernels for, and none of ours.
//!
//! Products and attention have 16-bit elements `T`, which CUDA has the fastest kernels for, and attention no others.
//! The residual stream and the norms are f32 whatever `T` is: sums of many branches leave the range of f16, and the
//! precision of bf16. The head is f16 in both cases, since its inputs are normalized and its outputs decide.
//!
//! Values keep their axes `[B, S, …]` from the first node to the last, so that no shape is computed on the way: such
//! nodes would be on the host, and a step with one of them cannot be captured.

mod attention;
mod interface;
mod linear;

use std::{marker::PhantomData, path::Path};

use half::f16;
use textgen_artifact::{DType, Part, ops::Activation};

use super::{GraphBuilder, Node, Norm, Stream, Value, builder::initializer_name};
use crate::{
    error::Result,
    onnx::ModelProto,
    weights::{Element, Float, StoredTable, WeightsWriter},
};

pub use attention::{Rotary, RotaryTables, check_heads};
pub use interface::{
    CANDIDATES, CrossInputs, DecoderInputs, DeviceCache, EncoderInputs, RecurrentStates, Scores, SelfCaches,
};
pub use linear::DeviceFormat;

/// Builds one graph for a device.
pub struct DeviceGraph<'w, T> {
    inner: GraphBuilder<'w>,
    element: PhantomData<T>,
}

impl<'w, T: Float> DeviceGraph<'w, T> {
    /// A graph of this part of the model, which also names it.
    pub fn new(part: Part, weights: &'w mut WeightsWriter) -> Self {
        Self { inner: GraphBuilder::for_device(part, weights), element: PhantomData }
    }

    /// The finished model.
    pub fn finish(self) -> ModelProto {
        self.inner.finish()
    }

    /// Writes the finished model to a file.
    pub fn write(self, path: &Path) -> Result<()> {
        self.inner.write(path)
    }

    /// The rows of an embedding table, times `scale`.
    pub fn embed(
        &mut self,
        ids: Value<i64>,
        table: &StoredTable,
        shape: [usize; 2],
        scale: f32,
    ) -> Value<f32> {
        const ADDRESS: &str = "/embedding";
        let dtype = self.inner.weights.tensor(&table.table).map(|tensor| tensor.dtype);
        let rows = if dtype == Some(DType::F32) {
            let table = self.inner.external::<f32>(&table.table, &shape);
            self.gather::<f32>(&format!("{ADDRESS}/Gather"), table, ids)
        } else {
            let table = self.inner.external::<f16>(&table.table, &shape);
            let rows = self.gather::<f16>(&format!("{ADDRESS}/Gather"), table, ids);
            self.cast(&format!("{ADDRESS}/Cast"), rows)
        };
        if scale == 1.0 { rows } else { self.inner.scale(&format!("{ADDRESS}/scale"), rows, scale) }
    }

    /// Adds the rows of a table of positions.
    pub fn add_positions(
        &mut self,
        x: Value<f32>,
        positions: Value<i64>,
        table: &str,
        shape: [usize; 2],
    ) -> Value<f32> {
        let table = self.inner.external::<f32>(table, &shape);
        let rows = self.gather::<f32>("/positions/Gather", table, positions);
        self.inner.sum("/positions/Add", x, rows)
    }

    /// The stream at a pre-norm stack's first block.
    pub fn begin(&mut self, address: &str, x: Value<f32>, norm: &Norm) -> Result<Stream> {
        Ok(Stream { residual: x, normed: self.rms_norm(address, x, norm, 2)? })
    }

    /// Adds a branch to the stream and normalizes it for the next block.
    pub fn join(&mut self, address: &str, stream: Stream, branch: Value<f32>, norm: &Norm) -> Result<Stream> {
        self.inner.join(address, stream, branch, norm)
    }

    /// RMSNorm over the last axis, which is `axis`.
    pub fn rms_norm<E: Float>(
        &mut self,
        address: &str,
        x: Value<E>,
        norm: &Norm,
        axis: usize,
    ) -> Result<Value<E>> {
        let scale: Vec<E> = norm.scale.iter().map(|&weight| E::of(weight)).collect();
        let scale = self.inner.initializer(&initializer_name(address, "weight"), &[scale.len()], &scale)?;
        let node = Node::onnx("SimplifiedLayerNormalization")
            .input(x)
            .input(scale)
            .int("axis", axis)
            .int("stash_type", 1)
            .float("epsilon", norm.epsilon);
        Ok(self.inner.apply(&format!("{address}/SimplifiedLayerNormalization"), node))
    }

    /// LayerNorm of `x + branch + bias`.
    pub fn add_layer_norm(
        &mut self,
        address: &str,
        x: Value<f32>,
        branch: Value<f32>,
        bias: Option<&[f32]>,
        norm: &Norm,
    ) -> Result<Value<f32>> {
        self.inner.add_layer_norm(address, x, branch, bias, norm)
    }

    /// `x · factor`
    pub fn scale(&mut self, address: &str, x: Value<f32>, factor: f32) -> Value<f32> {
        self.inner.scale(address, x, factor)
    }

    /// `cap · tanh(x / cap)`
    pub fn softcap(&mut self, address: &str, x: Value<f32>, cap: f32) -> Value<f32> {
        self.inner.softcap(address, x, cap)
    }

    pub fn relu(&mut self, address: &str, x: Value<f32>) -> Value<f32> {
        self.inner.relu(address, x)
    }

    /// Adds the first rows of a table of positions, as many as there are tokens in a row.
    pub fn add_first_positions(
        &mut self,
        x: Value<f32>,
        ids: Value<i64>,
        table: &str,
        shape: [usize; 2],
    ) -> Value<f32> {
        let table = self.inner.external::<f32>(table, &shape);
        let first = self.constant("axis.0", &[0]);
        let count = self.token_count(ids);
        let node = Node::onnx("Slice").input(table).input(first).input(count).input(first);
        let rows = self.inner.apply("/positions/Slice", node);
        self.inner.sum("/positions/Add", x, rows)
    }

    /// Positions of a step's tokens that start at 0, `[S]`.
    fn own_positions(&mut self, ids: Value<i64>) -> Value<i64> {
        let count = self.token_count(ids);
        // A list of one serves as a scalar; a node that made one of it would be on the host.
        self.inner.range_to("/positions/Range", count)
    }

    /// Tokens of a row, as a list of one.
    fn token_count(&mut self, ids: Value<i64>) -> Value<i64> {
        let node = Node::onnx("Shape").input(ids).int("start", 1).int("end", 2);
        self.inner.apply("/positions/Shape", node)
    }

    pub fn activation(&mut self, address: &str, x: Value<T>, activation: Activation) -> Value<T> {
        let node = match activation {
            Activation::Relu => Node::onnx("Relu").input(x),
            Activation::Silu => Node::microsoft("QuickGelu").input(x).float("alpha", 1.0),
            Activation::GeluTanh => Node::microsoft("FastGelu").input(x),
            Activation::GeluErf => Node::microsoft("Gelu").input(x),
        };
        self.inner.apply(address, node)
    }

    /// Values of another type.
    pub fn cast<F: Element, E: Element>(&mut self, address: &str, x: Value<F>) -> Value<E> {
        let to = usize::try_from(i32::from(E::DATA_TYPE)).expect("element types are numbered from 0");
        self.inner.apply(address, Node::onnx("Cast").input(x).int("to", to))
    }

    /// Values for a product.
    pub fn narrow(&mut self, address: &str, x: Value<f32>) -> Value<T> {
        self.cast(&format!("{address}/narrow"), x)
    }

    /// A product's values for the residual stream.
    pub fn widen(&mut self, address: &str, x: Value<T>) -> Value<f32> {
        self.cast(&format!("{address}/widen"), x)
    }

    fn gather<E: Element>(&mut self, address: &str, table: Value<E>, indices: Value<i64>) -> Value<E> {
        self.inner.apply(address, Node::onnx("Gather").input(table).input(indices).int("axis", 0))
    }

    fn binary<E: Element>(&mut self, address: &str, op: &'static str, a: Value<E>, b: Value<E>) -> Value<E> {
        self.inner.apply(address, Node::onnx(op).input(a).input(b))
    }

    /// A small constant, once in the graph under any number of uses.
    fn constant(&mut self, name: &str, values: &[i64]) -> Value<i64> {
        self.inner.constant(name, values)
    }

    fn reshape<E: Element>(&mut self, address: &str, x: Value<E>, name: &str, shape: &[i64]) -> Value<E> {
        let shape = self.constant(name, shape);
        self.inner.apply(address, Node::onnx("Reshape").input(x).input(shape))
    }

    fn unsqueeze<E: Element>(&mut self, address: &str, x: Value<E>, axis: i64) -> Value<E> {
        let axes = self.constant(&format!("axis.{axis}"), &[axis]);
        self.inner.apply(address, Node::onnx("Unsqueeze").input(x).input(axes))
    }

    /// Parts of the last axis of `[B, S, D]`, of these widths.
    pub fn split<E: Element, const N: usize>(
        &mut self,
        address: &str,
        x: Value<E>,
        widths: [usize; N],
    ) -> [Value<E>; N] {
        let widths = widths.map(|width| i64::try_from(width).expect("a size in memory fits in 63 bits"));
        let name = widths.iter().map(i64::to_string).collect::<Vec<_>>().join(".");
        let widths = self.constant(&format!("widths.{name}"), &widths);
        let node = self.inner.add(address, Node::onnx("Split").input(x).input(widths).int("axis", 2));
        std::array::from_fn(|index| self.inner.result(node, index))
    }
}
