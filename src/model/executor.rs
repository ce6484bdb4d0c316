//! The executor over an artifact, on whatever device it was converted for.

use std::path::Path;

use textgen_artifact::Manifest;

use super::{
    CudaOptions, Placement, Runtime, cpu_executor::CpuExecutor, memory::TrimOnDrop, on_device,
    placement::Place,
};
use crate::{
    decoding::TopLogits,
    engine::{DecodeBatch, EncodeBatch, Executor, ExecutorLimits, MemoryUse},
    error::Result,
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
    /// Which of these sizes may be lower on a device with less memory.
    pub may_shrink: MayShrink,
    /// Where the model runs.
    pub placement: Placement,
    /// For a model that runs on a GPU.
    pub cuda: CudaOptions,
}

/// Sizes that nobody has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MayShrink {
    /// [`ExecutorOptions::max_sequences`].
    pub sequences: bool,
    /// [`ExecutorOptions::max_source_tokens`].
    pub sources: bool,
    /// [`ExecutorOptions::max_target_tokens`].
    pub targets: bool,
    /// [`ExecutorOptions::max_context_tokens`].
    pub contexts: bool,
}

/// See the module.
pub struct ModelExecutor(Box<dyn Executor>, TrimOnDrop);

impl ModelExecutor {
    /// Loads the artifact in `dir`, which `manifest` describes.
    pub fn load(
        runtime: &Runtime,
        dir: &Path,
        manifest: &Manifest,
        options: &ExecutorOptions,
    ) -> Result<Self> {
        let executor: Box<dyn Executor> = match options.placement.of(&manifest.device)? {
            Place::Cpu => Box::new(CpuExecutor::load(runtime, dir, manifest, options)?),
            Place::Gpu { device, spec } => {
                Box::new(on_device::load_on_gpu(runtime, dir, manifest, spec, device, options)?)
            }
        };
        Ok(Self(executor, TrimOnDrop))
    }
}

impl Executor for ModelExecutor {
    fn limits(&self) -> ExecutorLimits {
        self.0.limits()
    }

    fn encode(&mut self, batch: &EncodeBatch) -> Result<()> {
        self.0.encode(batch)
    }

    fn is_encoded(&mut self, cross_slot: usize) -> bool {
        self.0.is_encoded(cross_slot)
    }

    fn decode(&mut self, batch: &DecodeBatch) -> Result<()> {
        self.0.decode(batch)
    }

    fn copy_prefix(&mut self, from: usize, to: usize, tokens: usize) -> Result<()> {
        self.0.copy_prefix(from, to, tokens)
    }

    fn logits_mut(&mut self, row: usize) -> Result<&mut [f32]> {
        self.0.logits_mut(row)
    }

    fn top_logits(&mut self, row: usize) -> Option<TopLogits<'_>> {
        self.0.top_logits(row)
    }

    fn memory(&self) -> MemoryUse {
        self.0.memory()
    }
}
