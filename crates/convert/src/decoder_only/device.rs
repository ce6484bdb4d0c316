//! The graph for a device: token ids and the caches to logits. The same model as in [`super::decoder`]; what differs
//! is said in [`crate::graph::device`].

use std::path::Path;

use textgen_artifact::{DECODER_FILE, Geometry, Part};

use super::{
    parts::Parts,
    stack::{Blocks, stack},
};
use crate::{
    checkpoint::{CudaPrecision, DeviceGraphs},
    error::Result,
    graph::{
        Norm, Sight, Stream, Value,
        device::{DecoderInputs, DeviceFormat, DeviceGraph, Rotary, RotaryTables, Scores, SelfCaches},
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
        let positions = inputs.position_ids;
        let mut blocks =
            OnDevice { layers: self, graph: graph_ref, tables: &tables, positions, caches: &mut caches };
        let normed = stack(self.parts, &mut blocks, x)?;
        let hidden = inputs.wanted(graph_ref, geometry, normed);
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
}

/// The blocks in a graph for a device.
struct OnDevice<'g, 'w, T> {
    layers: &'g DeviceLayers<'g>,
    graph: &'g mut DeviceGraph<'w, T>,
    /// One for each rotary embedding.
    tables: &'g [RotaryTables<T>],
    positions: Value<i64>,
    caches: &'g mut SelfCaches<T>,
}

impl<T: Float> Blocks for OnDevice<'_, '_, T> {
    fn norm(&mut self, address: &str, x: Value<f32>, norm: &Norm) -> Result<Value<f32>> {
        self.graph.rms_norm(address, x, norm, 2)
    }

    fn join(&mut self, address: &str, stream: Stream, branch: Value<f32>, norm: &Norm) -> Result<Stream> {
        self.graph.join(address, stream, branch, norm)
    }

    fn attention(&mut self, address: &str, x: Value<f32>, prefix: &str, layer: usize) -> Result<Value<f32>> {
        let DeviceLayers { parts, .. } = *self.layers;
        let kind = &parts.config.layers[layer];
        let x = self.graph.narrow(address, x);
        let qkv = parts.qkv(prefix, self.layers.format())?;
        let qkv = self.graph.linear(&format!("{address}/qkv"), x, qkv)?;
        let norms = parts.head_norms(prefix)?;
        let rotary = Rotary {
            tables: self.tables[kind.rotary],
            positions: self.positions,
            norms: norms.as_ref().map(|(norms, order)| (norms.each_ref(), *order)),
        };
        let sight = Sight { softcap: parts.config.attention_softcap, window: kind.window };
        let mixed = self.graph.cached_attention(
            address,
            qkv,
            self.caches,
            layer,
            parts.heads(),
            parts.config.head_dim,
            Some(rotary),
            None,
            sight,
        )?;
        let output = parts.output(prefix, self.layers.format())?;
        let branch = self.graph.linear(&format!("{address}/o"), mixed, output)?;
        Ok(self.graph.widen(address, branch))
    }

    fn feed_forward(&mut self, address: &str, x: Value<f32>, prefix: &str) -> Result<Value<f32>> {
        let DeviceLayers { parts, .. } = *self.layers;
        let x = self.graph.narrow(address, x);
        let gate_up = parts.gate_up(prefix, self.layers.format())?;
        let activation = parts.config.activation;
        let hidden = self.graph.gated_linear(&format!("{address}/gate_up"), x, gate_up, activation)?;
        let down = parts.down(prefix, self.layers.format())?;
        let branch = self.graph.linear(&format!("{address}/down"), hidden, down)?;
        Ok(self.graph.widen(address, branch))
    }
}
