//! See the room: sessions, memory and the runs of a step.

use std::{path::Path, sync::Arc};

use ort::session::Session;
use textgen_artifact::{CudaSpec, DECODER_FILE, DType, ENCODER_FILE, Manifest, device_graph, graph};

use super::step::{DecoderRun, Recordings, SlotLengths, TokensARun, plan_runs};
use crate::{
    decoding::TopLogits,
    engine::{DecodeBatch, EncodeBatch, Executor, ExecutorLimits},
    error::{Error, Result},
    model::{
        binding::ElementType,
        device::{Device, DeviceSession, DeviceTensor},
        graph_check::{ANY, GraphCheck},
    },
};

const I32: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
const I64: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
const F32: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

/// ONNX Runtime's GroupQueryAttention takes heads of no other size.
const HEAD_SIZE_UNIT: usize = 8;

/// Logit rows beyond those of the slots: drafts, and targets that are scored.
const SPARE_LOGIT_ROWS: usize = 64;

/// Logit rows of one step at most: a recorded run computes those of its holes too, and prompts have their own.
fn output_rows(limits: ExecutorLimits) -> usize {
    2 * limits.slots + SPARE_LOGIT_ROWS
}

/// What an executor is made on.
pub struct DeviceParts<'a> {
    pub device: Arc<dyn Device>,
    /// Loads a graph for that device.
    pub session: &'a dyn Fn(&Path) -> Result<Session>,
    /// Whether runs of several sequences are recorded and replayed.
    pub records: bool,
}

/// See the module.
pub struct DeviceExecutor {
    limits: ExecutorLimits,
    candidates: usize,
    recordings: Option<Recordings>,
    encoder: Option<Encoder>,
    decoder: Decoder,
    lengths: SlotLengths,
    runs: Vec<DecoderRun>,
    /// For each logit row of the last step, its row in `outputs`.
    places: Vec<usize>,
    found: Found,
    whole_row: Vec<f32>,
}

/// The encoder's graph, and the sources that it has encoded.
struct Encoder {
    session: DeviceSession,
    input_ids: DeviceTensor,
    lengths: DeviceTensor,
    /// Keys and values of each layer, `[cross_slots, positions, width]`.
    sources: Vec<(String, DeviceTensor)>,
    /// How often each cross slot has been written.
    writes: Vec<u64>,
}

struct Decoder {
    session: DeviceSession,
    inputs: Inputs,
    outputs: Outputs,
    /// Keys and values of each layer, `[slots, heads, positions, head_dim]`, with their names before and after a step.
    caches: Vec<InPlace>,
    /// Encoded sources of the sequences, as [`Encoder::sources`] but for slots.
    cross: Vec<(String, DeviceTensor)>,
    /// Which source, and which writing of it, each slot's cross caches hold.
    cross_of: Vec<Option<(usize, u64)>>,
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

/// The largest logits of the last step, on the host.
#[derive(Default)]
struct Found {
    values: Vec<f32>,
    ids: Vec<i64>,
    log_sum_exp: Vec<f32>,
}

/// Positions of a slot: a hole writes one behind what the slot holds.
fn slot_positions(limits: ExecutorLimits) -> usize {
    limits.max_target_tokens + 1
}

fn element_of(dtype: DType) -> Result<ElementType> {
    match dtype {
        DType::F16 => Ok(ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16),
        DType::BF16 => Ok(ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16),
        DType::F32 => Ok(F32),
        other => Err(Error::invalid_argument(format!(
            "manifest: caches of {other:?}, expected f16 or bf16; convert the model again"
        ))),
    }
}

/// Bytes of caches, states and logits on the device.
pub fn reserved_bytes(manifest: &Manifest, spec: CudaSpec, limits: ExecutorLimits) -> usize {
    let geometry = &manifest.geometry;
    let own = limits.slots * geometry.self_kv_heads * slot_positions(limits) * geometry.head_dim;
    let cross = limits.encoder.map_or(0, |encoder| {
        (limits.slots + encoder.cross_slots)
            * encoder.max_source_tokens
            * geometry.cross_kv_heads
            * geometry.head_dim
    });
    let caches = 2 * geometry.decoder_layers * (own + cross) * spec.caches.bytes();
    let states = 2 * geometry.decoder_layers * limits.slots * geometry.state_width * size_of::<f32>();
    let logits = output_rows(limits) * limits.vocab_size * size_of::<f32>();
    caches + states + logits
}

impl DeviceExecutor {
    /// Loads the graphs in `dir` and reserves what the slots hold.
    pub fn load(
        dir: &Path,
        manifest: &Manifest,
        spec: CudaSpec,
        limits: ExecutorLimits,
        parts: DeviceParts<'_>,
    ) -> Result<Self> {
        let (heads, size) = (manifest.geometry.self_kv_heads, manifest.geometry.head_dim);
        if heads > 0 && size % HEAD_SIZE_UNIT != 0 {
            return Err(Error::invalid_argument(format!(
                "heads of size {size}, expected a multiple of {HEAD_SIZE_UNIT}, which ONNX Runtime's attention wants; \
                 convert this checkpoint without `--device cuda`"
            )));
        }
        let encoder = match limits.encoder {
            Some(_) => Some(Encoder::load(dir, manifest, spec, limits, &parts)?),
            None => None,
        };
        let decoder = Decoder::load(dir, manifest, spec, limits, &parts)?;
        let sources = if limits.encoder.is_some() { vec![0; limits.slots] } else { Vec::new() };
        Ok(Self {
            limits,
            candidates: spec.candidates,
            recordings: parts.records.then(|| Recordings { positions: slot_positions(limits) }),
            encoder,
            decoder,
            lengths: SlotLengths { tokens: vec![0; limits.slots], sources },
            runs: Vec::new(),
            places: Vec::new(),
            found: Found::default(),
            whole_row: vec![0.0; limits.vocab_size],
        })
    }

    /// Gives the sequences of `batch` that have just started a copy of their sources.
    fn take_sources(&mut self, batch: &DecodeBatch) -> Result<()> {
        let Some(encoder) = &self.encoder else { return Ok(()) };
        for row in 0..batch.rows() {
            let (slot, cross) = (batch.slots[row] as usize, batch.cross_slots[row] as usize);
            let wanted = Some((cross, encoder.writes[cross]));
            if self.decoder.cross_of[slot] == wanted {
                continue;
            }
            self.decoder.cross_of[slot] = None;
            let tokens = batch.cross_lengths[row] as usize;
            for ((_, to), (_, from)) in self.decoder.cross.iter().zip(&encoder.sources) {
                let width = from.dims().last().map_or(0, |&width| width as usize);
                let source = from.rows(cross, 1)?.shaped(&[1, tokens, width])?;
                to.rows(slot, 1)?.copy_from(&source)?;
            }
            self.decoder.cross_of[slot] = wanted;
            self.lengths.sources[slot] = tokens;
        }
        Ok(())
    }
}

impl Encoder {
    fn load(
        dir: &Path,
        manifest: &Manifest,
        spec: CudaSpec,
        limits: ExecutorLimits,
        parts: &DeviceParts<'_>,
    ) -> Result<Self> {
        let geometry = &manifest.geometry;
        let Some(sizes) = limits.encoder else { return Err(Error::internal("the model has no encoder")) };
        let path = dir.join(ENCODER_FILE);
        let session = DeviceSession::new("encoder", (parts.session)(&path)?, parts.device.clone())?;
        let width = geometry.cross_kv_heads * geometry.head_dim;
        let check = GraphCheck { path: &path, session: session.session() };
        check.input(device_graph::INPUT_IDS, &[ANY, ANY])?;
        check.input(device_graph::LENGTHS, &[ANY])?;
        let element = element_of(spec.caches)?;
        let dims = [sizes.cross_slots, sizes.max_source_tokens, width];
        let mut sources = Vec::new();
        for layer in 0..geometry.decoder_layers {
            for name in [graph::present_cross_key(layer), graph::present_cross_value(layer)] {
                check.output(&name, &[ANY, ANY, width])?;
                let memory = DeviceTensor::zeroed(&parts.device, &name, element, &dims)?;
                sources.push((name, memory));
            }
        }
        let input = |name, dims: &[usize]| DeviceTensor::zeroed(&parts.device, name, I64, dims);
        Ok(Self {
            session,
            input_ids: input(device_graph::INPUT_IDS, &[1, sizes.max_source_tokens])?,
            lengths: input(device_graph::LENGTHS, &[1])?,
            sources,
            writes: vec![0; sizes.cross_slots],
        })
    }

    /// Encodes one source into cross slot `cross`.
    fn encode(&mut self, source: &[u32], cross: usize) -> Result<()> {
        let ids: Vec<i64> = source.iter().map(|&token| i64::from(token)).collect();
        let input_ids = self.input_ids.shaped(&[1, ids.len()])?;
        input_ids.upload(&ids)?;
        self.lengths.upload(&[ids.len() as i64])?;
        self.session.bind_input(device_graph::INPUT_IDS, input_ids)?;
        self.session.bind_input(device_graph::LENGTHS, self.lengths.clone())?;
        for (name, memory) in &self.sources {
            let width = memory.dims().last().map_or(0, |&width| width as usize);
            // The beginning of the slot, as it stands.
            self.session.bind_output(name, memory.rows(cross, 1)?.shaped(&[1, ids.len(), width])?)?;
        }
        self.writes[cross] += 1;
        self.session.run(None).map_err(|error| Error::internal(format!("encoder step: {error}")))
    }
}

impl Decoder {
    fn load(
        dir: &Path,
        manifest: &Manifest,
        spec: CudaSpec,
        limits: ExecutorLimits,
        parts: &DeviceParts<'_>,
    ) -> Result<Self> {
        let geometry = &manifest.geometry;
        let path = dir.join(DECODER_FILE);
        let session = DeviceSession::new("decoder", (parts.session)(&path)?, parts.device.clone())?;
        let check = GraphCheck { path: &path, session: session.session() };
        check.input(device_graph::INPUT_IDS, &[ANY, ANY])?;
        check.input(device_graph::LOGIT_ROWS, &[ANY])?;
        check.output(device_graph::LOGITS, &[ANY, limits.vocab_size])?;
        check.output(device_graph::CANDIDATE_VALUES, &[ANY, spec.candidates])?;
        check.output(device_graph::CANDIDATE_IDS, &[ANY, spec.candidates])?;
        check.output(device_graph::LOG_SUM_EXP, &[ANY])?;

        let element = element_of(spec.caches)?;
        let zeroed =
            |name: &str, element, dims: &[usize]| DeviceTensor::zeroed(&parts.device, name, element, dims);
        let (mut caches, mut cross, mut states) = (Vec::new(), Vec::new(), Vec::new());
        for layer in 0..geometry.decoder_layers {
            if geometry.self_kv_heads > 0 {
                let dims = [limits.slots, geometry.self_kv_heads, slot_positions(limits), geometry.head_dim];
                for (past, present) in [
                    (graph::past_self_key(layer), graph::present_self_key(layer)),
                    (graph::past_self_value(layer), graph::present_self_value(layer)),
                ] {
                    check.input(&past, &[ANY, geometry.self_kv_heads, ANY, geometry.head_dim])?;
                    let memory = zeroed(&past, element, &dims)?;
                    caches.push(InPlace { past, present, memory });
                }
            }
            if let Some(encoder) = limits.encoder {
                let width = geometry.cross_kv_heads * geometry.head_dim;
                for name in [graph::past_cross_key(layer), graph::past_cross_value(layer)] {
                    check.input(&name, &[ANY, ANY, width])?;
                    let memory = zeroed(&name, element, &[limits.slots, encoder.max_source_tokens, width])?;
                    cross.push((name, memory));
                }
            }
            if geometry.state_width > 0 {
                let (past, present) = (graph::past_state(layer), graph::present_state(layer));
                check.input(&past, &[ANY, geometry.state_width])?;
                let dims = [limits.slots, geometry.state_width];
                let (memory, next) = (zeroed(&past, F32, &dims)?, zeroed(&present, F32, &dims)?);
                states.push((InPlace { past, present, memory }, next));
            }
        }
        let takes_positions =
            session.session().inputs().iter().any(|input| input.name() == device_graph::POSITION_IDS);
        let tokens = limits.slots.max(limits.max_target_tokens);
        let rows = output_rows(limits);
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
            cross_of: vec![None; limits.slots],
            states,
            bound: None,
            session,
        })
    }

    /// Runs the graph; its logits go to the rows from `output` on.
    fn run(&mut self, run: &DecoderRun, output: usize) -> Result<()> {
        let DecoderRun { first, rows, tokens, .. } = *run;
        let wanted = run.logit_rows.len();
        self.bind_slots(first, rows, run.chained)?;
        let inputs = &self.inputs;
        let integers = |memory: &DeviceTensor, values: &[i64], dims: &[usize]| {
            memory.upload(values)?;
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
            inputs.seqlens_k.upload(&run.seqlens_k)?;
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
    fn commit_states(&self, slots: &[i32]) -> Result<()> {
        for (state, next) in &self.states {
            for &slot in slots {
                state.memory.rows(slot as usize, 1)?.copy_from(&next.rows(slot as usize, 1)?)?;
            }
        }
        Ok(())
    }
}

impl Found {
    /// Fetches the first `rows` of `outputs`.
    fn fetch(&mut self, outputs: &Outputs, rows: usize, candidates: usize) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        self.values.resize(rows * candidates, 0.0);
        self.ids.resize(rows * candidates, 0);
        self.log_sum_exp.resize(rows, 0.0);
        outputs.values.download(&mut self.values)?;
        outputs.ids.download(&mut self.ids)?;
        outputs.log_sum_exp.download(&mut self.log_sum_exp)
    }
}

impl Executor for DeviceExecutor {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn encode(&mut self, batch: &EncodeBatch) -> Result<()> {
        let encoder = self.encoder.as_mut().ok_or_else(|| Error::internal("the model has no encoder"))?;
        (0..batch.rows()).try_for_each(|row| encoder.encode(batch.row(row), batch.cross_slots[row] as usize))
    }

    fn decode(&mut self, batch: &DecodeBatch) -> Result<()> {
        self.take_sources(batch)?;
        let tokens = if self.decoder.states.is_empty() { TokensARun::Any } else { TokensARun::One };
        plan_runs(batch, &self.lengths, self.recordings, tokens, &mut self.runs);
        let rows: usize = self.runs.iter().map(DecoderRun::kept_rows).sum();
        // One more for the runs whose logits nobody wants.
        if rows >= self.decoder.outputs.rows {
            return Err(Error::internal(format!(
                "logits of {rows} tokens in one step, room for {}",
                self.decoder.outputs.rows
            )));
        }
        self.places.clear();
        self.places.resize(batch.logit_rows.len(), 0);
        let mut output = 0;
        for run in &self.runs {
            self.decoder.run(run, output)?;
            for &(wanted, place) in &run.outputs {
                self.places[wanted] = output + place;
            }
            output += run.kept_rows();
        }
        self.found.fetch(&self.decoder.outputs, rows, self.candidates)?;
        // From here on nothing fails that could be tried again.
        self.decoder.commit_states(&batch.slots)?;
        for row in 0..batch.rows() {
            self.lengths.tokens[batch.slots[row] as usize] =
                batch.positions[row] as usize + batch.row(row).len();
        }
        Ok(())
    }

    fn copy_prefix(&mut self, from: usize, to: usize, tokens: usize) -> Result<()> {
        if !self.limits.can_rewind {
            return Err(Error::internal("a recurrent state cannot be cut to a prefix"));
        }
        // Heads lie apart, so that the slot is copied whole; what is behind the prefix is void.
        self.lengths.tokens[to] = 0;
        for cache in &self.decoder.caches {
            cache.memory.rows(to, 1)?.copy_from(&cache.memory.rows(from, 1)?)?;
        }
        self.lengths.tokens[to] = tokens;
        Ok(())
    }

    fn logits_mut(&mut self, row: usize) -> Result<&mut [f32]> {
        let place = *self.places.get(row).ok_or_else(|| Error::internal("logits of no token"))?;
        self.decoder.outputs.logits.rows(place, 1)?.download(&mut self.whole_row)?;
        Ok(&mut self.whole_row)
    }

    fn top_logits(&mut self, row: usize) -> Option<TopLogits<'_>> {
        let place = *self.places.get(row)?;
        let largest = place * self.candidates..(place + 1) * self.candidates;
        Some(TopLogits {
            tokens: self.found.ids.get(largest.clone())?,
            logits: self.found.values.get(largest)?,
            log_sum_exp: *self.found.log_sum_exp.get(place)?,
            vocab_size: self.limits.vocab_size,
        })
    }
}
