//! The graph for a device: token ids and the caches to logits. The same model as in [`super::decoder`]; what differs
//! is said in [`crate::graph::device`].

use std::path::Path;

use textgen_artifact::{DECODER_FILE, Geometry, Part};

use super::parts::Parts;
use crate::{
    checkpoint::{CudaPrecision, DeviceGraphs},
    error::Result,
    graph::{
        Sight, Value,
        device::{DecoderInputs, DeviceFormat, DeviceGraph, Rotary, Scores, SelfCaches},
    },
    weights::{Float, StoredTable, WeightsWriter},
};

/// See the module.
pub struct DeviceLayers<'a> {
    pub parts: Parts<'a>,
    pub precision: CudaPrecision,
    pub table: &'a StoredTable,
    pub tied_head: bool,
}

impl DeviceGraphs for DeviceLayers<'_> {
    fn write<T: Float>(&self, dir: &Path, geometry: &Geometry, weights: &mut WeightsWriter) -> Result<usize> {
        let (graph, candidates) = self.graph::<T>(geometry, weights)?;
        graph.write(&dir.join(DECODER_FILE))?;
        Ok(candidates)
    }
}

impl DeviceLayers<'_> {
    /// The graph, and the number of candidates in its output.
    pub fn graph<'w, T: Float>(
        &self,
        geometry: &Geometry,
        weights: &'w mut WeightsWriter,
    ) -> Result<(DeviceGraph<'w, T>, usize)> {
        let Parts { config, .. } = self.parts;
        let d_model = config.d_model;
        let mut graph = DeviceGraph::new(Part::Decoder, weights);
        let graph_ref = &mut graph;
        let inputs = DecoderInputs::declare(graph_ref);
        let mut caches = SelfCaches::declare(graph_ref, geometry);
        let mut tables = Vec::with_capacity(config.rotary.len());
        for (index, spec) in config.rotary.iter().enumerate() {
            tables.push(graph_ref.rotary_tables(index, spec, config.context)?);
        }
        let shape = [config.vocab_size, d_model];
        let x = graph_ref.embed(inputs.input_ids, self.table, shape, config.embedding_scale);
        let norm = self.parts.norm("model.layers.0.input_layernorm", d_model)?;
        let mut stream = graph_ref.begin("/decoder/layers.0/input_norm", x, &norm)?;
        for (layer, kind) in config.layers.iter().enumerate() {
            let address = format!("/decoder/layers.{layer}");
            let tensor = |name: &str| format!("model.layers.{layer}.{name}");

            let at = format!("{address}/self_attn");
            let normed = graph_ref.narrow(&at, stream.normed);
            let qkv = self.parts.qkv(&tensor("self_attn"), self.format())?;
            let qkv = graph_ref.linear(&format!("{at}/qkv"), normed, qkv)?;
            let norms = self.parts.head_norms(&tensor("self_attn"))?;
            let rotary = Rotary {
                tables: tables[kind.rotary],
                positions: inputs.position_ids,
                norms: norms.as_ref().map(|(norms, order)| (norms.each_ref(), *order)),
            };
            let sight = Sight { softcap: config.attention_softcap, window: kind.window };
            let mixed = graph_ref.cached_attention(
                &at,
                qkv,
                &mut caches,
                layer,
                self.parts.heads(),
                config.head_dim,
                Some(rotary),
                None,
                sight,
            )?;
            let output = self.parts.output(&tensor("self_attn"), self.format())?;
            let branch = graph_ref.linear(&format!("{at}/o"), mixed, output)?;
            let branch = graph_ref.widen(&at, branch);
            let (after, before) = if config.post_norms {
                (Some("post_attention_layernorm"), "pre_feedforward_layernorm")
            } else {
                (None, "post_attention_layernorm")
            };
            let branch =
                self.branch_norm(graph_ref, &format!("{at}/post_norm"), branch, after.map(tensor))?;
            let norm = self.parts.norm(&tensor(before), d_model)?;
            stream = graph_ref.join(&format!("{address}/mlp_norm"), stream, branch, &norm)?;

            let at = format!("{address}/mlp");
            let normed = graph_ref.narrow(&at, stream.normed);
            let gate_up = self.parts.gate_up(&tensor("mlp"), self.format())?;
            let hidden =
                graph_ref.gated_linear(&format!("{at}/gate_up"), normed, gate_up, config.activation)?;
            let down = self.parts.down(&tensor("mlp"), self.format())?;
            let branch = graph_ref.linear(&format!("{at}/down"), hidden, down)?;
            let branch = graph_ref.widen(&at, branch);
            let after = config.post_norms.then(|| tensor("post_feedforward_layernorm"));
            let branch = self.branch_norm(graph_ref, &format!("{at}/post_norm"), branch, after)?;
            let (address, name) = self.parts.next_norm(layer);
            stream = graph_ref.join(&address, stream, branch, &self.parts.norm(&name, d_model)?)?;
        }
        let hidden = inputs.wanted(graph_ref, geometry, stream.normed);
        let head = self.parts.head(self.tied_head, self.head_format())?;
        let mut logits = graph_ref.head(hidden, head, self.tied_head.then_some(self.table))?;
        if let Some(cap) = config.final_softcap {
            logits = graph_ref.softcap("/lm_head/softcap", logits, cap);
        }
        caches.finish(graph_ref, geometry);
        let candidates = Scores::finish(graph_ref, geometry, logits);
        Ok((graph, candidates))
    }

    fn format(&self) -> DeviceFormat {
        self.precision.format()
    }

    /// Format of the head, whose errors nothing evens out.
    fn head_format(&self) -> DeviceFormat {
        match self.format() {
            DeviceFormat::Int4 => DeviceFormat::Int8,
            format => format,
        }
    }

    /// The norm of a block's output, where the family has one.
    fn branch_norm<T: Float>(
        &self,
        graph: &mut DeviceGraph<T>,
        address: &str,
        branch: Value<f32>,
        tensor: Option<String>,
    ) -> Result<Value<f32>> {
        match tensor {
            None => Ok(branch),
            Some(tensor) => {
                let norm = self.parts.norm(&tensor, self.parts.config.d_model)?;
                graph.rms_norm(address, branch, &norm, 2)
            }
        }
    }
}
