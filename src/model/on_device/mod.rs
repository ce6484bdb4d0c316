//! The executor over graphs for a device with its own memory.
//!
//! Caches, states and logits stay on the device. A step sends a few integers for each row and reads back the largest
//! logits; all logits of a row are fetched for whoever cannot do with those. Cross caches belong to slots here, so that
//! a sequence takes a copy of its encoded source when it starts.

mod executor;
mod step;

use std::{fs, path::Path, sync::Arc};

use textgen_artifact::{CudaSpec, Manifest, WEIGHTS_FILE};

use self::executor::{DeviceExecutor, DeviceParts, reserved_bytes};
use super::{
    ExecutorOptions, Runtime, cuda,
    device::{CudaDevice, Device},
    limits::limits,
    runtime::SessionDevice,
};
use crate::error::{Error, Result};

/// Loads the artifact in `dir` on GPU `device`. What the GPU lacks is said before anything is reserved.
pub fn load_on_gpu(
    runtime: &Runtime,
    dir: &Path,
    manifest: &Manifest,
    spec: CudaSpec,
    device: i32,
    options: &ExecutorOptions,
) -> Result<DeviceExecutor> {
    let gpu = cuda::require(runtime.library(), device, options.cuda.enable_cudnn)?;
    let limits = limits(manifest, options)?;
    let weights = fs::metadata(dir.join(WEIGHTS_FILE)).map_or(0, |file| file.len() as usize);
    gpu.require_memory(
        weights.saturating_add(reserved_bytes(manifest, spec, limits)),
        "the model with its caches",
    )?;
    let opened = CudaDevice::open(Path::new(&gpu.cuda_runtime), device)
        .map_err(|error| Error::internal(format!("GPU {device} ({}): {error}", gpu.name)))?;
    let stream = opened.stream();
    let device: Arc<dyn Device> = Arc::new(opened);
    let session = |path: &Path| {
        let on = SessionDevice::Cuda { gpu: &gpu, options: &options.cuda, stream };
        runtime.session(path, on, options.intra_op_threads)
    };
    let parts = DeviceParts { device, session: &session, records: options.cuda.enable_cuda_graph };
    let executor = DeviceExecutor::load(dir, manifest, spec, limits, parts)?;
    log::info!(
        "{}: {} slots of {} tokens on GPU {} ({}), {} MiB of caches reserved",
        dir.display(),
        limits.slots,
        limits.max_target_tokens,
        gpu.device,
        gpu.name,
        reserved_bytes(manifest, spec, limits) >> 20
    );
    Ok(executor)
}

#[cfg(test)]
mod tests;
