//! What both stacks are made of.

use super::{config::Config, parts::Parts, tensors::Stack};
use crate::{
    checkpoint::Precision,
    error::Result,
    graph::{GraphBuilder, LinearFormat, Stream, Value},
};

/// Reads the weights of a block and adds its nodes to a graph.
pub struct Layers<'a> {
    pub parts: Parts<'a>,
    pub precision: Precision,
}

impl Layers<'_> {
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
        let normed = graph.rms_norm(&address, x, &self.parts.norm(&stack.self_attention_norm(0))?)?;
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
        let (address, norm) = self.parts.next_norm(stack, layer);
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
        graph.join(address, stream, branch, &self.parts.norm(norm)?)
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
        graph.linear(address, x, self.parts.projection(attention, parts, self.format()))
    }

    pub fn attention_output(
        &self,
        graph: &mut GraphBuilder,
        address: &str,
        x: Value<f32>,
        attention: &str,
    ) -> Result<Value<f32>> {
        graph.linear(address, x, self.parts.attention_output(attention, self.format()))
    }

    /// The bias of each layer's self-attention; one value for all where they share it.
    pub fn position_biases(&self, graph: &mut GraphBuilder, stack: Stack) -> Result<Vec<Value<f32>>> {
        let layers = stack.layers(self.parts.config);
        let tables = self.parts.bias_tables(stack);
        let mut biases = Vec::with_capacity(layers);
        let heads = self.parts.config.heads;
        for layer in 0..tables {
            let values = self.parts.bias_values(stack, layer)?;
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
        let Config { gated, activation, .. } = *self.parts.config;
        let at = format!("{address}/wi");
        let input = self.parts.feed_forward_input(prefix, self.format());
        let hidden = if gated {
            graph.gated_linear(&at, x, input, activation)?
        } else {
            graph.activated_linear(&at, x, input, activation)?
        };
        let wo = self.parts.feed_forward_output(prefix, self.outlier_format());
        graph.linear(&format!("{address}/wo"), hidden, wo)
    }
}
