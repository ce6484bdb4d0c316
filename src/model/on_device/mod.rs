//! The executor over graphs for a device with its own memory.
//!
//! Caches, states and logits stay on the device. A step sends a few integers for each row and reads back the largest
//! logits; all logits of a row are fetched for whoever cannot do with those. Each slot has a source of its own, of which
//! a sequence takes a copy when it starts, so that the encoder works on the next ones meanwhile.
//!
//! All memory is taken at load, where it is missed by nobody: weights first, then what the largest steps need, then as
//! many slots as fit.

mod decoder;
mod encoder;
mod executor;
mod memory;
mod rows;
mod step;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use textgen_artifact::{CudaSpec, DType, Manifest, WEIGHTS_FILE};

use self::executor::{DeviceExecutor, Graphs};
use super::{
    CudaOptions, ExecutorOptions, Runtime,
    binding::ElementType,
    cuda,
    device::{CudaDevice, Device, Queue},
    limits::limits,
    runtime::SessionDevice,
};
use crate::{
    engine::{EncoderLimits, Executor, ExecutorLimits, MemoryUse},
    error::{Error, Result},
};

const I32: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
const I64: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
const F32: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

/// Held while a model takes memory of a GPU: what one finds free, no other takes meanwhile.
static LOADING: Mutex<()> = Mutex::new(());

/// Loads the artifact in `dir` on GPU `device`. What the GPU lacks is said before anything is reserved. The thread that
/// loads must be the one that decodes, if steps are recorded.
pub fn load_on_gpu(
    runtime: &Runtime,
    dir: &Path,
    manifest: &Manifest,
    spec: CudaSpec,
    device: i32,
    options: &ExecutorOptions,
) -> Result<DeviceExecutor> {
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let gpu = cuda::require(runtime.library(), device, options.cuda.enable_cudnn)?;
    let named = |error: Error| error.context(format_args!("GPU {device} ({})", gpu.name));
    if spec.caches == DType::BF16 {
        gpu.require_bf16()?;
    }
    let weights = fs::metadata(dir.join(WEIGHTS_FILE)).map_or(0, |file| file.len() as usize);
    gpu.require_memory(weights, "the weights")?;
    if let Some(limit) = options.cuda.gpu_mem_limit.filter(|&limit| weights as u64 > limit) {
        return Err(named(Error::invalid_argument(format!(
            "the weights need {} MiB, gpu_mem_limit is {} MiB; raise it, or convert with a smaller --precision",
            weights.div_ceil(1 << 20),
            limit >> 20
        ))));
    }
    let opened = CudaDevice::open(Path::new(&gpu.cuda_runtime), device, options.cuda.share_stream)
        .map_err(|error| named(Error::internal(error)))?;
    let opened = Arc::new(opened);
    let load = |path: &Path, queue| {
        let stream = opened.stream(queue);
        // The encoder's shapes are as many as there are texts.
        let records = queue == Queue::Decode && options.cuda.enable_cuda_graph;
        let cuda = CudaOptions { enable_cuda_graph: records, ..options.cuda.clone() };
        let on = SessionDevice::Cuda { gpu: &gpu, options: &cuda, stream };
        runtime.session(path, on, options.intra_op_threads)
    };
    let graphs = Graphs::load(dir, manifest, spec, opened.clone(), &load)?;
    let executor = reserve(graphs, manifest, spec, options, &*opened).map_err(named)?;
    let (limits, memory) = (executor.limits(), executor.memory());
    let sources = limits
        .encoder
        .map_or_else(String::new, |encoder| format!(" with sources of {} tokens", encoder.max_source_tokens));
    log::info!(
        "{}: {} slots of {} tokens{sources} on GPU {device} ({}); MiB of its memory: {} weights, {} caches, {} for \
         steps, {} left",
        dir.display(),
        limits.slots,
        limits.max_target_tokens,
        gpu.name,
        memory.weights >> 20,
        memory.caches >> 20,
        memory.workspace.unwrap_or(0) >> 20,
        opened.free_bytes().unwrap_or(0) >> 20
    );
    Ok(executor)
}

/// An executor of as many slots as `options` ask for, or as many as fit, ready for its first step.
fn reserve(
    graphs: Graphs,
    manifest: &Manifest,
    spec: CudaSpec,
    options: &ExecutorOptions,
    device: &dyn Device,
) -> Result<DeviceExecutor> {
    let mut asked = limits(manifest, options)?;
    let limit = options.cuda.gpu_mem_limit.map(|bytes| bytes as usize);
    if options.may_shrink.sequences && limit.is_some() {
        asked.slots = memory::MOST_SLOTS;
    }
    let weights = graphs.held_bytes();
    // One slot is enough to learn what the largest run needs, and as many sources as one run holds.
    let all = memory::with_slots(asked, asked.slots);
    let encoder = all.encoder.map(|sizes| EncoderLimits {
        cross_slots: sizes.cross_slots.min(encoder::most_long_sources(sizes)),
        ..sizes
    });
    let one = ExecutorLimits { slots: 1, encoder, ..all };
    let mut trial = DeviceExecutor::reserve(graphs, manifest, spec, one)?;
    trial.warm_up()?;
    let taken = trial.held_bytes();
    let graphs = trial.into_graphs()?;
    let free = device.free_bytes().map_err(Error::internal)?;
    // CUDA keeps some for itself as kernels are first used.
    let free = free - free / 16;
    let room = limit.map_or(free, |limit| free.min(limit.saturating_sub(taken)));
    let fitting = memory::fit(manifest, spec, asked, options.may_shrink, room)?;
    let mut executor = DeviceExecutor::reserve(graphs, manifest, spec, fitting)?;
    executor.warm_up()?;
    if options.cuda.enable_cuda_graph {
        executor.record()?;
    }
    let caches = memory::cache_bytes(manifest, spec, fitting);
    let taken = executor.held_bytes();
    if let Some(limit) = limit.filter(|&limit| taken + caches > limit) {
        return Err(Error::invalid_argument(format!(
            "{} slots of {} tokens take {} MiB of the GPU's memory with weights and steps, gpu_mem_limit is {} MiB; \
             lower max_sequences or raise it",
            fitting.slots,
            fitting.max_target_tokens,
            (taken + caches).div_ceil(1 << 20),
            limit >> 20
        )));
    }
    executor.account(MemoryUse { weights, caches, workspace: Some(taken.saturating_sub(weights)) });
    Ok(executor)
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

#[cfg(test)]
mod tests;
