//! A device with its own memory, as graphs for one need it: reserve, copy to and fro, run what is bound.
//!
//! [`Device`] is the seam: [`CudaDevice`] is a GPU, and the recording device of the tests runs on the CPU and refuses
//! what a GPU would answer with wrong numbers. A device works in two orders at once, its queues: what was asked for in
//! one is done in that order, and waits for the other only where it says so, by a [`Mark`]. Nobody waits here but
//! [`Device::download`].
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
pub(super) use tensor::{DeviceTensor, Download};

/// What went wrong, in the device's own words.
pub(super) type DeviceResult<T> = std::result::Result<T, String>;

/// Whose work is done in one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// The decoder's.
    Decode,
    /// The encoder's.
    Encode,
}

/// A point in a queue, which the other can wait for. It can be set again and again; one that was never set is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(pub usize);

/// A piece of a device's memory. It is not borrowed: whoever makes one vouches that the memory lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub address: usize,
    pub bytes: usize,
}

/// Parts of a span: `count` of so many bytes, each `pitch` bytes after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pieces {
    pub bytes: usize,
    pub pitch: usize,
    pub count: usize,
}

/// See the module.
///
/// # Safety
/// The memory that [`Device::allocate`] gives is the device's until it is freed, and no other has it meanwhile.
pub(super) unsafe trait Device: Send + Sync {
    /// Bytes of its memory that nobody uses.
    fn free_bytes(&self) -> DeviceResult<usize>;

    /// Reserves zeroed memory: what was never written is read where a graph masks it, and must not be NaN there.
    fn allocate(&self, bytes: usize) -> DeviceResult<NonNull<u8>>;

    /// Gives back what [`Device::allocate`] gave, once everything that was asked for before is done.
    fn free(&self, memory: NonNull<u8>);

    /// Writes `from` to the device. It may be changed when this returns.
    ///
    /// # Safety
    /// `to` lies in live memory of this device and is as long as `from`.
    unsafe fn upload(&self, queue: Queue, from: &[u8], to: Span) -> DeviceResult<()>;

    /// Reads from the device, once all that was asked of `queue` before is done: one wait for all `parts`.
    ///
    /// # Safety
    /// Each span lies in live memory of this device and is as long as what it goes to.
    unsafe fn download(&self, queue: Queue, parts: &mut [(Span, &mut [u8])]) -> DeviceResult<()>;

    /// Copies `pieces` of a span to the same places of another; the spans do not overlap.
    ///
    /// # Safety
    /// Both lie in live memory of this device and are of one length, and the pieces lie within.
    unsafe fn copy(&self, queue: Queue, from: Span, to: Span, pieces: Pieces) -> DeviceResult<()>;

    /// A mark, which lives as long as the device.
    fn new_mark(&self) -> DeviceResult<Mark>;

    /// Sets `mark` behind all that was asked of `queue`.
    fn set_mark(&self, queue: Queue, mark: Mark) -> DeviceResult<()>;

    /// What is asked of `queue` from now on waits until `mark` is reached, as it is set now.
    fn follow(&self, queue: Queue, mark: Mark) -> DeviceResult<()>;

    /// Whether all before `mark` is done.
    fn is_reached(&self, mark: Mark) -> DeviceResult<bool>;

    /// How ONNX Runtime names this memory.
    fn memory(&self) -> ort::Result<MemoryInfo<'static>>;

    /// Calls `go`, which runs what `run` says is bound.
    fn run(&self, run: &mut Run<'_>, go: &mut dyn FnMut() -> DeviceResult<()>) -> DeviceResult<()>;

    /// Calls `work`, which gives back memory that others than this have reserved, when no run is being recorded.
    fn undisturbed(&self, work: &mut dyn FnMut());
}

/// A run that is about to begin.
#[cfg_attr(not(test), expect(dead_code, reason = "for a device that checks what it is given"))]
pub(super) struct Run<'a> {
    /// The graph.
    pub graph: &'a str,
    pub queue: Queue,
    /// Whatever is bound to its inputs and outputs.
    pub bound: &'a mut dyn Iterator<Item = Binding<'a>>,
    pub recording: Recording,
}

/// Whether the kernels of a run are recorded, so that later ones replay them over the same addresses and shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recording {
    /// Neither.
    None,
    /// It records them under this number.
    New(u32),
    /// It replays those of this number.
    Replayed(u32),
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
