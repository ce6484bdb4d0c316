//! The decoder's graph over the slots of a device.

use std::{path::Path, sync::Arc};

use ort::session::Session;
use textgen_artifact::{CudaSpec, DECODER_FILE, Manifest, device_graph, graph};

use super::{F32, I32, I64, element_of, memory, step::DecoderRun};
use crate::{
    engine::ExecutorLimits,
    error::{Error, Result},
    model::{
        device::{Device, DeviceSession, DeviceTensor, Download, Queue},
        graph_check::{ANY, GraphCheck},
    },
};

/// ONNX Runtime's GroupQueryAttention takes heads of no other size.
const HEAD_SIZE_UNIT: usize = 8;

/// Tokens of one run of one sequence: a longer prompt has several, so that no run needs more memory than the first.
pub(super) const RUN_TOKENS: usize = 512;

/// See the module.
pub(super) struct Decoder {
    session: DeviceSession,
    inputs: Inputs,
    outputs: Outputs,
    /// Keys and values of each layer, `[slots, heads, positions, head_dim]`, with their names before and after a step.
    caches: Vec<InPlace>,
    /// Encoded sources of the sequences, `[slots, positions, width]`.
    cross: Vec<(String, DeviceTensor)>,
    /// States of each layer, and what a run makes of them: they count when the whole step has succeeded.
    states: Vec<(InPlace, DeviceTensor)>,
    /// Slots whose views are bound, and whether a run goes on from the states of the one before.
    bound: Option<(usize, usize, bool)>,
}

struct InPlace {
    past: String,
    present: String,
    memory: DeviceTensor,
}

/// What a run is told.
struct Inputs {
    input_ids: DeviceTensor,
    /// None for a graph without them.
    position_ids: Option<DeviceTensor>,
    seqlens_k: DeviceTensor,
    cross_lengths: DeviceTensor,
    logit_rows: DeviceTensor,
}

/// What the runs of a step say, one row for each of their logit rows.
struct Outputs {
    rows: usize,
    logits: DeviceTensor,
    values: DeviceTensor,
    ids: DeviceTensor,
    log_sum_exp: DeviceTensor,
}

/// The largest logits of a step, on the host: `candidates` for each row.
#[derive(Default)]
pub(super) struct Found {
    pub values: Vec<f32>,
    pub ids: Vec<i64>,
    pub log_sum_exp: Vec<f32>,
}

/// The decoder's graph on `device`.
pub(super) fn session(
    dir: &Path,
    manifest: &Manifest,
    spec: CudaSpec,
    device: &Arc<dyn Device>,
    load: &dyn Fn(&Path, Queue) -> Result<Session>,
) -> Result<DeviceSession> {
    let geometry = &manifest.geometry;
    let (heads, size) = (geometry.self_kv_heads, geometry.head_dim);
    if heads > 0 && size % HEAD_SIZE_UNIT != 0 {
        return Err(Error::invalid_argument(format!(
            "heads of size {size}, expected a multiple of {HEAD_SIZE_UNIT}, which ONNX Runtime's attention wants; \
             convert this checkpoint without `--device cuda`"
        )));
    }
    let path = dir.join(DECODER_FILE);
    let session = DeviceSession::new("decoder", load(&path, Queue::Decode)?, device.clone(), Queue::Decode)?;
    let check = GraphCheck { path: &path, session: session.session() };
    check.input(device_graph::INPUT_IDS, &[ANY, ANY])?;
    check.input(device_graph::LOGIT_ROWS, &[ANY])?;
    check.output(device_graph::LOGITS, &[ANY, geometry.vocab_size])?;
    check.output(device_graph::CANDIDATE_VALUES, &[ANY, spec.candidates])?;
    check.output(device_graph::CANDIDATE_IDS, &[ANY, spec.candidates])?;
    check.output(device_graph::LOG_SUM_EXP, &[ANY])?;
    let width = geometry.cross_kv_heads * geometry.head_dim;
    for layer in 0..geometry.decoder_layers {
        if heads > 0 {
            check.input(&graph::past_self_key(layer), &[ANY, heads, ANY, size])?;
            check.input(&graph::past_self_value(layer), &[ANY, heads, ANY, size])?;
        }
        if geometry.cross_kv_heads > 0 {
            check.input(&graph::past_cross_key(layer), &[ANY, ANY, width])?;
            check.input(&graph::past_cross_value(layer), &[ANY, ANY, width])?;
        }
        if geometry.state_width > 0 {
            check.input(&graph::past_state(layer), &[ANY, geometry.state_width])?;
        }
    }
    Ok(session)
}

impl Decoder {
    /// Reserves what the slots hold.
    pub fn reserve(
        session: DeviceSession,
        manifest: &Manifest,
        spec: CudaSpec,
        limits: ExecutorLimits,
        device: &Arc<dyn Device>,
    ) -> Result<Self> {
        let geometry = &manifest.geometry;
        let element = element_of(spec.caches)?;
        let zeroed = |name: &str, element, dims: &[usize]| DeviceTensor::zeroed(device, name, element, dims);
        let (mut caches, mut cross, mut states) = (Vec::new(), Vec::new(), Vec::new());
        for layer in 0..geometry.decoder_layers {
            if geometry.self_kv_heads > 0 {
                let positions = memory::slot_positions(limits);
                let dims = [limits.slots, geometry.self_kv_heads, positions, geometry.head_dim];
                for (past, present) in [
                    (graph::past_self_key(layer), graph::present_self_key(layer)),
                    (graph::past_self_value(layer), graph::present_self_value(layer)),
                ] {
                    let memory = zeroed(&past, element, &dims)?;
                    caches.push(InPlace { past, present, memory });
                }
            }
            if let Some(encoder) = limits.encoder {
                let width = geometry.cross_kv_heads * geometry.head_dim;
                for name in [graph::past_cross_key(layer), graph::past_cross_value(layer)] {
                    let memory = zeroed(&name, element, &[limits.slots, encoder.max_source_tokens, width])?;
                    cross.push((name, memory));
                }
            }
            if geometry.state_width > 0 {
                let (past, present) = (graph::past_state(layer), graph::present_state(layer));
                let dims = [limits.slots, geometry.state_width];
                let (memory, next) = (zeroed(&past, F32, &dims)?, zeroed(&present, F32, &dims)?);
                states.push((InPlace { past, present, memory }, next));
            }
        }
        let takes_positions =
            session.session().inputs().iter().any(|input| input.name() == device_graph::POSITION_IDS);
        let tokens = limits.slots.max(limits.max_target_tokens.min(RUN_TOKENS));
        let rows = memory::output_rows(limits);
        Ok(Self {
            inputs: Inputs {
                input_ids: zeroed(device_graph::INPUT_IDS, I64, &[tokens])?,
                position_ids: if takes_positions {
                    Some(zeroed(device_graph::POSITION_IDS, I64, &[tokens])?)
                } else {
                    None
                },
                seqlens_k: zeroed(device_graph::SEQLENS_K, I32, &[limits.slots])?,
                cross_lengths: zeroed(device_graph::CROSS_LENGTHS, I64, &[limits.slots])?,
                logit_rows: zeroed(device_graph::LOGIT_ROWS, I64, &[rows])?,
            },
            outputs: Outputs {
                rows,
                logits: zeroed(device_graph::LOGITS, F32, &[rows, limits.vocab_size])?,
                values: zeroed(device_graph::CANDIDATE_VALUES, F32, &[rows, spec.candidates])?,
                ids: zeroed(device_graph::CANDIDATE_IDS, I64, &[rows, spec.candidates])?,
                log_sum_exp: zeroed(device_graph::LOG_SUM_EXP, F32, &[rows])?,
            },
            caches,
            cross,
            states,
            bound: None,
            session,
        })
    }

    /// The session, with nothing bound.
    pub fn into_session(mut self) -> Result<DeviceSession> {
        self.session.unbind()?;
        Ok(self.session)
    }

    /// Bytes that ONNX Runtime holds.
    pub fn held_bytes(&self) -> Result<usize> {
        self.session.held_bytes()
    }

    /// Tokens of one run of one sequence, at most.
    pub fn run_tokens(&self) -> usize {
        // A recurrent state takes one at a time.
        if self.states.is_empty() { RUN_TOKENS } else { 1 }
    }

    /// Where the slots keep their sources.
    pub fn cross(&self) -> &[(String, DeviceTensor)] {
        &self.cross
    }

    /// Rows of logits that a step may have.
    pub fn output_rows(&self) -> usize {
        self.outputs.rows
    }

    /// Runs the graph; its logits go to the rows from `output` on.
    pub fn run(&mut self, run: &DecoderRun, output: usize) -> Result<()> {
        let DecoderRun { first, rows, tokens, .. } = *run;
        let wanted = run.logit_rows.len();
        self.bind_slots(first, rows, run.chained)?;
        let inputs = &self.inputs;
        let integers = |memory: &DeviceTensor, values: &[i64], dims: &[usize]| {
            memory.upload(Queue::Decode, values)?;
            memory.shaped(dims)
        };
        let ids = integers(&inputs.input_ids, &run.input_ids, &[rows, tokens])?;
        self.session.bind_input(device_graph::INPUT_IDS, ids)?;
        let logit_rows = integers(&inputs.logit_rows, &run.logit_rows, &[wanted])?;
        self.session.bind_input(device_graph::LOGIT_ROWS, logit_rows)?;
        if let Some(position_ids) = &inputs.position_ids {
            let positions = integers(position_ids, &run.position_ids, &[rows, tokens])?;
            self.session.bind_input(device_graph::POSITION_IDS, positions)?;
        }
        if !self.cross.is_empty() {
            let lengths = integers(&inputs.cross_lengths, &run.cross_lengths, &[rows])?;
            self.session.bind_input(device_graph::CROSS_LENGTHS, lengths)?;
        }
        if !self.caches.is_empty() {
            inputs.seqlens_k.upload(Queue::Decode, &run.seqlens_k)?;
            self.session.bind_input(device_graph::SEQLENS_K, inputs.seqlens_k.shaped(&[rows])?)?;
            self.session.set_host_scalar(device_graph::TOTAL_SEQUENCE_LENGTH, run.total_sequence_length)?;
        }
        let outputs = &self.outputs;
        for (name, memory) in [
            (device_graph::LOGITS, &outputs.logits),
            (device_graph::CANDIDATE_VALUES, &outputs.values),
            (device_graph::CANDIDATE_IDS, &outputs.ids),
            (device_graph::LOG_SUM_EXP, &outputs.log_sum_exp),
        ] {
            self.session.bind_output(name, memory.rows(output, wanted)?)?;
        }
        self.session.run(run.recording).map_err(|error| Error::internal(format!("decoder step: {error}")))
    }

    /// Binds the caches of `rows` slots from `first` on.
    fn bind_slots(&mut self, first: usize, rows: usize, chained: bool) -> Result<()> {
        if self.bound == Some((first, rows, chained)) {
            return Ok(());
        }
        self.bound = None;
        for cache in &self.caches {
            let view = cache.memory.rows(first, rows)?;
            self.session.bind_input(&cache.past, view.clone())?;
            self.session.bind_output(&cache.present, view)?;
        }
        for (name, memory) in &self.cross {
            self.session.bind_input(name, memory.rows(first, rows)?)?;
        }
        for (state, next) in &self.states {
            let past = if chained { next } else { &state.memory };
            self.session.bind_input(&state.past, past.rows(first, rows)?)?;
            self.session.bind_output(&state.present, next.rows(first, rows)?)?;
        }
        self.bound = Some((first, rows, chained));
        Ok(())
    }

    /// Makes what the step has made of the states of `slots` count.
    pub fn commit_states(&self, slots: &[i32]) -> Result<()> {
        for (state, next) in &self.states {
            for &slot in slots {
                let slot = slot as usize;
                state.memory.rows(slot, 1)?.copy_from(Queue::Decode, &next.rows(slot, 1)?)?;
            }
        }
        Ok(())
    }

    /// Makes the self caches of slot `to` those of slot `from`.
    pub fn copy_slot(&self, from: usize, to: usize) -> Result<()> {
        // Heads lie apart, so that the slot is copied whole; what is behind a prefix is void.
        for cache in &self.caches {
            cache.memory.rows(to, 1)?.copy_from(Queue::Decode, &cache.memory.rows(from, 1)?)?;
        }
        Ok(())
    }

    /// Fetches the largest logits of the first `rows` rows.
    pub fn fetch(&self, rows: usize, candidates: usize, found: &mut Found) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        found.values.resize(rows * candidates, 0.0);
        found.ids.resize(rows * candidates, 0);
        found.log_sum_exp.resize(rows, 0.0);
        let Outputs { values, ids, log_sum_exp, .. } = &self.outputs;
        Download::all(
            Queue::Decode,
            [
                values.to_host(&mut found.values)?,
                ids.to_host(&mut found.ids)?,
                log_sum_exp.to_host(&mut found.log_sum_exp)?,
            ],
        )
    }

    /// Fetches all logits of a row.
    pub fn fetch_whole(&self, row: usize, to: &mut [f32]) -> Result<()> {
        let logits = self.outputs.logits.rows(row, 1)?;
        Download::all(Queue::Decode, [logits.to_host(to)?])
    }
}
