//! See the room: sessions, memory and the runs of a step.

use std::{path::Path, sync::Arc};

use ort::session::Session;
use textgen_artifact::{CudaSpec, Manifest};

use super::{
    decoder::{self, Decoder, Found},
    encoder::{self, Encoder},
    memory,
    rows::{Move, Rows},
    step::{DecoderRun, Recordings, RowLengths, RunRules, StepRuns, plan_recording, plan_runs},
};
use crate::{
    decoding::TopLogits,
    engine::{CrossView, DecodeBatch, EncodeBatch, Executor, ExecutorLimits, MemoryUse},
    error::{Error, Result},
    model::device::{Device, DeviceSession, Queue},
};

/// The graphs of a model on a device, which hold its weights.
pub struct Graphs {
    device: Arc<dyn Device>,
    encoder: Option<DeviceSession>,
    decoder: DeviceSession,
}

impl Graphs {
    /// Loads those in `dir`; `load` loads one for a queue of that device.
    pub fn load(
        dir: &Path,
        manifest: &Manifest,
        spec: CudaSpec,
        device: Arc<dyn Device>,
        load: &dyn Fn(&Path, Queue) -> Result<Session>,
    ) -> Result<Self> {
        let encoder = match &manifest.embeddings.encoder {
            Some(_) => Some(encoder::session(dir, manifest, &device, load)?),
            None => None,
        };
        let decoder = decoder::session(dir, manifest, spec, &device, load)?;
        Ok(Self { device, encoder, decoder })
    }

    /// Bytes of the device that ONNX Runtime holds for them.
    pub fn held_bytes(&self) -> usize {
        self.encoder.as_ref().map_or(0, DeviceSession::held_bytes) + self.decoder.held_bytes()
    }
}

/// See the module.
pub struct DeviceExecutor {
    device: Arc<dyn Device>,
    limits: ExecutorLimits,
    candidates: usize,
    recordings: Option<Recordings>,
    encoder: Option<Encoder>,
    decoder: Decoder,
    rows: Rows,
    moves: Vec<Move>,
    /// Slots of the sequences that share a run.
    sharing: Vec<i32>,
    /// A move has failed halfway.
    lost: Option<Error>,
    lengths: RowLengths,
    runs: StepRuns,
    /// For each logit row of the last step, its row in the outputs.
    places: Vec<usize>,
    found: Found,
    whole_row: Vec<f32>,
    memory: MemoryUse,
}

impl DeviceExecutor {
    /// Reserves what the slots hold.
    pub fn reserve(
        graphs: Graphs,
        manifest: &Manifest,
        spec: CudaSpec,
        limits: ExecutorLimits,
    ) -> Result<Self> {
        let Graphs { device, encoder, decoder } = graphs;
        let encoder = match (encoder, limits.encoder) {
            (Some(session), Some(sizes)) => Some(Encoder::reserve(session, manifest, spec, sizes, &device)?),
            _ => None,
        };
        let decoder = Decoder::reserve(decoder, manifest, spec, limits, &device)?;
        let rows = Rows::count(limits.slots);
        let sources = if encoder.is_some() { vec![0; rows] } else { Vec::new() };
        Ok(Self {
            device,
            limits,
            candidates: spec.candidates,
            recordings: None,
            encoder,
            decoder,
            rows: Rows::new(limits.slots),
            moves: Vec::new(),
            sharing: Vec::new(),
            lost: None,
            lengths: RowLengths { tokens: vec![0; rows], sources },
            runs: StepRuns::default(),
            places: Vec::new(),
            found: Found::default(),
            whole_row: vec![0.0; limits.vocab_size],
            memory: MemoryUse::default(),
        })
    }

    /// The graphs; what the slots hold is given back. Not of an executor that records.
    pub fn into_graphs(self) -> Result<Graphs> {
        let encoder = self.encoder.map(Encoder::into_session).transpose()?;
        Ok(Graphs { device: self.device, encoder, decoder: self.decoder.into_session()? })
    }

    /// Bytes of the device that ONNX Runtime holds.
    pub fn held_bytes(&self) -> usize {
        self.encoder.as_ref().map_or(0, Encoder::held_bytes) + self.decoder.held_bytes()
    }

    /// Runs as large as any that will come, so that later ones find the memory that they need. The slots hold nothing
    /// after it, as before.
    pub fn warm_up(&mut self) -> Result<()> {
        if let Some(encoder) = &mut self.encoder {
            encoder.warm_up()?;
        }
        let mut batch = DecodeBatch::default();
        let tokens = self.decoder.run_tokens().min(self.limits.max_target_tokens);
        let cross = self.limits.encoder.map(|sizes| CrossView { slot: 0, tokens: sizes.max_source_tokens });
        // At the end of a slot, where most is attended to.
        batch.push(&vec![0; tokens], 0, self.limits.max_target_tokens - tokens, cross);
        batch.want_logits();
        self.decode(&batch)?;
        batch.clear();
        for slot in 0..self.limits.slots {
            batch.push(&[0], slot, self.limits.max_target_tokens - 1, cross);
            batch.want_logits();
        }
        self.decode(&batch)?;
        self.lengths.tokens.fill(0);
        self.lengths.sources.fill(0);
        Ok(())
    }

    /// Records the runs of several sequences, for later ones to replay. ONNX Runtime keeps recordings for the thread
    /// that has made them: this must be the one that decodes.
    pub fn record(&mut self) -> Result<()> {
        let recordings = Recordings { positions: memory::slot_positions(self.limits) };
        for rows in Recordings::sizes(self.limits.slots) {
            plan_recording(rows, &self.lengths, recordings, &mut self.runs);
            self.run_all()?;
        }
        self.recordings = Some(recordings);
        Ok(())
    }

    /// Says what memory is held, for [`Executor::memory`].
    pub fn account(&mut self, memory: MemoryUse) {
        self.memory = memory;
    }

    /// Brings the sequences of `batch` that share a run to the first rows of the caches, if they are few and far apart.
    pub(super) fn compact(&mut self, batch: &DecodeBatch) -> Result<()> {
        if let Some(error) = &self.lost {
            return Err(error.clone());
        }
        let row_of = self.rows.of_slots();
        self.sharing.clear();
        for row in 0..batch.rows() {
            if batch.positions[row] == 0 {
                // What the slot held is void.
                self.lengths.tokens[row_of[batch.slots[row] as usize]] = 0;
            }
            if batch.row(row).len() == 1 {
                self.sharing.push(batch.slots[row]);
            }
        }
        // One sequence alone meets no holes, unless its run is a recorded one.
        if self.recordings.is_none() && self.sharing.len() < 2 {
            return Ok(());
        }
        self.rows.compact(&self.sharing, |row| self.lengths.tokens[row] > 0, &mut self.moves);
        self.make_moves().inspect_err(|error| {
            let error = error.clone().context("the caches are lost, reload the model");
            self.lost = Some(error);
        })
    }

    fn make_moves(&mut self) -> Result<()> {
        let lengths = &mut self.lengths;
        for &Move { from, to } in &self.moves {
            let source = lengths.sources.get(from).copied().unwrap_or(0);
            self.decoder.move_row(from, to, lengths.tokens[from], source)?;
            lengths.tokens[to] = std::mem::take(&mut lengths.tokens[from]);
            if let Some(tokens) = lengths.sources.get_mut(to) {
                *tokens = source;
            }
        }
        Ok(())
    }

    fn row_of(&self, slot: i32) -> usize {
        self.rows.of_slots()[slot as usize]
    }

    /// Gives the sequences of `batch` that start a copy of their sources.
    fn take_sources(&mut self, batch: &DecodeBatch) -> Result<()> {
        let Some(encoder) = &self.encoder else { return Ok(()) };
        for row in (0..batch.rows()).filter(|&row| batch.positions[row] == 0) {
            let (to, cross) = (self.row_of(batch.slots[row]), batch.cross_slots[row] as usize);
            let tokens = batch.cross_lengths[row] as usize;
            encoder.give(cross, tokens, self.decoder.cross(), to)?;
            self.lengths.sources[to] = tokens;
        }
        Ok(())
    }

    /// Makes what the step has made of the states of `batch` count: in one copy where no hole is between them.
    fn commit_states(&self, batch: &DecodeBatch) -> Result<()> {
        let rows = batch.slots.iter().map(|&slot| self.row_of(slot));
        let (first, last) = (rows.clone().min().unwrap_or(0), rows.clone().max().unwrap_or(0));
        if last - first < batch.rows() {
            return self.decoder.commit_states(first, last - first + 1);
        }
        rows.into_iter().try_for_each(|row| self.decoder.commit_states(row, 1))
    }

    /// Runs what is planned; returns the rows of logits that somebody wants, with those between them.
    fn run_all(&mut self) -> Result<usize> {
        let runs = self.runs.all();
        let rows: usize = runs.iter().map(DecoderRun::kept_rows).sum();
        // The runs whose logits nobody wants leave theirs behind.
        let most = runs.iter().map(|run| run.logit_rows.len() - run.kept_rows()).max().unwrap_or(0);
        if rows + most > self.decoder.output_rows() {
            return Err(Error::internal(format!(
                "logits of {rows} tokens in one step, room for {}",
                self.decoder.output_rows()
            )));
        }
        let mut output = 0;
        for run in runs {
            self.decoder.run(run, output)?;
            for &(wanted, place) in &run.outputs {
                self.places[wanted] = output + place;
            }
            output += run.kept_rows();
        }
        Ok(rows)
    }
}

impl Executor for DeviceExecutor {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn encode(&mut self, batch: &EncodeBatch) -> Result<()> {
        self.encoder.as_mut().ok_or_else(|| Error::internal("the model has no encoder"))?.encode(batch)
    }

    fn is_encoded(&mut self, cross_slot: usize) -> bool {
        // A device that does not answer fails the step, which says why.
        self.encoder.as_ref().is_none_or(|encoder| encoder.is_encoded(cross_slot).unwrap_or(true))
    }

    fn decode(&mut self, batch: &DecodeBatch) -> Result<()> {
        self.compact(batch)?;
        self.take_sources(batch)?;
        let rules = RunRules { recordings: self.recordings, max_tokens: self.decoder.run_tokens() };
        plan_runs(batch, self.rows.of_slots(), &self.lengths, rules, &mut self.runs);
        self.places.clear();
        self.places.resize(batch.logit_rows.len(), 0);
        let rows = self.run_all()?;
        self.decoder.fetch(rows, self.candidates, &mut self.found)?;
        // From here on nothing fails that could be tried again.
        self.commit_states(batch)?;
        for row in 0..batch.rows() {
            let at = self.row_of(batch.slots[row]);
            self.lengths.tokens[at] = batch.positions[row] as usize + batch.row(row).len();
        }
        Ok(())
    }

    fn copy_prefix(&mut self, from: usize, to: usize, tokens: usize) -> Result<()> {
        if !self.limits.can_rewind {
            return Err(Error::internal("a recurrent state cannot be cut to a prefix"));
        }
        let (from, to) = (self.rows.of_slots()[from], self.rows.of_slots()[to]);
        self.lengths.tokens[to] = 0;
        self.decoder.copy_prefix(from, to, tokens)?;
        self.lengths.tokens[to] = tokens;
        Ok(())
    }

    fn logits_mut(&mut self, row: usize) -> Result<&mut [f32]> {
        let place = *self.places.get(row).ok_or_else(|| Error::internal("logits of no token"))?;
        self.decoder.fetch_whole(place, &mut self.whole_row)?;
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

    fn memory(&self) -> MemoryUse {
        self.memory
    }
}
