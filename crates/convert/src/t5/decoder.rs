//! The decoder graph: embedded target tokens and the caches to logits.
//!
//! ```text
//! x ─ norm ─ qkv ─ CachedAttention ─ o ─ add+norm ─ q ─ CrossAttention ─ o ─ add+norm ─ feed-forward ─ …
//!   … ─ final norm ─ Gather(logit_rows) ─ (scale) ─ head
//! ```

use textgen_artifact::{Geometry, Part};

use super::{
    layers::Layers,
    tensors::{self, Stack},
};
use crate::{
    checkpoint::Precision,
    error::Result,
    graph::{CrossInputs, DecoderInputs, GraphBuilder, SelfCaches, Sight, Value},
    weights::{StoredTable, WeightsWriter},
};

const STACK: Stack = Stack::Decoder;

pub fn graph<'w>(
    layers: &Layers,
    geometry: &Geometry,
    embedding: &StoredTable,
    weights: &'w mut WeightsWriter,
) -> Result<GraphBuilder<'w>> {
    let mut graph = GraphBuilder::new(Part::Decoder, weights);
    let graph_ref = &mut graph;
    let inputs = DecoderInputs::declare(graph_ref, geometry);
    let cross = CrossInputs::declare(graph_ref, geometry, inputs.row_offsets);
    let caches = SelfCaches::declare(graph_ref, geometry, inputs.row_offsets);
    let biases = layers.position_biases(graph_ref, STACK)?;
    let heads = layers.parts.heads();

    let mut present = Vec::with_capacity(geometry.decoder_layers);
    let mut stream = layers.begin(graph_ref, STACK, inputs.x)?;
    for (layer, &bias) in biases.iter().enumerate() {
        let address = format!("/decoder/layers.{layer}");
        let attention = STACK.self_attention(layer);
        let at = format!("{address}/self_attn");
        let qkv = layers.self_attention_input(graph_ref, STACK, layer, stream.normed)?;
        let past = caches.past[layer];
        let (mixed, cache) =
            graph_ref.cached_attention(&at, qkv, caches.rows, past, Some(bias), heads, Sight::default());
        present.push(cache);
        let branch = layers.attention_output(graph_ref, &format!("{at}/o"), mixed, &attention)?;
        let norm = tensors::cross_attention_norm(layer);
        stream = layers.join(graph_ref, &format!("{address}/cross_attn_norm"), stream, branch, &norm)?;

        let attention = tensors::cross_attention(layer);
        let at = format!("{address}/cross_attn");
        let q = layers.projection(graph_ref, &format!("{at}/q"), stream.normed, &attention, &["q"])?;
        let mixed = graph_ref.cross_attention(&at, q, cross.rows, cross.past[layer], heads);
        let branch = layers.attention_output(graph_ref, &format!("{at}/o"), mixed, &attention)?;
        let norm = STACK.feed_forward_norm(layer);
        stream = layers.join(graph_ref, &format!("{address}/mlp_norm"), stream, branch, &norm)?;
        stream = layers.end_layer(graph_ref, STACK, layer, stream)?;
    }

    let hidden = graph_ref.gather_rows("/decoder/Gather", stream.normed, inputs.logit_rows);
    let logits = head(layers, graph_ref, hidden, embedding)?;
    SelfCaches::finish(graph_ref, geometry, &present);
    DecoderInputs::finish(graph_ref, geometry, logits);
    Ok(graph)
}

fn head(
    layers: &Layers,
    graph: &mut GraphBuilder,
    hidden: Value<f32>,
    embedding: &StoredTable,
) -> Result<Value<f32>> {
    const ADDRESS: &str = "/lm_head";
    let hidden = match layers.parts.output_scale() {
        Some(scale) => graph.scale("/decoder/scale", hidden, scale),
        None => hidden,
    };
    let head = layers.parts.head(layers.format());
    // In 8 bits the head has a matrix of its own: it wants another layout than the lookup table.
    if layers.parts.layout.head.is_none() && layers.precision == Precision::Fp32 {
        return graph.tied_linear(ADDRESS, hidden, embedding, head.weight.shape(), None);
    }
    graph.linear(ADDRESS, hidden, head)
}
