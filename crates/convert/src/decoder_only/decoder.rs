//! The graph: embedded tokens and the caches to logits.
//!
//! ```text
//! x ─ norm ─ qkv ─ RotaryHeads ─ CachedAttention ─ o ─ (norm) ─ add+norm ─ gate, up ─ act·mul ─ down ─ (norm) ─ …
//!   … ─ add+norm ─ Gather(logit_rows) ─ head ─ (softcap)
//! ```

use textgen_artifact::{Geometry, Part};

use super::{
    parts::Parts,
    stack::{Blocks, stack},
};
use crate::{
    checkpoint::Precision,
    error::Result,
    graph::{DecoderInputs, GraphBuilder, KvCache, LinearFormat, Norm, SelfCaches, Sight, Stream, Value},
    weights::{StoredTable, WeightsWriter},
};

/// Reads the weights of a layer and adds its nodes to the graph.
pub struct Layers<'a> {
    pub parts: Parts<'a>,
    pub precision: Precision,
    /// The embedding, where the head is tied to it.
    pub tied_head: Option<&'a StoredTable>,
}

impl Layers<'_> {
    pub fn graph<'w>(&self, geometry: &Geometry, weights: &'w mut WeightsWriter) -> Result<GraphBuilder<'w>> {
        let config = self.parts.config;
        let mut graph = GraphBuilder::new(Part::Decoder, weights);
        let graph_ref = &mut graph;
        let inputs = DecoderInputs::declare(graph_ref, geometry);
        let caches = SelfCaches::declare(graph_ref, geometry, inputs.row_offsets);
        let rotary = inputs.rotary(graph_ref, &config.rotary);
        let mut blocks =
            OnCpu { layers: self, graph: graph_ref, rotary: &rotary, caches: &caches, present: Vec::new() };
        let normed = stack(self.parts, &mut blocks, inputs.x)?;
        let present = blocks.present;
        let hidden = graph_ref.gather_rows("/decoder/Gather", normed, inputs.logit_rows);
        let logits = self.head(graph_ref, hidden)?;
        SelfCaches::finish(graph_ref, geometry, &present);
        DecoderInputs::finish(graph_ref, geometry, logits);
        Ok(graph)
    }

    /// Format of a product whose inputs are well behaved.
    fn format(&self) -> LinearFormat {
        match self.precision {
            Precision::Fp32 => LinearFormat::F32,
            Precision::Int8 => LinearFormat::Int8Column,
            Precision::Int4 => LinearFormat::Int4Block,
        }
    }

    /// Format of the feed-forward output, whose inputs have outliers.
    fn outlier_format(&self) -> LinearFormat {
        match self.precision {
            Precision::Int8 => LinearFormat::Int8Outlier,
            _ => self.format(),
        }
    }

    /// Format of the head, whose errors nothing evens out.
    fn head_format(&self) -> LinearFormat {
        match self.precision {
            Precision::Fp32 => LinearFormat::F32,
            Precision::Int8 | Precision::Int4 => LinearFormat::Int8Column,
        }
    }

    fn head(&self, graph: &mut GraphBuilder, hidden: Value<f32>) -> Result<Value<f32>> {
        const ADDRESS: &str = "/lm_head";
        let head = self.parts.head(self.tied_head.is_some(), self.head_format())?;
        let logits = match self.tied_head {
            Some(table) if self.precision == Precision::Fp32 => {
                graph.tied_linear(ADDRESS, hidden, table, head.weight.shape(), None)?
            }
            // In 8 bits the head has a matrix of its own: it wants another layout than the lookup table.
            _ => graph.linear(ADDRESS, hidden, head)?,
        };
        Ok(match self.parts.config.final_softcap {
            Some(cap) => graph.softcap("/lm_head/softcap", logits, cap),
            None => logits,
        })
    }
}

/// The blocks in a graph for the CPU.
struct OnCpu<'g, 'w> {
    layers: &'g Layers<'g>,
    graph: &'g mut GraphBuilder<'w>,
    /// Rotations of the tokens' positions, for each rotary embedding.
    rotary: &'g [Value<f32>],
    caches: &'g SelfCaches,
    /// Caches after the step, of the layers so far.
    present: Vec<KvCache>,
}

impl Blocks for OnCpu<'_, '_> {
    fn norm(&mut self, address: &str, x: Value<f32>, norm: &Norm) -> Result<Value<f32>> {
        self.graph.rms_norm(address, x, norm)
    }

    fn join(&mut self, address: &str, stream: Stream, branch: Value<f32>, norm: &Norm) -> Result<Stream> {
        self.graph.join(address, stream, branch, norm)
    }

    fn attention(&mut self, address: &str, x: Value<f32>, prefix: &str, layer: usize) -> Result<Value<f32>> {
        let Layers { parts, .. } = *self.layers;
        let kind = &parts.config.layers[layer];
        let qkv = parts.qkv(prefix, self.layers.format())?;
        let qkv = self.graph.linear(&format!("{address}/qkv"), x, qkv)?;
        let norms = match parts.head_norms(prefix)? {
            Some(([query, key], order)) => Some(self.graph.rotary_norms(address, &query, &key, order)?),
            None => None,
        };
        let heads = parts.heads();
        let qkv = self.graph.rotary_heads(address, qkv, self.rotary[kind.rotary], norms, heads);
        let sight = Sight { softcap: parts.config.attention_softcap, window: kind.window };
        let past = self.caches.past[layer];
        let (mixed, cache) =
            self.graph.cached_attention(address, qkv, self.caches.rows, past, None, heads, sight);
        self.present.push(cache);
        self.graph.linear(&format!("{address}/o"), mixed, parts.output(prefix, self.layers.format())?)
    }

    fn feed_forward(&mut self, address: &str, x: Value<f32>, prefix: &str) -> Result<Value<f32>> {
        let Layers { parts, .. } = *self.layers;
        let gate_up = parts.gate_up(prefix, self.layers.format())?;
        let activation = parts.config.activation;
        let hidden = self.graph.gated_linear(&format!("{address}/gate_up"), x, gate_up, activation)?;
        let down = parts.down(prefix, self.layers.outlier_format())?;
        self.graph.linear(&format!("{address}/down"), hidden, down)
    }
}
