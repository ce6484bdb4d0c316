//! The executor over an artifact for the CPU: an encoder, where the model has one, and a decoder.
//!
//! Self-attention caches and recurrent states belong to sequences (slots), cross-attention caches to sources
//! (cross slots). All of them are bound once, whole; a step only says which slot each row uses, so that rows
//! join, leave and share without a copy.

use std::{path::Path, sync::Arc};

use textgen_artifact::{Manifest, graph, ops::KEY_BLOCK};

use super::{
    ExecutorOptions, Runtime, binding::TensorName, decoder::TargetDecoder, encoder::SourceEncoder,
    limits::limits, memory::DeviceBuffer, weights::Weights,
};
use crate::{
    engine::{DecodeBatch, EncodeBatch, EncoderLimits, Executor, ExecutorLimits, MemoryUse},
    error::{Error, Result},
};

/// See the module.
pub struct CpuExecutor {
    limits: ExecutorLimits,
    encoder: Option<SourceEncoder>,
    decoder: TargetDecoder,
    memory: MemoryUse,
    /// Written by the encoder, read by the decoder, and bound to both by address.
    _cross_caches: Vec<DeviceBuffer>,
}

impl CpuExecutor {
    /// Loads the artifact in `dir`, which `manifest` describes.
    pub fn load(
        runtime: &Runtime,
        dir: &Path,
        manifest: &Manifest,
        options: &ExecutorOptions,
    ) -> Result<Self> {
        let weights = Arc::new(Weights::open(dir, manifest)?);
        let weight_bytes = weights.bytes();
        let threads = options.intra_op_threads;
        let mut encoder = match &manifest.embeddings.encoder {
            Some(embedding) => {
                Some(SourceEncoder::load(runtime, dir, manifest, embedding, weights.clone(), threads)?)
            }
            None => None,
        };
        let mut decoder = TargetDecoder::load(runtime, dir, manifest, weights, threads)?;
        let limits = limits(manifest, options)?;
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
        let memory = MemoryUse { weights: weight_bytes, caches: reserved, workspace: None };
        Ok(Self { limits, encoder, decoder, memory, _cross_caches: cross_caches })
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

impl Executor for CpuExecutor {
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

    fn memory(&self) -> MemoryUse {
        self.memory
    }
}
