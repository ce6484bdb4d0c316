//! The decoder's graph over the caches on a device.

use std::{path::Path, sync::Arc};

use ort::session::Session;
use textgen_artifact::{CudaSpec, DECODER_FILE, Manifest, device_graph, graph};

use super::{F32, I32, I64, element_of, memory, rows::Rows, step::DecoderRun};
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
const RUN_TOKENS: usize = 512;

/// See the module.
pub(super) struct Decoder {
    session: DeviceSession,
    inputs: Inputs,
    outputs: Outputs,
    /// Keys and values of each layer, `[rows, heads, positions, head_dim]`, with their names before and after a step.
    caches: Vec<InPlace>,
    /// Encoded sources of the sequences, `[rows, positions, width]`.
    cross: Vec<(String, DeviceTensor)>,
    /// States of each layer, and what a run makes of them: they count when the whole step has succeeded.
    states: Vec<(InPlace, DeviceTensor)>,
    /// What is bound.
    bound: Option<Shape>,
}

struct InPlace {
    past: String,
    present: String,
    memory: DeviceTensor,
}

/// What a run is told, all in one piece of memory, so that one copy is enough.
struct Inputs {
    words: DeviceTensor,
    /// The same on the host, kept for its memory.
    packed: Vec<i64>,
    takes_positions: bool,
}

/// Two runs of the same shape find the same tensors bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    first: usize,
    rows: usize,
    tokens: usize,
    chained: bool,
    logit_rows: usize,
    output: usize,
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
        let rows = Rows::count(limits.slots);
        for layer in 0..geometry.decoder_layers {
            if geometry.self_kv_heads > 0 {
                let positions = memory::slot_positions(limits);
                let dims = [rows, geometry.self_kv_heads, positions, geometry.head_dim];
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
                    let memory = zeroed(&name, element, &[rows, encoder.max_source_tokens, width])?;
                    cross.push((name, memory));
                }
            }
            if geometry.state_width > 0 {
                let (past, present) = (graph::past_state(layer), graph::present_state(layer));
                let dims = [rows, geometry.state_width];
                let (memory, next) = (zeroed(&past, F32, &dims)?, zeroed(&present, F32, &dims)?);
                states.push((InPlace { past, present, memory }, next));
            }
        }
        let takes_positions =
            session.session().inputs().iter().any(|input| input.name() == device_graph::POSITION_IDS);
        let tokens = limits.slots.max(limits.max_target_tokens.min(RUN_TOKENS));
        let rows = memory::output_rows(limits);
        let words = 2 * tokens + rows + limits.slots + limits.slots.div_ceil(2);
        Ok(Self {
            inputs: Inputs { words: zeroed("inputs", I64, &[words])?, packed: Vec::new(), takes_positions },
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
    pub fn held_bytes(&self) -> usize {
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
        let shape = Shape {
            first: run.first,
            rows: run.rows,
            tokens: run.tokens,
            chained: run.chained,
            logit_rows: run.logit_rows.len(),
            output,
        };
        self.bind(shape)?;
        self.pack(run);
        self.inputs.words.upload(Queue::Decode, &self.inputs.packed)?;
        if !self.caches.is_empty() {
            self.session.set_host_scalar(device_graph::TOTAL_SEQUENCE_LENGTH, run.total_sequence_length)?;
        }
        self.session.run(run.recording).map_err(|error| Error::internal(format!("decoder step: {error}")))
    }

    /// Binds what is not bound yet; the caches of many layers are most of it.
    fn bind(&mut self, shape: Shape) -> Result<()> {
        let bound = self.bound.take();
        if bound == Some(shape) {
            self.bound = bound;
            return Ok(());
        }
        let slots = |shape: Shape| (shape.first, shape.rows, shape.chained);
        if bound.map(slots) != Some(slots(shape)) {
            self.bind_slots(shape)?;
        }
        self.bind_inputs(shape)?;
        self.bind_outputs(shape)?;
        self.bound = Some(shape);
        Ok(())
    }

    /// Puts together what `run` is told, in the order of [`Decoder::bind_inputs`].
    fn pack(&mut self, run: &DecoderRun) {
        let Inputs { packed, takes_positions, .. } = &mut self.inputs;
        packed.clear();
        packed.extend(&run.input_ids);
        if *takes_positions {
            packed.extend(&run.position_ids);
        }
        packed.extend(&run.logit_rows);
        if !self.cross.is_empty() {
            packed.extend(&run.cross_lengths);
        }
        if !self.caches.is_empty() {
            let half = |value: Option<&i32>| i64::from(value.map_or(0, |&value| value as u32));
            packed.extend(run.seqlens_k.chunks(2).map(|two| half(two.first()) | half(two.get(1)) << 32));
        }
    }

    fn bind_inputs(&mut self, shape: Shape) -> Result<()> {
        let Shape { rows, tokens, logit_rows, .. } = shape;
        let mut at = 0;
        let mut bind = |name, element, dims: &[usize], words: usize| {
            let part = self.inputs.words.part(at, element, dims)?;
            at += words;
            self.session.bind_input(name, part)
        };
        bind(device_graph::INPUT_IDS, I64, &[rows, tokens], rows * tokens)?;
        if self.inputs.takes_positions {
            bind(device_graph::POSITION_IDS, I64, &[rows, tokens], rows * tokens)?;
        }
        bind(device_graph::LOGIT_ROWS, I64, &[logit_rows], logit_rows)?;
        if !self.cross.is_empty() {
            bind(device_graph::CROSS_LENGTHS, I64, &[rows], rows)?;
        }
        if !self.caches.is_empty() {
            bind(device_graph::SEQLENS_K, I32, &[rows], rows.div_ceil(2))?;
        }
        Ok(())
    }

    fn bind_outputs(&mut self, shape: Shape) -> Result<()> {
        let outputs = &self.outputs;
        for (name, memory) in [
            (device_graph::LOGITS, &outputs.logits),
            (device_graph::CANDIDATE_VALUES, &outputs.values),
            (device_graph::CANDIDATE_IDS, &outputs.ids),
            (device_graph::LOG_SUM_EXP, &outputs.log_sum_exp),
        ] {
            self.session.bind_output(name, memory.rows(shape.output, shape.logit_rows)?)?;
        }
        Ok(())
    }

    /// Binds what the slots hold.
    fn bind_slots(&mut self, shape: Shape) -> Result<()> {
        let Shape { first, rows, .. } = shape;
        for cache in &self.caches {
            let view = cache.memory.rows(first, rows)?;
            self.session.bind_input(&cache.past, view.clone())?;
            self.session.bind_output(&cache.present, view)?;
        }
        for (name, memory) in &self.cross {
            self.session.bind_input(name, memory.rows(first, rows)?)?;
        }
        for (state, next) in &self.states {
            let past = if shape.chained { next } else { &state.memory };
            self.session.bind_input(&state.past, past.rows(first, rows)?)?;
            self.session.bind_output(&state.present, next.rows(first, rows)?)?;
        }
        Ok(())
    }

    /// Makes what the step has made of the states in the `count` rows from `first` on count.
    pub fn commit_states(&self, first: usize, count: usize) -> Result<()> {
        self.states.iter().try_for_each(|(state, next)| {
            state.memory.rows(first, count)?.copy_from(Queue::Decode, &next.rows(first, count)?)
        })
    }

    /// Makes the first `tokens` of the self caches in row `to` those in row `from`.
    pub fn copy_prefix(&self, from: usize, to: usize, tokens: usize) -> Result<()> {
        self.caches.iter().try_for_each(|cache| {
            let (to, from) = (cache.memory.rows(to, 1)?, cache.memory.rows(from, 1)?);
            to.copy_positions_from(Queue::Decode, &from, tokens)
        })
    }

    /// Copies what a sequence has from row `from` to row `to`: so many tokens, and those of its source.
    pub fn move_row(&self, from: usize, to: usize, tokens: usize, source_tokens: usize) -> Result<()> {
        self.copy_prefix(from, to, tokens)?;
        for (_, memory) in &self.cross {
            let (to, from) = (memory.rows(to, 1)?, memory.rows(from, 1)?);
            to.copy_positions_from(Queue::Decode, &from, source_tokens)?;
        }
        self.states.iter().try_for_each(|(state, _)| {
            state.memory.rows(to, 1)?.copy_from(Queue::Decode, &state.memory.rows(from, 1)?)
        })
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
