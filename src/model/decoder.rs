//! The decoder's graph: tokens and caches to logits.

use std::{path::Path, sync::Arc};

use textgen_artifact::{DECODER_FILE, Geometry, Manifest, graph};

use super::{
    Runtime,
    binding::{BoundSession, TensorName},
    cpu_executor::cache_positions,
    embedding::Embedding,
    graph_check::{ANY, GraphCheck},
    memory::DeviceBuffer,
    rotary::RotaryTable,
    runtime::SessionDevice,
    weights::Weights,
};
use crate::{
    engine::{DecodeBatch, ExecutorLimits},
    error::{Error, Result},
};

/// See the module.
pub struct TargetDecoder {
    pub session: BoundSession,
    pub embedding: Embedding,
    d_model: usize,
    vocab_size: usize,
    has_encoder: bool,
    /// Bergamot's decoder has recurrent states instead.
    has_self_attention: bool,
    names: Names,
    /// Keys and values, bound to the session by address.
    caches: Vec<DeviceBuffer>,
    /// Recurrent states, likewise.
    state_buffers: Vec<DeviceBuffer>,
    states: Option<States>,
    rotary: Vec<Rotary>,
    x: Vec<f32>,
    logits: Vec<f32>,
}

/// One rotary embedding of the graph.
struct Rotary {
    name: TensorName,
    table: RotaryTable,
    /// Cosines and sines of this step's tokens.
    values: Vec<f32>,
}

/// Names of what is bound anew in each step.
struct Names {
    x: TensorName,
    row_offsets: TensorName,
    slots: TensorName,
    positions: TensorName,
    cross_slots: TensorName,
    cross_lengths: TensorName,
    state_reads: TensorName,
    state_writes: TensorName,
    logit_rows: TensorName,
    logits: TensorName,
}

impl Names {
    fn new() -> Result<Self> {
        Ok(Self {
            x: TensorName::new(graph::X)?,
            row_offsets: TensorName::new(graph::ROW_OFFSETS)?,
            slots: TensorName::new(graph::SLOTS)?,
            positions: TensorName::new(graph::POSITIONS)?,
            cross_slots: TensorName::new(graph::CROSS_SLOTS)?,
            cross_lengths: TensorName::new(graph::CROSS_LENGTHS)?,
            state_reads: TensorName::new(graph::STATE_READS)?,
            state_writes: TensorName::new(graph::STATE_WRITES)?,
            logit_rows: TensorName::new(graph::LOGIT_ROWS)?,
            logits: TensorName::new(graph::LOGITS)?,
        })
    }
}

/// Recurrent states have two entries a slot: a step reads one and writes the other, and only a step that
/// succeeded makes the written one current. So a failed step can be tried again.
struct States {
    /// Which of a slot's two entries is current.
    current: Vec<u8>,
    reads: Vec<i32>,
    writes: Vec<i32>,
}

impl States {
    fn plan(&mut self, batch: &DecodeBatch) {
        self.reads.clear();
        self.writes.clear();
        for (&slot, &position) in batch.slots.iter().zip(&batch.positions) {
            let current = i32::from(self.current[slot as usize]);
            self.reads.push(if position == 0 { -1 } else { 2 * slot + current });
            self.writes.push(2 * slot + 1 - current);
        }
    }

    fn commit(&mut self, batch: &DecodeBatch) {
        for &slot in &batch.slots {
            self.current[slot as usize] ^= 1;
        }
    }
}

impl TargetDecoder {
    /// Loads the graph; nothing is reserved yet.
    pub fn load(
        runtime: &Runtime,
        dir: &Path,
        manifest: &Manifest,
        weights: Arc<Weights>,
        threads: usize,
    ) -> Result<Self> {
        let geometry = &manifest.geometry;
        let path = dir.join(DECODER_FILE);
        let session = BoundSession::new(runtime.session(&path, SessionDevice::Cpu, threads)?)?;
        check_graph(&GraphCheck { path: &path, session: session.session() }, manifest)?;
        let rotary = manifest.rotary.iter().enumerate().map(|(index, spec)| {
            Ok(Rotary {
                name: TensorName::new(&graph::rotary(index))?,
                table: RotaryTable::new(spec),
                values: Vec::new(),
            })
        });
        Ok(Self {
            session,
            embedding: Embedding::new(weights, manifest, &manifest.embeddings.decoder)?,
            d_model: geometry.d_model,
            vocab_size: geometry.vocab_size,
            has_encoder: !manifest.is_decoder_only(),
            has_self_attention: geometry.self_kv_heads > 0,
            names: Names::new()?,
            caches: Vec::new(),
            state_buffers: Vec::new(),
            states: None,
            rotary: rotary.collect::<Result<_>>()?,
            x: Vec::new(),
            logits: Vec::new(),
        })
    }

    /// Reserves and binds what the slots hold.
    pub fn reserve(&mut self, geometry: &Geometry, limits: ExecutorLimits) -> Result<()> {
        for rotary in &mut self.rotary {
            rotary.table.extend_to(limits.max_target_tokens);
        }
        let positions = cache_positions(limits.max_target_tokens);
        let cache = [limits.slots, geometry.self_kv_heads, positions, geometry.head_dim];
        let state = [2 * limits.slots, geometry.state_width];
        for layer in 0..geometry.decoder_layers {
            if self.has_self_attention {
                for (past, present) in [
                    (graph::past_self_key(layer), graph::present_self_key(layer)),
                    (graph::past_self_value(layer), graph::present_self_value(layer)),
                ] {
                    let buffer = self.bind_buffer(&past, &present, &cache)?;
                    self.caches.push(buffer);
                }
            }
            if geometry.state_width > 0 {
                let (past, present) = (graph::past_state(layer), graph::present_state(layer));
                let buffer = self.bind_buffer(&past, &present, &state)?;
                self.state_buffers.push(buffer);
            }
        }
        self.states = (geometry.state_width > 0).then(|| States {
            current: vec![0; limits.slots],
            reads: Vec::new(),
            writes: Vec::new(),
        });
        Ok(())
    }

    fn bind_buffer(&mut self, past: &str, present: &str, dims: &[usize]) -> Result<DeviceBuffer> {
        let mut buffer = DeviceBuffer::zeroed(past, dims)?;
        let (past, present) = (TensorName::new(past)?, TensorName::new(present)?);
        // SAFETY: the buffer goes to `self`, which holds it as long as the session; it does not move, and
        // only runs and `copy_prefix`, between them, touch it.
        unsafe { self.session.bind_in_place(&past, &present, &mut buffer)? };
        Ok(buffer)
    }

    /// Bytes reserved for the slots.
    pub fn cache_bytes(&self) -> usize {
        self.caches.iter().chain(&self.state_buffers).map(DeviceBuffer::bytes).sum()
    }

    /// Feeds the tokens of `batch`.
    pub fn run(&mut self, batch: &DecodeBatch) -> Result<()> {
        self.x.clear();
        self.rotary.iter_mut().for_each(|rotary| rotary.values.clear());
        for row in 0..batch.rows() {
            let (tokens, position) = (batch.row(row), batch.positions[row] as usize);
            self.embedding.append(tokens, position, &mut self.x)?;
            for rotary in &mut self.rotary {
                rotary.table.append(position..position + tokens.len(), &mut rotary.values)?;
            }
        }
        let (rows, tokens) = (batch.rows() as i64, batch.tokens.len() as i64);
        let outputs = batch.logit_rows.len();
        let needed = outputs * self.vocab_size;
        if self.logits.len() < needed {
            self.logits.resize(needed, 0.0);
        }
        let (names, session) = (&self.names, &mut self.session);
        // SAFETY: what is bound outlives the run below and nobody writes it meanwhile; the next step binds
        // anew before it runs. `logits` has room for every row that is asked for.
        unsafe {
            session.bind_input(&names.x, self.x.as_ptr(), &[tokens, self.d_model as i64])?;
            session.bind_input(&names.row_offsets, batch.row_offsets.as_ptr(), &[rows + 1])?;
            session.bind_input(&names.logit_rows, batch.logit_rows.as_ptr(), &[outputs as i64])?;
            if self.has_encoder {
                session.bind_input(&names.cross_slots, batch.cross_slots.as_ptr(), &[rows])?;
                session.bind_input(&names.cross_lengths, batch.cross_lengths.as_ptr(), &[rows])?;
            }
            if let Some(states) = &mut self.states {
                states.plan(batch);
                session.bind_input(&names.state_reads, states.reads.as_ptr(), &[rows])?;
                session.bind_input(&names.state_writes, states.writes.as_ptr(), &[rows])?;
            }
            if self.has_self_attention {
                session.bind_input(&names.slots, batch.slots.as_ptr(), &[rows])?;
                session.bind_input(&names.positions, batch.positions.as_ptr(), &[rows])?;
            }
            for rotary in &self.rotary {
                let dims = [tokens, rotary.table.width() as i64];
                session.bind_input(&rotary.name, rotary.values.as_ptr(), &dims)?;
            }
            let dims = [outputs as i64, self.vocab_size as i64];
            session.bind_output(&names.logits, self.logits.as_mut_ptr(), &dims)?;
        }
        self.session.run().map_err(|error| Error::internal(format!("decoder step: {error}")))?;
        if let Some(states) = &mut self.states {
            states.commit(batch);
        }
        Ok(())
    }

    /// Copies the first `tokens` of a slot's caches to another slot.
    pub fn copy_prefix(&mut self, from: usize, to: usize, tokens: usize) -> Result<()> {
        if self.states.is_some() {
            return Err(Error::internal("a recurrent state cannot be cut to a prefix"));
        }
        self.caches.iter_mut().try_for_each(|cache| cache.copy_prefix(from, to, cache_positions(tokens)))
    }

    /// Row `row` of the logits of the last run.
    pub fn logits_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.logits[row * self.vocab_size..(row + 1) * self.vocab_size]
    }
}

/// A graph from another artifact would fail in the first step; better at load.
fn check_graph(graph: &GraphCheck, manifest: &Manifest) -> Result<()> {
    let geometry = &manifest.geometry;
    graph.input(graph::X, &[ANY, geometry.d_model])?;
    graph.input(graph::LOGIT_ROWS, &[ANY])?;
    graph.output(graph::LOGITS, &[ANY, geometry.vocab_size])?;
    for (index, rotary) in manifest.rotary.iter().enumerate() {
        graph.input(&graph::rotary(index), &[ANY, 2 * rotary.inverse_frequencies.len()])?;
    }
    let cross = [ANY, geometry.cross_kv_heads, ANY, geometry.head_dim];
    let own = [ANY, geometry.self_kv_heads, ANY, geometry.head_dim];
    for layer in 0..geometry.decoder_layers {
        if !manifest.is_decoder_only() {
            graph.input(&graph::past_cross_key(layer), &cross)?;
            graph.input(&graph::past_cross_value(layer), &cross)?;
        }
        if geometry.self_kv_heads > 0 {
            graph.input(&graph::past_self_key(layer), &own)?;
            graph.input(&graph::past_self_value(layer), &own)?;
        }
        if geometry.state_width > 0 {
            graph.input(&graph::past_state(layer), &[ANY, geometry.state_width])?;
        }
    }
    Ok(())
}
