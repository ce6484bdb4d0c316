//! The two graphs for a device. The same model as in [`super::encoder`] and [`super::decoder`]; what differs is said in
//! [`crate::graph::device`].
//!
//! The end of the feed-forward block is computed in f32 where the other products are in f16: the gated values, which are
//! products of two large numbers, and the outputs of `wo`, which leave the range of f16 in published checkpoints.

use std::path::Path;

use textgen_artifact::{DECODER_FILE, ENCODER_FILE, Geometry, Part};

use super::{
    parts::Parts,
    tensors::{self, Stack},
};
use crate::{
    checkpoint::{CudaPrecision, DeviceGraphs},
    error::Result,
    graph::{
        Sight, Stream, Value,
        device::{CrossInputs, DecoderInputs, DeviceFormat, DeviceGraph, EncoderInputs, Scores, SelfCaches},
    },
    weights::{Float, StoredTable, WeightsWriter},
};

/// See the module.
pub struct DeviceLayers<'a> {
    pub parts: Parts<'a>,
    pub precision: CudaPrecision,
    pub encoder_table: &'a StoredTable,
    pub decoder_table: &'a StoredTable,
}

impl DeviceGraphs for DeviceLayers<'_> {
    fn write<T: Float>(&self, dir: &Path, geometry: &Geometry, weights: &mut WeightsWriter) -> Result<usize> {
        self.encoder::<T>(geometry, weights)?.write(&dir.join(ENCODER_FILE))?;
        let (graph, candidates) = self.decoder::<T>(geometry, weights)?;
        graph.write(&dir.join(DECODER_FILE))?;
        Ok(candidates)
    }
}

impl DeviceLayers<'_> {
    pub fn encoder<'w, T: Float>(
        &self,
        geometry: &Geometry,
        weights: &'w mut WeightsWriter,
    ) -> Result<DeviceGraph<'w, T>> {
        const STACK: Stack = Stack::Encoder;
        let config = self.parts.config;
        let mut graph = DeviceGraph::new(Part::Encoder, weights);
        let graph_ref = &mut graph;
        let inputs = EncoderInputs::declare(graph_ref);
        let distances = graph_ref.both_distances(inputs.input_ids, config.buckets.max_distance);
        let mut biases = Vec::with_capacity(config.encoder_layers);
        for layer in 0..self.parts.bias_tables(STACK) {
            let at = format!("/encoder/layers.{layer}/self_attn/bias");
            let values = self.parts.bias_values(STACK, layer)?;
            biases.push(graph_ref.both_bias(&at, &values, config.heads, distances)?);
        }
        let mut stream = self.begin(graph_ref, STACK, inputs.input_ids, self.encoder_table)?;
        for layer in 0..config.encoder_layers {
            let address = format!("/encoder/layers.{layer}");
            let attention = STACK.self_attention(layer);
            let at = format!("{address}/self_attn");
            let qkv =
                self.projection(graph_ref, &format!("{at}/qkv"), stream, &attention, &["q", "k", "v"])?;
            let bias = biases[layer.min(biases.len() - 1)];
            let heads = self.parts.heads();
            let mixed =
                graph_ref.encoder_attention(&at, qkv, inputs.lengths, Some(bias), heads, config.head_dim);
            let norm = STACK.feed_forward_norm(layer);
            stream =
                self.end_attention(graph_ref, &at, mixed, &attention, stream, &address, "mlp_norm", &norm)?;
            stream = self.feed_forward(graph_ref, STACK, layer, stream)?;
        }
        let normed = graph_ref.narrow("/encoder/output", stream.normed);
        for layer in 0..geometry.decoder_layers {
            let at = format!("/decoder/layers.{layer}/cross_attn");
            let attention = tensors::cross_attention(layer);
            let kv = self.parts.projection(&attention, &["k", "v"], self.precision.format());
            let kv = graph_ref.linear(&format!("{at}/kv"), normed, kv)?;
            EncoderInputs::finish_layer(graph_ref, geometry, &at, layer, kv);
        }
        Ok(graph)
    }

    /// The graph, and the number of candidates in its output.
    pub fn decoder<'w, T: Float>(
        &self,
        geometry: &Geometry,
        weights: &'w mut WeightsWriter,
    ) -> Result<(DeviceGraph<'w, T>, usize)> {
        const STACK: Stack = Stack::Decoder;
        let config = self.parts.config;
        let mut graph = DeviceGraph::new(Part::Decoder, weights);
        let graph_ref = &mut graph;
        let inputs = DecoderInputs::declare(graph_ref);
        let mut caches = SelfCaches::declare(graph_ref, geometry);
        let cross = CrossInputs::declare(graph_ref, geometry);
        let furthest = config.buckets.max_distance;
        let distances = graph_ref.backward_distances(inputs.position_ids, &caches, furthest);
        let mut biases = Vec::with_capacity(config.decoder_layers);
        for layer in 0..self.parts.bias_tables(STACK) {
            let at = format!("/decoder/layers.{layer}/self_attn/bias");
            let values = self.parts.bias_values(STACK, layer)?;
            biases.push(graph_ref.backward_bias(&at, &values, config.heads, distances)?);
        }
        let heads = self.parts.heads();
        let mut stream = self.begin(graph_ref, STACK, inputs.input_ids, self.decoder_table)?;
        for layer in 0..config.decoder_layers {
            let address = format!("/decoder/layers.{layer}");
            let attention = STACK.self_attention(layer);
            let at = format!("{address}/self_attn");
            let qkv =
                self.projection(graph_ref, &format!("{at}/qkv"), stream, &attention, &["q", "k", "v"])?;
            let bias = biases[layer.min(biases.len() - 1)];
            let mixed = graph_ref.cached_attention(
                &at,
                qkv,
                &mut caches,
                layer,
                heads,
                config.head_dim,
                None,
                Some(bias),
                Sight::default(),
            )?;
            let norm = tensors::cross_attention_norm(layer);
            let to = "cross_attn_norm";
            stream = self.end_attention(graph_ref, &at, mixed, &attention, stream, &address, to, &norm)?;

            let attention = tensors::cross_attention(layer);
            let at = format!("{address}/cross_attn");
            let q = self.projection(graph_ref, &format!("{at}/q"), stream, &attention, &["q"])?;
            let mixed = graph_ref.cross_attention(&at, q, &cross, layer, heads);
            let norm = STACK.feed_forward_norm(layer);
            stream =
                self.end_attention(graph_ref, &at, mixed, &attention, stream, &address, "mlp_norm", &norm)?;
            stream = self.feed_forward(graph_ref, STACK, layer, stream)?;
        }
        let mut hidden = inputs.wanted(graph_ref, geometry, stream.normed);
        if let Some(scale) = self.parts.output_scale() {
            hidden = graph_ref.scale("/decoder/scale", hidden, scale);
        }
        let tied = self.parts.layout.head.is_none().then_some(self.decoder_table);
        let logits = graph_ref.head(hidden, self.parts.head(self.precision.format()), tied)?;
        caches.finish(graph_ref, geometry);
        let candidates = Scores::finish(graph_ref, geometry, logits);
        Ok((graph, candidates))
    }

    fn begin<T: Float>(
        &self,
        graph: &mut DeviceGraph<T>,
        stack: Stack,
        ids: Value<i64>,
        table: &StoredTable,
    ) -> Result<Stream> {
        let shape = [self.parts.config.vocab_size, self.parts.config.d_model];
        let x = graph.embed(ids, table, shape, 1.0);
        let norm = self.parts.norm(&stack.self_attention_norm(0))?;
        graph.begin(&format!("/{}/layers.0/self_attn_norm", stack.name()), x, &norm)
    }

    fn projection<T: Float>(
        &self,
        graph: &mut DeviceGraph<T>,
        address: &str,
        stream: Stream,
        attention: &str,
        parts: &[&str],
    ) -> Result<Value<T>> {
        let x = graph.narrow(address, stream.normed);
        graph.linear(address, x, self.parts.projection(attention, parts, self.precision.format()))
    }

    #[allow(clippy::too_many_arguments)]
    fn end_attention<T: Float>(
        &self,
        graph: &mut DeviceGraph<T>,
        at: &str,
        mixed: Value<T>,
        attention: &str,
        stream: Stream,
        address: &str,
        to: &str,
        norm: &str,
    ) -> Result<Stream> {
        let output = self.parts.attention_output(attention, self.precision.format());
        let branch = graph.linear(&format!("{at}/o"), mixed, output)?;
        let branch = graph.widen(at, branch);
        graph.join(&format!("{address}/{to}"), stream, branch, &self.parts.norm(norm)?)
    }

    fn feed_forward<T: Float>(
        &self,
        graph: &mut DeviceGraph<T>,
        stack: Stack,
        layer: usize,
        stream: Stream,
    ) -> Result<Stream> {
        let at = format!("/{}/layers.{layer}/mlp", stack.name());
        let prefix = stack.feed_forward(layer);
        let activation = self.parts.config.activation;
        let x = graph.narrow(&at, stream.normed);
        let input = self.parts.feed_forward_input(&prefix, self.precision.format());
        let (inner, outer) = (format!("{at}/wi"), format!("{at}/wo"));
        let (gate, values) = if self.parts.config.gated {
            let [gate, values] = graph.gate_and_values(&inner, x, input, activation)?;
            (Some(gate), values)
        } else {
            let values = graph.linear(&inner, x, input)?;
            (None, graph.activation(&format!("{inner}/act"), values, activation))
        };
        let branch = if self.precision == CudaPrecision::Bf16 {
            let hidden = gate.map_or(values, |gate| graph.multiply(&inner, gate, values));
            let wo = self.parts.feed_forward_output(&prefix, DeviceFormat::Float);
            let branch = graph.linear(&outer, hidden, wo)?;
            graph.widen(&outer, branch)
        } else {
            let values = graph.widen(&outer, values);
            let hidden = match gate {
                Some(gate) => {
                    let gate = graph.widen(&format!("{inner}/gate"), gate);
                    graph.multiply(&inner, gate, values)
                }
                None => values,
            };
            graph.linear(&outer, hidden, self.parts.feed_forward_output(&prefix, self.precision.format()))?
        };
        let (address, norm) = self.parts.next_norm(stack, layer);
        graph.join(&address, stream, branch, &self.parts.norm(&norm)?)
    }
}
