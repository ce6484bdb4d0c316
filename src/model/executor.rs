//! The executor over an artifact: an encoder, where the model has one, and a decoder.
//!
//! Self-attention caches and recurrent states belong to sequences (slots), cross-attention caches to sources
//! (cross slots). All of them are bound once, whole; a step only says which slot each row uses, so that rows
//! join, leave and share without a copy.

use std::{path::Path, sync::Arc};

use textgen_artifact::{Manifest, graph, ops::KEY_BLOCK};

use super::{
    Runtime, binding::TensorName, decoder::TargetDecoder, encoder::SourceEncoder, memory::DeviceBuffer,
    weights::Weights,
};
use crate::{
    engine::{DecodeBatch, EncodeBatch, EncoderLimits, Executor, ExecutorLimits},
    error::{Error, Result},
};

/// Sizes and threads of an executor. Lengths are counted in tokens; the model may allow less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorOptions {
    /// Threads of one step.
    pub intra_op_threads: usize,
    /// Sequences decoded at once.
    pub max_sequences: usize,
    /// Longest source of an encoder-decoder.
    pub max_source_tokens: usize,
    /// Longest target of an encoder-decoder.
    pub max_target_tokens: usize,
    /// Longest context of a decoder-only model: prompt and generated text together.
    pub max_context_tokens: usize,
}

/// See the module.
pub struct ModelExecutor {
    limits: ExecutorLimits,
    encoder: Option<SourceEncoder>,
    decoder: TargetDecoder,
    /// Written by the encoder, read by the decoder, and bound to both by address.
    _cross_caches: Vec<DeviceBuffer>,
}

impl ModelExecutor {
    /// Loads the artifact in `dir`, which `manifest` describes.
    pub fn load(
        runtime: &Runtime,
        dir: &Path,
        manifest: &Manifest,
        options: &ExecutorOptions,
    ) -> Result<Self> {
        let weights = Arc::new(Weights::open(dir, manifest)?);
        let threads = options.intra_op_threads;
        let mut encoder = match &manifest.embeddings.encoder {
            Some(embedding) => {
                Some(SourceEncoder::load(runtime, dir, manifest, embedding, weights.clone(), threads)?)
            }
            None => None,
        };
        let mut decoder = TargetDecoder::load(runtime, dir, manifest, weights, threads)?;
        let limits = limits(manifest, options, encoder.as_ref(), &decoder)?;
        decoder.reserve(&manifest.geometry, limits)?;
        let mut cross_caches = Vec::new();
        if let (Some(encoder), Some(sizes)) = (&mut encoder, limits.encoder) {
            cross_caches = bind_cross_caches(manifest, sizes, encoder, &mut decoder)?;
        }
        let reserved = decoder.cache_bytes() + cross_caches.iter().map(DeviceBuffer::bytes).sum::<usize>();
        let sources = limits.encoder.map_or_else(String::new, |encoder| {
            format!("{} sources of {} tokens, ", encoder.cross_slots, encoder.max_source_tokens)
        });
        log::info!(
            "{}: {} slots of {} tokens, {sources}{} MiB of caches reserved",
            dir.display(),
            limits.slots,
            limits.max_target_tokens,
            reserved >> 20
        );
        Ok(Self { limits, encoder, decoder, _cross_caches: cross_caches })
    }
}

/// Positions of a cache for so many tokens.
pub(super) fn cache_positions(tokens: usize) -> usize {
    tokens.next_multiple_of(KEY_BLOCK)
}

fn bind_cross_caches(
    manifest: &Manifest,
    sizes: EncoderLimits,
    encoder: &mut SourceEncoder,
    decoder: &mut TargetDecoder,
) -> Result<Vec<DeviceBuffer>> {
    let geometry = &manifest.geometry;
    let positions = cache_positions(sizes.max_source_tokens);
    let dims = [sizes.cross_slots, geometry.cross_kv_heads, positions, geometry.head_dim];
    let mut caches = Vec::new();
    for layer in 0..geometry.decoder_layers {
        for (past, present) in [
            (graph::past_cross_key(layer), graph::present_cross_key(layer)),
            (graph::past_cross_value(layer), graph::present_cross_value(layer)),
        ] {
            let mut cache = DeviceBuffer::zeroed(&past, &dims)?;
            let (past, present) = (TensorName::new(&past)?, TensorName::new(&present)?);
            // SAFETY: the buffer goes to the executor, which holds it as long as both sessions; it does not
            // move, and only runs touch it.
            unsafe {
                encoder.session.bind_in_place(&past, &present, &mut cache)?;
                let (data, dims) = (cache.as_mut_ptr(), cache.dims());
                decoder.session.bind_input(&past, data, dims)?;
            }
            caches.push(cache);
        }
    }
    Ok(caches)
}

/// What the options ask for, within what the model allows.
fn limits(
    manifest: &Manifest,
    options: &ExecutorOptions,
    encoder: Option<&SourceEncoder>,
    decoder: &TargetDecoder,
) -> Result<ExecutorLimits> {
    let geometry = &manifest.geometry;
    let within =
        |asked: usize, allowed: [Option<usize>; 2]| allowed.into_iter().flatten().fold(asked, usize::min);
    let asked = if encoder.is_some() { options.max_target_tokens } else { options.max_context_tokens };
    let mut limits = ExecutorLimits {
        slots: options.max_sequences,
        max_target_tokens: within(asked, [geometry.max_target_tokens, decoder.embedding.positions()]),
        vocab_size: geometry.vocab_size,
        can_rewind: geometry.state_width == 0,
        encoder: None,
    };
    let rows = decoder.embedding.rows();
    let encoder_table = manifest.embeddings.encoder.as_ref().map(|encoder| &encoder.table);
    if let Some(encoder) = encoder {
        let start = manifest.generation.decoder_start_token_id.unwrap_or(u32::MAX);
        if start as usize >= rows {
            return Err(Error::invalid_argument(format!(
                "decoder embedding of {rows} rows for the start token {start}; convert the model again"
            )));
        }
        limits.encoder = Some(EncoderLimits {
            cross_slots: options.max_sequences,
            max_source_tokens: within(
                options.max_source_tokens,
                [geometry.max_source_tokens, encoder.embedding.positions()],
            ),
            decoder_start_token_id: start,
            shares_vocabulary: encoder_table == Some(&manifest.embeddings.decoder.table),
        });
    }
    // Slot numbers and lengths travel as i32.
    let small = |value: usize| value > 0 && i32::try_from(2 * value).is_ok();
    let source = limits.encoder.map_or(1, |encoder| encoder.max_source_tokens);
    if ![limits.slots, source, limits.max_target_tokens, limits.vocab_size].into_iter().all(small) {
        return Err(Error::invalid_argument(format!(
            "{} sequences, sources of {source} and targets of {} tokens, a vocabulary of {}: each must be positive \
             and below 2^30",
            limits.slots, limits.max_target_tokens, limits.vocab_size
        )));
    }
    if rows < limits.vocab_size {
        return Err(Error::invalid_argument(format!(
            "decoder embedding of {rows} rows for {} tokens; convert the model again",
            limits.vocab_size
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

impl Executor for ModelExecutor {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn encode(&mut self, batch: &EncodeBatch) -> Result<()> {
        let encoder = self.encoder.as_mut().ok_or_else(|| Error::internal("the model has no encoder"))?;
        encoder.run(batch)
    }

    fn decode(&mut self, batch: &DecodeBatch) -> Result<()> {
        self.decoder.run(batch)
    }

    fn copy_prefix(&mut self, from: usize, to: usize, tokens: usize) -> Result<()> {
        self.decoder.copy_prefix(from, to, tokens)
    }

    fn logits_mut(&mut self, row: usize) -> Result<&mut [f32]> {
        Ok(self.decoder.logits_mut(row))
    }
}
