//! The weights of the family, by what they are for, whatever graph and format they go to.

use super::{
    bias,
    config::Config,
    tensors::{Layout, Stack},
};
use crate::{
    error::Result,
    graph::{Heads, Linear, Norm},
    weights::{TensorSource, Weight},
};

/// See the module.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub config: &'a Config,
    pub layout: &'a Layout,
    pub tensors: &'a dyn TensorSource,
}

impl<'a> Parts<'a> {
    /// Every attention here is without a scale and has a key head for each query head.
    pub fn heads(&self) -> Heads {
        Heads { query: self.config.heads, kv: self.config.heads, scale: 1.0 }
    }

    fn weight(&self, name: &str, outputs: usize, inputs: usize) -> Weight<'a> {
        Weight::stored(self.tensors, &format!("{name}.weight"), outputs, inputs)
    }

    pub fn norm(&self, tensor: &str) -> Result<Norm> {
        let scale = self.tensors.vector(tensor, self.config.d_model)?;
        Ok(Norm { scale, bias: None, epsilon: self.config.epsilon })
    }

    /// Several projections of one attention's input as one product.
    pub fn projection<F>(&self, attention: &str, parts: &[&str], format: F) -> Linear<'a, F> {
        let Config { inner, d_model, .. } = *self.config;
        let parts = parts.iter().map(|part| self.weight(&format!("{attention}.{part}"), inner, d_model));
        Linear { weight: Weight::stack(parts), bias: None, format }
    }

    pub fn attention_output<F>(&self, attention: &str, format: F) -> Linear<'a, F> {
        let weight = self.weight(&format!("{attention}.o"), self.config.d_model, self.config.inner);
        Linear { weight, bias: None, format }
    }

    /// First product of a feed-forward block: the gate and the values where it has a gate.
    pub fn feed_forward_input<F>(&self, prefix: &str, format: F) -> Linear<'a, F> {
        let Config { d_model, d_ff, gated, .. } = *self.config;
        let names = if gated { ["wi_0", "wi_1"].as_slice() } else { &["wi"] };
        let weights = names.iter().map(|name| self.weight(&format!("{prefix}.{name}"), d_ff, d_model));
        Linear { weight: Weight::stack(weights), bias: None, format }
    }

    pub fn feed_forward_output<F>(&self, prefix: &str, format: F) -> Linear<'a, F> {
        let Config { d_model, d_ff, .. } = *self.config;
        Linear { weight: self.weight(&format!("{prefix}.wo"), d_model, d_ff), bias: None, format }
    }

    pub fn head<F>(&self, format: F) -> Linear<'a, F> {
        let Config { vocab_size, d_model, .. } = *self.config;
        let tensor = self.layout.head.as_ref().unwrap_or(&self.layout.decoder_embedding);
        let weight = self.weight(tensor.trim_end_matches(".weight"), vocab_size, d_model);
        Linear { weight, bias: None, format }
    }

    /// Factor of the decoder's output before the head.
    pub fn output_scale(&self) -> Option<f32> {
        self.config.scaled_output.then(|| (self.config.d_model as f32).sqrt().recip())
    }

    /// The layer after a feed-forward block has its norm there: address and tensor.
    pub fn next_norm(&self, stack: Stack, layer: usize) -> (String, String) {
        let (part, next) = (stack.name(), layer + 1);
        if next == stack.layers(self.config) {
            (format!("/{part}/final_norm"), stack.final_norm())
        } else {
            (format!("/{part}/layers.{next}/self_attn_norm"), stack.self_attention_norm(next))
        }
    }

    /// Layers with a bias of their own; the others share the last one's.
    pub fn bias_tables(&self, stack: Stack) -> usize {
        if self.layout.has_own_tables(stack) { stack.layers(self.config) } else { 1 }
    }

    /// Self-attention's bias for each distance, `[heads, distances]`.
    pub fn bias_values(&self, stack: Stack, layer: usize) -> Result<Vec<f32>> {
        let Config { heads, buckets, .. } = *self.config;
        let table = self.tensors.matrix(&stack.bias_table(layer), buckets.count, heads)?.into_f32();
        Ok(match stack {
            Stack::Encoder => bias::both_directions(&table, heads, buckets),
            Stack::Decoder => bias::backwards(&table, heads, buckets),
        })
    }
}
