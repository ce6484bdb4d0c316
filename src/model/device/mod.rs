//! A device with its own memory, as graphs for one need it: reserve, copy to and fro, run what is bound.
//!
//! [`Device`] is the seam: [`CudaDevice`] is a GPU, and the recording device of the tests runs on the CPU and refuses
//! what a GPU would answer with wrong numbers. Everything that a device is told goes one way in one order, its stream: a
//! copy is done before the run that was asked for after it, and only [`Device::download`] waits.
//!
//! [`DeviceTensor`] is memory with a shape. A session keeps alive what is bound to it, so that none of this needs
//! `unsafe` outside of this room.

mod cuda;
#[cfg(test)]
pub(super) mod recording;
mod session;
mod tensor;

use std::ptr::NonNull;

use ort::memory::MemoryInfo;

pub(super) use cuda::CudaDevice;
pub(super) use session::DeviceSession;
pub(super) use tensor::DeviceTensor;

/// What went wrong, in the device's own words.
pub(super) type DeviceResult<T> = std::result::Result<T, String>;

/// A piece of a device's memory. It is not borrowed: whoever makes one vouches that the memory lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub address: usize,
    pub bytes: usize,
}

/// See the module.
///
/// # Safety
/// The memory that [`Device::allocate`] gives is the device's until it is freed, and no other has it meanwhile.
pub(super) unsafe trait Device: Send + Sync {
    /// Reserves zeroed memory: what was never written is read where a graph masks it, and must not be NaN there.
    fn allocate(&self, bytes: usize) -> DeviceResult<NonNull<u8>>;

    /// Gives back what [`Device::allocate`] gave, once everything that was asked for before is done.
    fn free(&self, memory: NonNull<u8>);

    /// Writes `from` to the device. It may be changed when this returns.
    ///
    /// # Safety
    /// `to` lies in live memory of this device and is as long as `from`.
    unsafe fn upload(&self, from: &[u8], to: Span) -> DeviceResult<()>;

    /// Reads from the device, once all that was asked for before is done.
    ///
    /// # Safety
    /// `from` lies in live memory of this device and is as long as `to`.
    unsafe fn download(&self, from: Span, to: &mut [u8]) -> DeviceResult<()>;

    /// Copies within the device; the spans do not overlap.
    ///
    /// # Safety
    /// Both lie in live memory of this device and are of one length.
    unsafe fn copy(&self, from: Span, to: Span) -> DeviceResult<()>;

    /// How ONNX Runtime names this memory.
    fn memory(&self) -> ort::Result<MemoryInfo<'static>>;

    /// Calls `go`, which runs what `run` says is bound.
    fn run(&self, run: &mut Run<'_>, go: &mut dyn FnMut() -> DeviceResult<()>) -> DeviceResult<()>;
}

/// A run that is about to begin.
#[cfg_attr(not(test), expect(dead_code, reason = "for a device that checks what it is given"))]
pub(super) struct Run<'a> {
    /// The graph.
    pub graph: &'a str,
    /// Whatever is bound to its inputs and outputs.
    pub bound: &'a mut dyn Iterator<Item = Binding<'a>>,
    /// Which recording of its kernels this run is: the first of a number records, the others replay. None: neither.
    pub recording: Option<u32>,
}

/// One tensor that is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding<'a> {
    /// Of the input or output.
    pub name: &'a str,
    pub is_output: bool,
    /// In whose memory it was said to be.
    pub place: Place,
    pub span: Span,
    pub dims: &'a [i64],
}

/// Whose memory a tensor is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The device's.
    Device,
    /// The host's: for the few scalars by which kernels are chosen.
    Host,
}
