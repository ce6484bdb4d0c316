//! The encoder graph: embedded source to the decoder's cross-attention caches.
//!
//! ```text
//! x ─ norm ─ qkv ─ RaggedAttention ─ o ─ add+norm ─ feed-forward ─ add+norm ─ … ─ final norm
//!                                                                                  │ for each decoder layer
//!                                                                                  └ kv ─ CacheWrite
//! ```

use textgen_artifact::{Geometry, Part};

use super::{
    layers::Layers,
    tensors::{self, Stack},
};
use crate::{
    error::Result,
    graph::{EncoderInputs, GraphBuilder},
    weights::WeightsWriter,
};

const STACK: Stack = Stack::Encoder;

pub fn graph<'w>(
    layers: &Layers,
    geometry: &Geometry,
    weights: &'w mut WeightsWriter,
) -> Result<GraphBuilder<'w>> {
    let mut graph = GraphBuilder::new(Part::Encoder, weights);
    let graph_ref = &mut graph;
    let inputs = EncoderInputs::declare(graph_ref, geometry);
    let biases = layers.position_biases(graph_ref, STACK)?;

    let mut stream = layers.begin(graph_ref, STACK, inputs.x)?;
    for (layer, &bias) in biases.iter().enumerate() {
        let address = format!("/encoder/layers.{layer}");
        let attention = STACK.self_attention(layer);
        let at = format!("{address}/self_attn");
        let qkv = layers.self_attention_input(graph_ref, STACK, layer, stream.normed)?;
        let mixed =
            graph_ref.ragged_attention(&at, qkv, inputs.row_offsets, Some(bias), layers.parts.heads());
        let branch = layers.attention_output(graph_ref, &format!("{at}/o"), mixed, &attention)?;
        let norm = STACK.feed_forward_norm(layer);
        stream = layers.join(graph_ref, &format!("{address}/mlp_norm"), stream, branch, &norm)?;
        stream = layers.end_layer(graph_ref, STACK, layer, stream)?;
    }

    let mut present = Vec::with_capacity(geometry.decoder_layers);
    for (layer, &past) in inputs.cross.iter().enumerate() {
        let at = format!("/decoder/layers.{layer}/cross_attn");
        let attention = tensors::cross_attention(layer);
        let kv = layers.projection(graph_ref, &format!("{at}/kv"), stream.normed, &attention, &["k", "v"])?;
        let kv_heads = geometry.cross_kv_heads;
        present.push(graph_ref.cache_write(&at, kv, inputs.row_offsets, inputs.slots, past, kv_heads));
    }
    EncoderInputs::finish(graph_ref, geometry, &present);
    Ok(graph)
}
