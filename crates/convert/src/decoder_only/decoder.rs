//! The graph: embedded tokens and the caches to logits.
//!
//! ```text
//! x ─ norm ─ qkv ─ RotaryHeads ─ CachedAttention ─ o ─ (norm) ─ add+norm ─ gate, up ─ act·mul ─ down ─ (norm) ─ …
//!   … ─ add+norm ─ Gather(logit_rows) ─ head ─ (softcap)
//! ```

use textgen_artifact::{Geometry, Part};

use super::parts::Parts;
use crate::{
    checkpoint::Precision,
    error::Result,
    graph::{DecoderInputs, GraphBuilder, LinearFormat, RotaryNorms, SelfCaches, Sight, Value},
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
        let mut present = Vec::with_capacity(config.layers.len());
        let mut residual = inputs.x;
        let mut normed = graph_ref.rms_norm(
            "/decoder/layers.0/input_norm",
            residual,
            &self.parts.norm("model.layers.0.input_layernorm", config.d_model)?,
        )?;
        for (layer, kind) in config.layers.iter().enumerate() {
            let address = format!("/decoder/layers.{layer}");
            let tensor = |name: &str| format!("model.layers.{layer}.{name}");

            let at = format!("{address}/self_attn");
            let qkv = self.parts.qkv(&tensor("self_attn"), self.format())?;
            let qkv = graph_ref.linear(&format!("{at}/qkv"), normed, qkv)?;
            let norms = self.head_norms(graph_ref, &at, &tensor("self_attn"))?;
            let qkv = graph_ref.rotary_heads(&at, qkv, rotary[kind.rotary], norms, self.parts.heads());
            let sight = Sight { softcap: config.attention_softcap, window: kind.window };
            let (mixed, cache) = graph_ref.cached_attention(
                &at,
                qkv,
                caches.rows,
                caches.past[layer],
                None,
                self.parts.heads(),
                sight,
            );
            present.push(cache);
            let output = self.parts.output(&tensor("self_attn"), self.format())?;
            let branch = graph_ref.linear(&format!("{at}/o"), mixed, output)?;
            // The same tensor name means the norm before the feed-forward block, unless branches have their own.
            let (after, before) = if config.post_norms {
                (Some("post_attention_layernorm"), "pre_feedforward_layernorm")
            } else {
                (None, "post_attention_layernorm")
            };
            let branch =
                self.branch_norm(graph_ref, &format!("{at}/post_norm"), branch, after.map(tensor))?;
            let norm = self.parts.norm(&tensor(before), config.d_model)?;
            (normed, residual) =
                graph_ref.add_rms_norm(&format!("{address}/mlp_norm"), residual, branch, &norm)?;

            let at = format!("{address}/mlp");
            let branch = self.feed_forward(graph_ref, &at, normed, &tensor("mlp"))?;
            let after = config.post_norms.then(|| tensor("post_feedforward_layernorm"));
            let branch = self.branch_norm(graph_ref, &format!("{at}/post_norm"), branch, after)?;
            let (address, name) = self.parts.next_norm(layer);
            let norm = self.parts.norm(&name, config.d_model)?;
            (normed, residual) = graph_ref.add_rms_norm(&address, residual, branch, &norm)?;
        }
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

    /// The norm of a block's output, where the family has one.
    fn branch_norm(
        &self,
        graph: &mut GraphBuilder,
        address: &str,
        branch: Value<f32>,
        tensor: Option<String>,
    ) -> Result<Value<f32>> {
        match tensor {
            None => Ok(branch),
            Some(tensor) => {
                graph.rms_norm(address, branch, &self.parts.norm(&tensor, self.parts.config.d_model)?)
            }
        }
    }

    fn head_norms(&self, graph: &mut GraphBuilder, at: &str, prefix: &str) -> Result<Option<RotaryNorms>> {
        let Some(([query, key], order)) = self.parts.head_norms(prefix)? else { return Ok(None) };
        graph.rotary_norms(at, &query, &key, order).map(Some)
    }

    fn feed_forward(
        &self,
        graph: &mut GraphBuilder,
        at: &str,
        x: Value<f32>,
        prefix: &str,
    ) -> Result<Value<f32>> {
        let gate_up = self.parts.gate_up(prefix, self.format())?;
        let activation = self.parts.config.activation;
        let hidden = graph.gated_linear(&format!("{at}/gate_up"), x, gate_up, activation)?;
        graph.linear(&format!("{at}/down"), hidden, self.parts.down(prefix, self.outlier_format())?)
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
