//! The executor of encoder-decoder models.
//!
//! Self-attention caches and recurrent states belong to sequences (slots), cross-attention caches to sources
//! (cross slots). All of them are bound once, whole; a step only says which slot each row uses, so that rows
//! join, leave and share without a copy.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ort::{session::Session, value::Outlet};
use textgen_artifact::{DECODER_FILE, ENCODER_FILE, Geometry, Manifest, graph, ops::KEY_BLOCK};

use super::{
    Runtime,
    binding::{BoundSession, TensorName},
    embedding::Embedding,
    memory::DeviceBuffer,
    weights::Weights,
};
use crate::{
    engine::{DecodeBatch, EncodeBatch, Executor, ExecutorLimits},
    error::{Error, Result},
};

/// Sizes and threads of an executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorOptions {
    /// Threads of one step.
    pub intra_op_threads: usize,
    /// Sequences decoded at once.
    pub max_sequences: usize,
    /// Longest source in tokens; the model may allow less.
    pub max_source_tokens: usize,
    /// Longest target in tokens; the model may allow less.
    pub max_target_tokens: usize,
}

/// See the module.
pub struct EncoderDecoder {
    limits: ExecutorLimits,
    encoder: BoundSession,
    decoder: BoundSession,
    encoder_embedding: Embedding,
    decoder_embedding: Embedding,
    d_model: usize,
    /// Bergamot's decoder has recurrent states instead.
    has_self_attention: bool,
    names: Names,
    /// Bound to the sessions by address.
    caches: Vec<DeviceBuffer>,
    states: Option<States>,
    x: Vec<f32>,
    logits: Vec<f32>,
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

impl EncoderDecoder {
    /// Loads the artifact in `dir`, which `manifest` describes.
    pub fn load(
        runtime: &Runtime,
        dir: &Path,
        manifest: &Manifest,
        options: &ExecutorOptions,
    ) -> Result<Self> {
        let geometry = &manifest.geometry;
        let weights = Arc::new(Weights::open(dir, manifest)?);
        let encoder_embedding = Embedding::new(weights.clone(), manifest, &manifest.embeddings.encoder)?;
        let decoder_embedding = Embedding::new(weights, manifest, &manifest.embeddings.decoder)?;
        let limits = limits(manifest, options, &encoder_embedding, &decoder_embedding)?;
        let mut executor = Self {
            limits,
            encoder: BoundSession::new(runtime.session(&dir.join(ENCODER_FILE), options.intra_op_threads)?)?,
            decoder: BoundSession::new(runtime.session(&dir.join(DECODER_FILE), options.intra_op_threads)?)?,
            encoder_embedding,
            decoder_embedding,
            d_model: geometry.d_model,
            has_self_attention: geometry.self_kv_heads > 0,
            names: Names::new()?,
            caches: Vec::new(),
            states: (geometry.state_width > 0).then(|| States {
                current: vec![0; limits.slots],
                reads: Vec::new(),
                writes: Vec::new(),
            }),
            x: Vec::new(),
            logits: Vec::new(),
        };
        executor.check_graphs(dir, geometry)?;
        executor.bind_caches(geometry)?;
        log::info!(
            "{}: {} slots of {} target tokens, {} sources of {} tokens, {} MiB of caches reserved",
            dir.display(),
            limits.slots,
            limits.max_target_tokens,
            limits.cross_slots,
            limits.max_source_tokens,
            executor.caches.iter().map(DeviceBuffer::bytes).sum::<usize>() >> 20
        );
        Ok(executor)
    }

    /// A graph from another artifact would fail in the first step; better at load.
    fn check_graphs(&self, dir: &Path, geometry: &Geometry) -> Result<()> {
        let x = [ANY, geometry.d_model as i64];
        let cross = [ANY, geometry.cross_kv_heads as i64, ANY, geometry.head_dim as i64];
        let own = [ANY, geometry.self_kv_heads as i64, ANY, geometry.head_dim as i64];
        let state = [ANY, geometry.state_width as i64];
        let encoder = GraphCheck { path: dir.join(ENCODER_FILE), session: self.encoder.session() };
        let decoder = GraphCheck { path: dir.join(DECODER_FILE), session: self.decoder.session() };
        encoder.input(graph::X, &x)?;
        decoder.input(graph::X, &x)?;
        decoder.input(graph::LOGIT_ROWS, &[ANY])?;
        decoder.output(graph::LOGITS, &[ANY, geometry.vocab_size as i64])?;
        for layer in 0..geometry.decoder_layers {
            for name in [graph::past_cross_key(layer), graph::past_cross_value(layer)] {
                encoder.input(&name, &cross)?;
                decoder.input(&name, &cross)?;
            }
            if geometry.self_kv_heads > 0 {
                decoder.input(&graph::past_self_key(layer), &own)?;
                decoder.input(&graph::past_self_value(layer), &own)?;
            }
            if geometry.state_width > 0 {
                decoder.input(&graph::past_state(layer), &state)?;
            }
        }
        Ok(())
    }

    fn bind_caches(&mut self, geometry: &Geometry) -> Result<()> {
        let positions = |tokens: usize| tokens.next_multiple_of(KEY_BLOCK);
        let cross = [
            self.limits.cross_slots,
            geometry.cross_kv_heads,
            positions(self.limits.max_source_tokens),
            geometry.head_dim,
        ];
        let own = [
            self.limits.slots,
            geometry.self_kv_heads,
            positions(self.limits.max_target_tokens),
            geometry.head_dim,
        ];
        for layer in 0..geometry.decoder_layers {
            for (past, present) in [
                (graph::past_cross_key(layer), graph::present_cross_key(layer)),
                (graph::past_cross_value(layer), graph::present_cross_value(layer)),
            ] {
                let mut cache = DeviceBuffer::zeroed(&past, &cross)?;
                let (past, present) = (TensorName::new(&past)?, TensorName::new(&present)?);
                // SAFETY: the buffer lives in `self.caches`, does not move, and is touched only by runs.
                unsafe {
                    let (data, dims) = (cache.as_mut_ptr(), cache.dims());
                    self.encoder.bind_input(&past, data, dims)?;
                    self.encoder.bind_output(&present, data, dims)?;
                    self.decoder.bind_input(&past, data, dims)?;
                }
                self.caches.push(cache);
            }
            let mut in_place = Vec::new();
            if geometry.self_kv_heads > 0 {
                in_place.push((graph::past_self_key(layer), graph::present_self_key(layer), &own[..]));
                in_place.push((graph::past_self_value(layer), graph::present_self_value(layer), &own[..]));
            }
            let state = [2 * self.limits.slots, geometry.state_width];
            if geometry.state_width > 0 {
                in_place.push((graph::past_state(layer), graph::present_state(layer), &state[..]));
            }
            for (past, present, dims) in in_place {
                let mut cache = DeviceBuffer::zeroed(&past, dims)?;
                let (past, present) = (TensorName::new(&past)?, TensorName::new(&present)?);
                // SAFETY: as above.
                unsafe {
                    let (data, dims) = (cache.as_mut_ptr(), cache.dims());
                    self.decoder.bind_input(&past, data, dims)?;
                    self.decoder.bind_output(&present, data, dims)?;
                }
                self.caches.push(cache);
            }
        }
        Ok(())
    }
}

/// A dimension that a graph leaves open.
const ANY: i64 = -1;

/// Holds a graph against the manifest.
struct GraphCheck<'a> {
    path: PathBuf,
    session: &'a Session,
}

impl GraphCheck<'_> {
    fn input(&self, name: &str, expected: &[i64]) -> Result<()> {
        self.tensor("input", self.session.inputs(), name, expected)
    }

    fn output(&self, name: &str, expected: &[i64]) -> Result<()> {
        self.tensor("output", self.session.outputs(), name, expected)
    }

    fn tensor(&self, kind: &str, tensors: &[Outlet], name: &str, expected: &[i64]) -> Result<()> {
        let shape = tensors
            .iter()
            .find(|tensor| tensor.name() == name)
            .and_then(|tensor| tensor.dtype().tensor_shape())
            .map(|shape| shape.to_vec());
        let fits = shape.as_ref().is_some_and(|shape| {
            shape.len() == expected.len()
                && shape
                    .iter()
                    .zip(expected)
                    .all(|(got, expected)| *got == ANY || *expected == ANY || got == expected)
        });
        if fits {
            return Ok(());
        }
        let got = shape.map_or("none".to_owned(), |shape| format!("{shape:?}"));
        Err(Error::invalid_argument(format!(
            "{}: {kind} {name}: got {got}, the manifest expects {expected:?} (-1 is any); the files are not of one \
             artifact, convert the model again",
            self.path.display()
        )))
    }
}

/// What the options ask for, within what the model allows.
fn limits(
    manifest: &Manifest,
    options: &ExecutorOptions,
    encoder: &Embedding,
    decoder: &Embedding,
) -> Result<ExecutorLimits> {
    let geometry = &manifest.geometry;
    let within =
        |asked: usize, allowed: [Option<usize>; 2]| allowed.into_iter().flatten().fold(asked, usize::min);
    let limits = ExecutorLimits {
        slots: options.max_sequences,
        cross_slots: options.max_sequences,
        max_source_tokens: within(
            options.max_source_tokens,
            [geometry.max_source_tokens, encoder.positions()],
        ),
        max_target_tokens: within(
            options.max_target_tokens,
            [geometry.max_target_tokens, decoder.positions()],
        ),
        vocab_size: geometry.vocab_size,
        decoder_start_token_id: manifest.generation.decoder_start_token_id,
    };
    // Slot numbers and lengths travel as i32.
    let small = |value: usize| value > 0 && i32::try_from(2 * value).is_ok();
    if ![limits.slots, limits.max_source_tokens, limits.max_target_tokens, limits.vocab_size]
        .into_iter()
        .all(small)
    {
        return Err(Error::invalid_argument(format!(
            "max_sequences {}, max_source_tokens {}, max_target_tokens {} and {} tokens of vocabulary: each must be \
             positive and below 2^30",
            limits.slots, limits.max_source_tokens, limits.max_target_tokens, limits.vocab_size
        )));
    }
    if limits.decoder_start_token_id as usize >= decoder.rows() || decoder.rows() < limits.vocab_size {
        return Err(Error::invalid_argument(format!(
            "decoder embedding of {} rows for {} tokens and start token {}; convert the model again",
            decoder.rows(),
            limits.vocab_size,
            limits.decoder_start_token_id
        )));
    }
    let generation = &manifest.generation;
    let unknown = generation
        .eos_token_ids
        .iter()
        .chain(&generation.suppress_tokens)
        .find(|&&token| token as usize >= limits.vocab_size);
    if let Some(token) = unknown {
        return Err(Error::invalid_argument(format!(
            "generation: end or suppressed token {token}, the model has {} tokens; convert the model again",
            limits.vocab_size
        )));
    }
    Ok(limits)
}

impl Executor for EncoderDecoder {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn encode(&mut self, batch: &EncodeBatch) -> Result<()> {
        self.x.clear();
        for row in 0..batch.rows() {
            let span = batch.row_offsets[row] as usize..batch.row_offsets[row + 1] as usize;
            self.encoder_embedding.append(&batch.tokens[span], 0, &mut self.x)?;
        }
        let (rows, tokens) = (batch.rows() as i64, batch.tokens.len() as i64);
        // SAFETY: `x` and the batch outlive the run below and nobody writes them meanwhile; the next step
        // binds anew before it runs.
        unsafe {
            self.encoder.bind_input(&self.names.x, self.x.as_ptr(), &[tokens, self.d_model as i64])?;
            self.encoder.bind_input(&self.names.row_offsets, batch.row_offsets.as_ptr(), &[rows + 1])?;
            self.encoder.bind_input(&self.names.slots, batch.cross_slots.as_ptr(), &[rows])?;
        }
        self.encoder.run().map_err(|error| Error::internal(format!("encoder step: {error}")))
    }

    fn decode(&mut self, batch: &DecodeBatch) -> Result<()> {
        self.x.clear();
        for row in 0..batch.rows() {
            let span = batch.row_offsets[row] as usize..batch.row_offsets[row + 1] as usize;
            self.decoder_embedding.append(&batch.tokens[span], batch.positions[row] as usize, &mut self.x)?;
        }
        let (rows, tokens) = (batch.rows() as i64, batch.tokens.len() as i64);
        let outputs = batch.logit_rows.len();
        let needed = outputs * self.limits.vocab_size;
        if self.logits.len() < needed {
            self.logits.resize(needed, 0.0);
        }
        let names = &self.names;
        // SAFETY: as in `encode`; `logits` has room for every row that is asked for.
        unsafe {
            let decoder = &mut self.decoder;
            decoder.bind_input(&names.x, self.x.as_ptr(), &[tokens, self.d_model as i64])?;
            decoder.bind_input(&names.row_offsets, batch.row_offsets.as_ptr(), &[rows + 1])?;
            decoder.bind_input(&names.cross_slots, batch.cross_slots.as_ptr(), &[rows])?;
            decoder.bind_input(&names.cross_lengths, batch.cross_lengths.as_ptr(), &[rows])?;
            decoder.bind_input(&names.logit_rows, batch.logit_rows.as_ptr(), &[outputs as i64])?;
            if let Some(states) = &mut self.states {
                states.plan(batch);
                decoder.bind_input(&names.state_reads, states.reads.as_ptr(), &[rows])?;
                decoder.bind_input(&names.state_writes, states.writes.as_ptr(), &[rows])?;
            }
            if self.has_self_attention {
                decoder.bind_input(&names.slots, batch.slots.as_ptr(), &[rows])?;
                decoder.bind_input(&names.positions, batch.positions.as_ptr(), &[rows])?;
            }
            let dims = [outputs as i64, self.limits.vocab_size as i64];
            decoder.bind_output(&names.logits, self.logits.as_mut_ptr(), &dims)?;
        }
        self.decoder.run().map_err(|error| Error::internal(format!("decoder step: {error}")))?;
        if let Some(states) = &mut self.states {
            states.commit(batch);
        }
        Ok(())
    }

    fn logits_mut(&mut self, row: usize) -> &mut [f32] {
        let vocab = self.limits.vocab_size;
        &mut self.logits[row * vocab..(row + 1) * vocab]
    }
}
