//! The encoder's graph: sources to cross-attention caches.

use std::{path::Path, sync::Arc};

use textgen_artifact::{ENCODER_FILE, EmbeddingSpec, Manifest, graph};

use super::{
    Runtime,
    binding::{BoundSession, TensorName},
    embedding::Embedding,
    graph_check::{ANY, GraphCheck},
    runtime::SessionDevice,
    weights::Weights,
};
use crate::{
    engine::EncodeBatch,
    error::{Error, Result},
};

/// See the module.
pub struct SourceEncoder {
    pub session: BoundSession,
    pub embedding: Embedding,
    d_model: usize,
    names: Names,
    x: Vec<f32>,
}

/// Names of what is bound anew in each step.
struct Names {
    x: TensorName,
    row_offsets: TensorName,
    slots: TensorName,
}

impl SourceEncoder {
    /// Loads the graph; its caches are not bound yet.
    pub fn load(
        runtime: &Runtime,
        dir: &Path,
        manifest: &Manifest,
        embedding: &EmbeddingSpec,
        weights: Arc<Weights>,
        threads: usize,
    ) -> Result<Self> {
        let geometry = &manifest.geometry;
        let path = dir.join(ENCODER_FILE);
        let session = BoundSession::new(runtime.session(&path, SessionDevice::Cpu, threads)?)?;
        let graph = GraphCheck { path: &path, session: session.session() };
        graph.input(graph::X, &[ANY, geometry.d_model])?;
        for layer in 0..geometry.decoder_layers {
            let cache = [ANY, geometry.cross_kv_heads, ANY, geometry.head_dim];
            graph.input(&graph::past_cross_key(layer), &cache)?;
            graph.input(&graph::past_cross_value(layer), &cache)?;
        }
        Ok(Self {
            session,
            embedding: Embedding::new(weights, manifest, embedding)?,
            d_model: geometry.d_model,
            names: Names {
                x: TensorName::new(graph::X)?,
                row_offsets: TensorName::new(graph::ROW_OFFSETS)?,
                slots: TensorName::new(graph::SLOTS)?,
            },
            x: Vec::new(),
        })
    }

    /// Encodes the sources of `batch`.
    pub fn run(&mut self, batch: &EncodeBatch) -> Result<()> {
        self.x.clear();
        for row in 0..batch.rows() {
            self.embedding.append(batch.row(row), 0, &mut self.x)?;
        }
        let (rows, tokens) = (batch.rows() as i64, batch.tokens.len() as i64);
        let names = &self.names;
        // SAFETY: `x` and the batch outlive the run below and nobody writes them meanwhile; the next step
        // binds anew before it runs.
        unsafe {
            self.session.bind_input(&names.x, self.x.as_ptr(), &[tokens, self.d_model as i64])?;
            self.session.bind_input(&names.row_offsets, batch.row_offsets.as_ptr(), &[rows + 1])?;
            self.session.bind_input(&names.slots, batch.cross_slots.as_ptr(), &[rows])?;
        }
        self.session.run().map_err(|error| Error::internal(format!("encoder step: {error}")))
    }
}
