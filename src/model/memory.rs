//! Memory of the caches. On this device, the CPU, it is anonymous pages, which cost nothing until a slot is
//! used; whatever moves cache contents goes through here, so that another device can take its place.

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// When dropped, gives back to the system what the process has freed. The last field of what holds much.
///
/// The allocator keeps a heap for each thread that has reserved something. A model is loaded on a thread of its own, and
/// what ONNX Runtime frees on that heap would stay with the process when the model has gone.
pub struct TrimOnDrop;

impl Drop for TrimOnDrop {
    fn drop(&mut self) {
        // SAFETY: takes the allocator's own locks, and touches only what is free.
        unsafe { libc::malloc_trim(0) };
    }
}

/// One zeroed f32 buffer that graphs read and write in place.
pub struct DeviceBuffer {
    pages: MmapMut,
    /// Shape that the graphs see.
    dims: Vec<i64>,
}

impl DeviceBuffer {
    /// Zeroed memory of this shape.
    pub fn zeroed(name: &str, dims: &[usize]) -> Result<Self> {
        let bytes = dims
            .iter()
            .try_fold(size_of::<f32>(), |bytes, &dim| bytes.checked_mul(dim))
            .filter(|&bytes| bytes > 0 && isize::try_from(bytes).is_ok())
            .ok_or_else(|| {
                Error::invalid_argument(format!("{name}: a cache of shape {dims:?} has no valid size"))
            })?;
        let pages = MmapMut::map_anon(bytes).map_err(|error| {
            Error::invalid_argument(format!(
                "{name}: {bytes} bytes of cache of shape {dims:?} cannot be reserved: {error}; \
                 lower max_sequences, max_context_tokens, max_source_tokens or max_target_tokens"
            ))
        })?;
        Ok(Self { pages, dims: dims.iter().map(|&dim| dim as i64).collect() })
    }

    /// Makes the first `positions` of each head of slot `to` those of slot `from`, in a cache of shape
    /// `[slots, heads, positions, head_dim]`; whole key blocks only.
    pub fn copy_prefix(&mut self, from: usize, to: usize, positions: usize) -> Result<()> {
        let &[slots, heads, limit, head_dim] = &self.dims[..] else {
            return Err(Error::internal(format!("a cache of shape {:?} has no positions", self.dims)));
        };
        let (slots, heads, limit, head_dim) =
            (slots as usize, heads as usize, limit as usize, head_dim as usize);
        if from >= slots || to >= slots || positions > limit {
            return Err(Error::internal(format!(
                "{positions} positions from slot {from} to {to} of a cache of shape {:?}",
                self.dims
            )));
        }
        let head_bytes = limit * head_dim * size_of::<f32>();
        let used = positions * head_dim * size_of::<f32>();
        for head in 0..heads {
            let start = |slot: usize| (slot * heads + head) * head_bytes;
            self.pages.copy_within(start(from)..start(from) + used, start(to));
        }
        Ok(())
    }

    /// First byte; page-aligned, and the same for the buffer's whole life.
    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.pages.as_mut_ptr().cast()
    }

    /// Shape as the graphs see it.
    pub fn dims(&self) -> &[i64] {
        &self.dims
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.pages.len()
    }
}
