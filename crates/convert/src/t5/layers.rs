//! What both stacks are made of.

use super::{
    bias,
    config::Config,
    tensors::{Layout, Stack},
};
use crate::{
    checkpoint::Precision,
    error::Result,
    graph::{GraphBuilder, Heads, Linear, LinearFormat, Norm, Value},
    weights::{TensorSource, Weight},
};

/// Reads the weights of a block and adds its nodes to a graph.
pub struct Layers<'a> {
    pub config: &'a Config,
    pub layout: &'a Layout,
    tensors: &'a dyn TensorSource,
    pub precision: Precision,
}

/// A residual stream between two blocks.
#[derive(Clone, Copy)]
pub struct Stream {
    /// Sum of all branches so far.
    pub residual: Value<f32>,
    /// The same, normalized for the next block.
    pub normed: Value<f32>,
}

impl<'a> Layers<'a> {
    pub fn new(
        config: &'a Config,
        layout: &'a Layout,
        tensors: &'a dyn TensorSource,
        precision: Precision,
    ) -> Self {
        Self { config, layout, tensors, precision }
    }

    /// Every attention here is without a scale and has a key head for each query head.
    pub fn heads(&self) -> Heads {
        Heads { query: self.config.heads, kv: self.config.heads, scale: 1.0 }
    }

    pub fn weight(&self, name: &str, outputs: usize, inputs: usize) -> Weight<'a> {
        Weight::stored(self.tensors, &format!("{name}.weight"), outputs, inputs)
    }

    fn norm(&self, tensor: &str) -> Result<Norm> {
        let scale = self.tensors.vector(tensor, self.config.d_model)?;
        Ok(Norm { scale, bias: None, epsilon: self.config.epsilon })
    }

    /// Format of a product whose inputs are well behaved.
    pub fn format(&self) -> LinearFormat {
        match self.precision {
            Precision::Fp32 => LinearFormat::F32,
            Precision::Int8 | Precision::Int4 => LinearFormat::Int8Column,
        }
    }

    /// Format of the feed-forward output, whose inputs have outliers.
    fn outlier_format(&self) -> LinearFormat {
        match self.precision {
            Precision::Fp32 => LinearFormat::F32,
            Precision::Int8 | Precision::Int4 => LinearFormat::Int8Outlier,
        }
    }

    /// The embedded tokens, normalized for a stack's first layer.
    pub fn begin(&self, graph: &mut GraphBuilder, stack: Stack, x: Value<f32>) -> Result<Stream> {
        let address = format!("/{}/layers.0/self_attn_norm", stack.name());
        let normed = graph.rms_norm(&address, x, &self.norm(&stack.self_attention_norm(0))?)?;
        Ok(Stream { residual: x, normed })
    }

    /// Queries, keys and values of a layer's self-attention.
    pub fn self_attention_input(
        &self,
        graph: &mut GraphBuilder,
        stack: Stack,
        layer: usize,
        x: Value<f32>,
    ) -> Result<Value<f32>> {
        let address = format!("/{}/layers.{layer}/self_attn/qkv", stack.name());
        self.projection(graph, &address, x, &stack.self_attention(layer), &["q", "k", "v"])
    }

    /// A layer's feed-forward block, and the norm that follows: the next layer's first, or the stack's last.
    pub fn end_layer(
        &self,
        graph: &mut GraphBuilder,
        stack: Stack,
        layer: usize,
        stream: Stream,
    ) -> Result<Stream> {
        let part = stack.name();
        let mlp = format!("/{part}/layers.{layer}/mlp");
        let branch = self.feed_forward(graph, &mlp, stream.normed, &stack.feed_forward(layer))?;
        let next = layer + 1;
        let (address, norm) = if next == stack.layers(self.config) {
            (format!("/{part}/final_norm"), stack.final_norm())
        } else {
            (format!("/{part}/layers.{next}/self_attn_norm"), stack.self_attention_norm(next))
        };
        self.join(graph, &address, stream, branch, &norm)
    }

    /// Adds a block's output to the stream and normalizes it for the next one.
    pub fn join(
        &self,
        graph: &mut GraphBuilder,
        address: &str,
        stream: Stream,
        branch: Value<f32>,
        norm: &str,
    ) -> Result<Stream> {
        let (normed, residual) = graph.add_rms_norm(address, stream.residual, branch, &self.norm(norm)?)?;
        Ok(Stream { residual, normed })
    }

    /// Several projections of one attention's input as one product.
    pub fn projection(
        &self,
        graph: &mut GraphBuilder,
        address: &str,
        x: Value<f32>,
        attention: &str,
        parts: &[&str],
    ) -> Result<Value<f32>> {
        let Config { inner, d_model, .. } = *self.config;
        let parts = parts.iter().map(|part| self.weight(&format!("{attention}.{part}"), inner, d_model));
        let weight = Weight::stack(parts);
        graph.linear(address, x, Linear { weight, bias: None, format: self.format() })
    }

    pub fn attention_output(
        &self,
        graph: &mut GraphBuilder,
        address: &str,
        x: Value<f32>,
        attention: &str,
    ) -> Result<Value<f32>> {
        let weight = self.weight(&format!("{attention}.o"), self.config.d_model, self.config.inner);
        graph.linear(address, x, Linear { weight, bias: None, format: self.format() })
    }

    /// The bias of each layer's self-attention; one value for all where they share it.
    pub fn position_biases(&self, graph: &mut GraphBuilder, stack: Stack) -> Result<Vec<Value<f32>>> {
        let Config { heads, buckets, .. } = *self.config;
        let layers = stack.layers(self.config);
        let tables = if self.layout.has_own_tables(stack) { layers } else { 1 };
        let mut biases = Vec::with_capacity(layers);
        for layer in 0..tables {
            let table = self.tensors.matrix(&stack.bias_table(layer), buckets.count, heads)?.into_f32();
            let values = match stack {
                Stack::Encoder => bias::both_directions(&table, heads, buckets),
                Stack::Decoder => bias::backwards(&table, heads, buckets),
            };
            let name = format!("{}.layers.{layer}.self_attn.position_bias", stack.name());
            biases.push(graph.initializer(&name, &[heads, values.len() / heads], &values)?);
        }
        let last = biases[tables - 1];
        biases.resize(layers, last);
        Ok(biases)
    }

    pub fn feed_forward(
        &self,
        graph: &mut GraphBuilder,
        address: &str,
        x: Value<f32>,
        prefix: &str,
    ) -> Result<Value<f32>> {
        let Config { d_model, d_ff, gated, activation, .. } = *self.config;
        let input = |name: &str| self.weight(&format!("{prefix}.{name}"), d_ff, d_model);
        let (at, format) = (format!("{address}/wi"), self.format());
        let hidden = if gated {
            let weight = Weight::stack([input("wi_0"), input("wi_1")]);
            graph.gated_linear(&at, x, Linear { weight, bias: None, format }, activation)?
        } else {
            graph.activated_linear(&at, x, Linear { weight: input("wi"), bias: None, format }, activation)?
        };
        let weight = self.weight(&format!("{prefix}.wo"), d_model, d_ff);
        let wo = Linear { weight, bias: None, format: self.outlier_format() };
        graph.linear(&format!("{address}/wo"), hidden, wo)
    }
}
