//! The seam between engine and model: what a step holds, and who runs it.

use crate::{
    decoding::{Choice, SamplerScratch, TokenSampler, TopLogits},
    error::Result,
};

/// Runs the steps that the engine plans. Owns weights, caches and whatever device they live on.
///
/// A failed call changes nothing: every slot holds what it held before, and the same batch, or a part of it,
/// may be tried again.
pub trait Executor: Send {
    /// Sizes that the engine must keep to.
    fn limits(&self) -> ExecutorLimits;
    /// Encodes the sources of `batch` and writes each row's cross-attention slot. Never called without an
    /// encoder.
    fn encode(&mut self, batch: &EncodeBatch) -> Result<()>;
    /// Whether a step that starts from the source in `cross_slot` would not have to wait for the encoder. Some devices
    /// encode while they decode; others are done when [`Executor::encode`] returns.
    fn is_encoded(&mut self, _cross_slot: usize) -> bool {
        true
    }
    /// Feeds the tokens of `batch` and leaves one row of logits for each of `batch.logit_rows`.
    fn decode(&mut self, batch: &DecodeBatch) -> Result<()>;
    /// Makes the first `tokens` of slot `to` those of slot `from`. Never called with an encoder: there a target's
    /// cache belongs to its source.
    fn copy_prefix(&mut self, from: usize, to: usize, tokens: usize) -> Result<()>;
    /// Logits `[vocab_size]` of `batch.logit_rows[row]` of the last successful [`Executor::decode`]; the
    /// caller may overwrite them. Valid until the next call. Where the executor has [`Executor::top_logits`], this
    /// costs a copy of the whole row.
    fn logits_mut(&mut self, row: usize) -> Result<&mut [f32]>;
    /// The largest of those logits, for whoever needs no others. None: the executor has all of them at hand.
    fn top_logits(&mut self, _row: usize) -> Option<TopLogits<'_>> {
        None
    }
    /// Memory that it holds, which does not change any more.
    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }
}

/// What `sampler` chooses by row `row` of the logits: of the largest alone where these decide it, since all are costly
/// where the executor does not have them at hand.
pub fn choose(
    executor: &mut dyn Executor,
    row: usize,
    sampler: &mut TokenSampler,
    scratch: &mut SamplerScratch,
) -> Result<Choice> {
    if let Some(top) = executor.top_logits(row)
        && let Some(choice) = sampler.sample_top(top, scratch)?
    {
        return Ok(choice);
    }
    sampler.sample(executor.logits_mut(row)?, scratch)
}

/// Memory of a model, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Its weights.
    pub weights: usize,
    /// What its slots hold, and their logits.
    pub caches: usize,
    /// What its largest step needs in between; none where that is not known.
    pub workspace: Option<usize>,
}

/// Sizes of an executor. Lengths are counted in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutorLimits {
    /// Sequences that can be decoded at once; slots are `0 .. slots`.
    pub slots: usize,
    /// Tokens a slot holds: what the target starts from, and what is generated but for the last token.
    pub max_target_tokens: usize,
    /// Width of the logits.
    pub vocab_size: usize,
    /// Whether a slot can go back: the last tokens of what it holds are as if they had never been fed once others are
    /// fed at their positions. A recurrent state cannot.
    pub can_rewind: bool,
    /// None for a decoder-only model, whose targets start from the prompt itself.
    pub encoder: Option<EncoderLimits>,
}

/// Sizes of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderLimits {
    /// Sources that can be held at once; cross slots are `0 .. cross_slots`.
    pub cross_slots: usize,
    /// Longest source.
    pub max_source_tokens: usize,
    /// The token that starts every target.
    pub decoder_start_token_id: u32,
    /// Whether an id means the same text in a source and in a target.
    pub shares_vocabulary: bool,
    /// Whether a slot has a source of its own from its first step on, so that the cross slot is free for another.
    pub slots_keep_sources: bool,
}

/// Sources to encode, one row each; row `r` owns the tokens `row_offsets[r] .. row_offsets[r + 1]`.
#[derive(Debug)]
pub struct EncodeBatch {
    /// Tokens of all rows, one after the other.
    pub tokens: Vec<u32>,
    /// `[rows + 1]`, from 0.
    pub row_offsets: Vec<i32>,
    /// Cross slot that each row writes, `[rows]`.
    pub cross_slots: Vec<i32>,
}

impl Default for EncodeBatch {
    /// No rows.
    fn default() -> Self {
        Self { tokens: Vec::new(), row_offsets: vec![0], cross_slots: Vec::new() }
    }
}

impl EncodeBatch {
    /// Forgets the rows and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.row_offsets.truncate(1);
        self.cross_slots.clear();
    }

    /// Adds a source.
    pub fn push(&mut self, source: &[u32], cross_slot: usize) {
        self.tokens.extend_from_slice(source);
        self.row_offsets.push(self.tokens.len() as i32);
        self.cross_slots.push(cross_slot as i32);
    }

    /// Tokens of source `row`.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.tokens[self.row_offsets[row] as usize..self.row_offsets[row + 1] as usize]
    }

    /// Number of sources.
    pub fn rows(&self) -> usize {
        self.cross_slots.len()
    }
}

/// Sequences to advance, one row each; row `r` owns the tokens `row_offsets[r] .. row_offsets[r + 1]`.
#[derive(Debug)]
pub struct DecodeBatch {
    /// Tokens of all rows, one after the other: one for a running sequence, and what it drafts; several for a
    /// prompt or a forced prefix, or a part of it.
    pub tokens: Vec<u32>,
    /// `[rows + 1]`, from 0.
    pub row_offsets: Vec<i32>,
    /// Slot of each row, `[rows]`.
    pub slots: Vec<i32>,
    /// Tokens that each row's slot already holds, `[rows]`. What it holds beyond, drafts that were wrong, is void.
    pub positions: Vec<i32>,
    /// Cross slot of each row, `[rows]`; samples of one request share theirs. Empty without an encoder.
    pub cross_slots: Vec<i32>,
    /// Source tokens in that cross slot, likewise.
    pub cross_lengths: Vec<i32>,
    /// Indices into `tokens` whose logits are wanted, in rising order; none for a row that feeds but a part of
    /// its prompt.
    pub logit_rows: Vec<i64>,
}

impl Default for DecodeBatch {
    /// No rows.
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            row_offsets: vec![0],
            slots: Vec::new(),
            positions: Vec::new(),
            cross_slots: Vec::new(),
            cross_lengths: Vec::new(),
            logit_rows: Vec::new(),
        }
    }
}

impl DecodeBatch {
    /// Forgets the rows and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.row_offsets.truncate(1);
        self.slots.clear();
        self.positions.clear();
        self.cross_slots.clear();
        self.cross_lengths.clear();
        self.logit_rows.clear();
    }

    /// Adds a sequence that feeds `tokens`, at least one. Its logits are another matter: see
    /// [`DecodeBatch::want_logits`].
    pub fn push(&mut self, tokens: &[u32], slot: usize, position: usize, cross: Option<CrossView>) {
        self.tokens.extend_from_slice(tokens);
        self.row_offsets.push(self.tokens.len() as i32);
        self.slots.push(slot as i32);
        self.positions.push(position as i32);
        if let Some(cross) = cross {
            self.cross_slots.push(cross.slot as i32);
            self.cross_lengths.push(cross.tokens as i32);
        }
    }

    /// Asks for the logits after the last token that was added; returns their row.
    pub fn want_logits(&mut self) -> usize {
        self.logit_rows.push(self.tokens.len() as i64 - 1);
        self.logit_rows.len() - 1
    }

    /// Adds guessed tokens to the last sequence, and asks for the logits after each.
    pub fn push_draft(&mut self, draft: &[u32]) {
        for &token in draft {
            self.tokens.push(token);
            self.want_logits();
        }
        if let Some(end) = self.row_offsets.last_mut() {
            *end = self.tokens.len() as i32;
        }
    }

    /// Tokens that sequence `row` feeds.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.tokens[self.row_offsets[row] as usize..self.row_offsets[row + 1] as usize]
    }

    /// Number of sequences.
    pub fn rows(&self) -> usize {
        self.slots.len()
    }
}

/// An encoded source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossView {
    /// Cross slot that holds it.
    pub slot: usize,
    /// Its length.
    pub tokens: usize,
}
