//! Norms, activations and arithmetic.

use textgen_artifact::ops::Activation;

use super::{GraphBuilder, Node, Value, builder::initializer_name};
use crate::error::Result;

/// Weights of a normalization over the last axis.
pub struct Norm {
    pub scale: Vec<f32>,
    /// Only for LayerNorm.
    pub bias: Option<Vec<f32>>,
    pub epsilon: f32,
}

/// A residual stream between two blocks of a pre-norm stack.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// Sum of all branches so far.
    pub residual: Value<f32>,
    /// The same, normalized for the next block.
    pub normed: Value<f32>,
}

impl GraphBuilder<'_> {
    pub fn relu(&mut self, address: &str, x: Value<f32>) -> Value<f32> {
        self.apply(address, Node::onnx("Relu").input(x))
    }

    pub fn activation(&mut self, address: &str, x: Value<f32>, activation: Activation) -> Value<f32> {
        match activation {
            Activation::Relu => self.relu(address, x),
            Activation::Silu => {
                self.apply(address, Node::microsoft("QuickGelu").input(x).float("alpha", 1.0))
            }
            Activation::GeluTanh => self.apply(address, Node::microsoft("FastGelu").input(x)),
            Activation::GeluErf => self.apply(address, Node::microsoft("Gelu").input(x)),
        }
    }

    pub fn sum(&mut self, address: &str, a: Value<f32>, b: Value<f32>) -> Value<f32> {
        self.apply(address, Node::onnx("Add").input(a).input(b))
    }

    pub fn mul(&mut self, address: &str, a: Value<f32>, b: Value<f32>) -> Value<f32> {
        self.apply(address, Node::onnx("Mul").input(a).input(b))
    }

    /// `x · factor`
    pub fn scale(&mut self, address: &str, x: Value<f32>, factor: f32) -> Value<f32> {
        let factor = self.scalar(&initializer_name(address, "factor"), factor);
        self.mul(address, x, factor)
    }

    /// `cap · tanh(x / cap)`
    pub fn softcap(&mut self, address: &str, x: Value<f32>, cap: f32) -> Value<f32> {
        let x = self.scale(&format!("{address}/in"), x, cap.recip());
        let x = self.apply(&format!("{address}/Tanh"), Node::onnx("Tanh").input(x));
        self.scale(&format!("{address}/out"), x, cap)
    }

    /// The two halves of the last axis.
    pub fn halves(&mut self, address: &str, x: Value<f32>) -> (Value<f32>, Value<f32>) {
        // The last axis of `[N, D]`; `num_outputs` divides it evenly.
        let node = self.add(address, Node::onnx("Split").input(x).int("axis", 1).int("num_outputs", 2));
        (self.result(node, 0), self.result(node, 1))
    }

    /// The rows `indices` of `x`.
    pub fn gather_rows(&mut self, address: &str, x: Value<f32>, indices: Value<i64>) -> Value<f32> {
        self.apply(address, Node::onnx("Gather").input(x).input(indices).int("axis", 0))
    }

    /// LayerNorm of `x + branch + bias`: the end of a post-norm block. `bias` is that of the branch's last
    /// linear layer.
    pub fn add_layer_norm(
        &mut self,
        address: &str,
        x: Value<f32>,
        branch: Value<f32>,
        bias: Option<&[f32]>,
        norm: &Norm,
    ) -> Result<Value<f32>> {
        let (scale, beta) = self.norm_weights(address, norm)?;
        let mut node =
            Node::microsoft("SkipLayerNormalization").input(x).input(branch).input(scale).optional(beta);
        if let Some(bias) = bias {
            let name = initializer_name(address, "branch_bias");
            node = node.input(self.initializer(&name, &[bias.len()], bias)?);
        }
        Ok(self.apply(&format!("{address}/SkipLayerNormalization"), node.float("epsilon", norm.epsilon)))
    }

    /// RMSNorm of `x`.
    pub fn rms_norm(&mut self, address: &str, x: Value<f32>, norm: &Norm) -> Result<Value<f32>> {
        let (scale, _) = self.norm_weights(address, norm)?;
        let node = Node::onnx("SimplifiedLayerNormalization")
            .input(x)
            .input(scale)
            .int("axis", 1)
            .int("stash_type", 1)
            .float("epsilon", norm.epsilon);
        Ok(self.apply(&format!("{address}/SimplifiedLayerNormalization"), node))
    }

    /// Adds a branch to the stream and normalizes it for the next block.
    pub fn join(&mut self, address: &str, stream: Stream, branch: Value<f32>, norm: &Norm) -> Result<Stream> {
        let (scale, _) = self.norm_weights(address, norm)?;
        let node = Node::microsoft("SkipSimplifiedLayerNormalization")
            .input(stream.residual)
            .input(branch)
            .input(scale)
            .float("epsilon", norm.epsilon);
        let node = self.add(&format!("{address}/SkipSimplifiedLayerNormalization"), node);
        Ok(Stream { normed: self.result(node, 0), residual: self.result(node, 3) })
    }

    fn norm_weights(&mut self, address: &str, norm: &Norm) -> Result<(Value<f32>, Option<Value<f32>>)> {
        let scale =
            self.initializer(&initializer_name(address, "weight"), &[norm.scale.len()], &norm.scale)?;
        let bias = match &norm.bias {
            Some(bias) => Some(self.initializer(&initializer_name(address, "bias"), &[bias.len()], bias)?),
            None => None,
        };
        Ok((scale, bias))
    }
}
