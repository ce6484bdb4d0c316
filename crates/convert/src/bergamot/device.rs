//! The two graphs for a device. The same model as in [`super::architecture`]; what differs is said in
//! [`crate::graph::device`].

use std::path::Path;

use textgen_artifact::{DECODER_FILE, ENCODER_FILE, Geometry, Part, ops::Activation};

use super::{
    architecture::{Bergamot, HEAD_BIAS},
    config::Config,
    positions::MAX_POSITIONS,
};
use crate::{
    checkpoint::{CudaPrecision, DeviceGraphs},
    error::Result,
    graph::{
        Linear, Value,
        device::{
            CrossInputs, DecoderInputs, DeviceFormat, DeviceGraph, EncoderInputs, RecurrentStates, Scores,
        },
    },
    weights::{Float, StoredTable, TensorSource, Weight, WeightsWriter},
};

/// See the module.
pub struct DeviceModel<'a> {
    pub model: &'a Bergamot,
    pub precision: CudaPrecision,
    pub table: &'a StoredTable,
    /// Tensor of the positions.
    pub positions: &'a str,
}

impl DeviceGraphs for DeviceModel<'_> {
    fn write<T: Float>(&self, dir: &Path, geometry: &Geometry, weights: &mut WeightsWriter) -> Result<usize> {
        self.encoder::<T>(geometry, weights)?.write(&dir.join(ENCODER_FILE))?;
        let (graph, candidates) = self.decoder::<T>(geometry, weights)?;
        graph.write(&dir.join(DECODER_FILE))?;
        Ok(candidates)
    }
}

impl DeviceModel<'_> {
    pub fn encoder<'w, T: Float>(
        &self,
        geometry: &Geometry,
        weights: &'w mut WeightsWriter,
    ) -> Result<DeviceGraph<'w, T>> {
        let mut graph = DeviceGraph::new(Part::Encoder, weights);
        let graph_ref = &mut graph;
        let inputs = EncoderInputs::declare(graph_ref);
        let ids = inputs.input_ids;
        let x = self.embed(graph_ref, ids);
        let shape = [MAX_POSITIONS, geometry.d_model];
        let mut x = graph_ref.add_first_positions(x, ids, self.positions, shape);
        for layer in 0..geometry.encoder_layers {
            let (address, tensors) = (format!("/encoder/layers.{layer}"), format!("encoder_l{}", layer + 1));
            let (at, of) = (format!("{address}/self_attn"), format!("{tensors}_self"));
            let narrow = graph_ref.narrow(&at, x);
            let qkv = self.model.projections(&of, &["q", "k", "v"], self.format())?;
            let qkv = graph_ref.linear(&format!("{at}/qkv"), narrow, qkv)?;
            let heads = self.model.heads();
            let mixed = graph_ref.encoder_attention(&at, qkv, inputs.lengths, None, heads, geometry.head_dim);
            x = self.attention_end(graph_ref, &at, &of, x, mixed)?;
            x = self.feed_forward(graph_ref, &address, &tensors, x)?;
        }
        let narrow = graph_ref.narrow("/encoder/output", x);
        for layer in 0..geometry.decoder_layers {
            let at = format!("/decoder/layers.{layer}/cross_attn");
            let of = format!("decoder_l{}_context", layer + 1);
            let kv = self.model.projections(&of, &["k", "v"], self.format())?;
            let kv = graph_ref.linear(&format!("{at}/kv"), narrow, kv)?;
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
        let d_model = geometry.d_model;
        let mut graph = DeviceGraph::new(Part::Decoder, weights);
        let graph_ref = &mut graph;
        let inputs = DecoderInputs::declare(graph_ref);
        let cross = CrossInputs::declare(graph_ref, geometry);
        let states = RecurrentStates::declare(graph_ref, geometry);
        let x = self.embed(graph_ref, inputs.input_ids);
        let shape = [MAX_POSITIONS, d_model];
        let mut x = graph_ref.add_positions(x, inputs.position_ids, self.positions, shape);
        for (layer, &past) in states.past.iter().enumerate() {
            let (address, tensors) = (format!("/decoder/layers.{layer}"), format!("decoder_l{}", layer + 1));

            let (at, of) = (format!("{address}/rnn"), format!("{tensors}_rnn"));
            let narrow = graph_ref.narrow(&at, x);
            let both = self.model.recurrent_layer(&of, self.format())?;
            let both = graph_ref.linear(&format!("{at}/forget_input"), narrow, both)?;
            let both = graph_ref.widen(&at, both);
            let [forget, input] = graph_ref.split(&format!("{at}/Split"), both, [d_model; 2]);
            let state = graph_ref.simple_recurrent_cell(&at, forget, input, past, inputs.position_ids);
            RecurrentStates::finish_layer(graph_ref, geometry, &at, layer, state);
            let branch = graph_ref.relu(&format!("{at}/Relu"), state);
            let norm = self.model.norm(&format!("{of}_ffn"))?;
            x = graph_ref.add_layer_norm(&format!("{at}/norm"), x, branch, None, &norm)?;

            let (at, of) = (format!("{address}/cross_attn"), format!("{tensors}_context"));
            let narrow = graph_ref.narrow(&at, x);
            let q = self.model.projections(&of, &["q"], self.format())?;
            let q = graph_ref.linear(&format!("{at}/q"), narrow, q)?;
            let mixed = graph_ref.cross_attention(&at, q, &cross, layer, self.model.heads());
            x = self.attention_end(graph_ref, &at, &of, x, mixed)?;
            x = self.feed_forward(graph_ref, &address, &tensors, x)?;
        }
        let hidden = inputs.wanted(graph_ref, geometry, x);
        let bias = Some(self.model.container.vector(HEAD_BIAS, geometry.vocab_size)?);
        let weight = self.model.embedding_weight();
        let head = Linear { weight, bias, format: self.format() };
        let logits = graph_ref.head(hidden, head, Some(self.table))?;
        let candidates = Scores::finish(graph_ref, geometry, logits);
        Ok((graph, candidates))
    }

    fn format(&self) -> DeviceFormat {
        self.precision.format()
    }

    fn embed<T: Float>(&self, graph: &mut DeviceGraph<T>, ids: Value<i64>) -> Value<f32> {
        let Config { d_model, vocab_size, .. } = self.model.config;
        // The row after the vocabulary is the decoder's beginning.
        graph.embed(ids, self.table, [vocab_size + 1, d_model], (d_model as f32).sqrt())
    }

    /// Output projection, residual and norm.
    fn attention_end<T: Float>(
        &self,
        graph: &mut DeviceGraph<T>,
        at: &str,
        tensors: &str,
        x: Value<f32>,
        mixed: Value<T>,
    ) -> Result<Value<f32>> {
        let d_model = self.model.config.d_model;
        let weight = self.model.weight(&format!("{tensors}_Wo"), d_model, d_model);
        let bias = self.model.container.vector(&format!("{tensors}_bo"), d_model)?;
        self.join(graph, at, "out", &format!("{tensors}_Wo"), x, mixed, weight, &bias)
    }

    fn feed_forward<T: Float>(
        &self,
        graph: &mut DeviceGraph<T>,
        layer: &str,
        tensors: &str,
        x: Value<f32>,
    ) -> Result<Value<f32>> {
        let (at, tensors) = (format!("{layer}/mlp"), format!("{tensors}_ffn"));
        let Config { d_model, d_ffn, .. } = self.model.config;
        let weight = self.model.weight(&format!("{tensors}_W1"), d_ffn, d_model);
        let bias = Some(self.model.container.vector(&format!("{tensors}_b1"), d_ffn)?);
        let narrow = graph.narrow(&at, x);
        let hidden =
            graph.linear(&format!("{at}/fc1"), narrow, Linear { weight, bias, format: self.format() })?;
        let hidden = graph.activation(&format!("{at}/act"), hidden, Activation::Relu);
        let weight = self.model.weight(&format!("{tensors}_W2"), d_model, d_ffn);
        let bias = self.model.container.vector(&format!("{tensors}_b2"), d_model)?;
        self.join(graph, &at, "fc2", &format!("{tensors}_ffn"), x, hidden, weight, &bias)
    }

    /// The end of a block: a product whose bias the norm adds.
    #[allow(clippy::too_many_arguments)]
    fn join<T: Float>(
        &self,
        graph: &mut DeviceGraph<T>,
        at: &str,
        part: &str,
        norm: &str,
        x: Value<f32>,
        hidden: Value<T>,
        weight: Weight,
        bias: &[f32],
    ) -> Result<Value<f32>> {
        let address = format!("{at}/{part}");
        let out = graph.linear(&address, hidden, Linear { weight, bias: None, format: self.format() })?;
        let out = graph.widen(&address, out);
        graph.add_layer_norm(&format!("{at}/norm"), x, out, Some(bias), &self.model.norm(norm)?)
    }
}
