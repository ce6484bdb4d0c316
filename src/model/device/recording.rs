//! A device that runs on the CPU provider and refuses what a GPU would answer with wrong numbers or a crash.
//!
//! Its memory is the host's, but nobody can tell: what it is told is put off until a run or a download, as on a stream.
//! The rules:
//!
//! - device memory that is bound lies in one live reservation, whole;
//! - host memory that is bound is not the device's, and a scalar;
//! - what one queue writes, the other neither reads nor writes before it has waited for it ([`clock`]);
//! - within a step ([`RecordingDevice::begin_step`]), nothing is copied on the device and no memory is reserved or freed;
//! - a recorded run finds each tensor at the address and in the shape that it was recorded with;
//! - nothing is asked of it while it runs.
//!
//! What is wrong is an error at the call that is wrong. Freed memory is filled with NaN and never used again.

mod clock;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ptr::NonNull,
    sync::{Mutex, MutexGuard, PoisonError, TryLockError},
};

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

use self::clock::{Access, Clock};
use super::{Device, DeviceResult, Mark, Pieces, Place, Queue, Recording, Run, Span};

/// What was asked of a device since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of each copy to the device, from it, and on it.
    pub uploads: Vec<usize>,
    pub downloads: Vec<usize>,
    pub copies: Vec<usize>,
    /// Times that somebody waited for the device.
    pub waits: usize,
    /// Graphs that ran, and whether they replayed a recording.
    pub runs: Vec<(String, bool)>,
}

/// See the module.
pub struct RecordingDevice {
    /// Bytes of its memory.
    memory: usize,
    state: Mutex<State>,
}

impl Default for RecordingDevice {
    /// With as much memory as anyone wants.
    fn default() -> Self {
        Self::with_memory(usize::MAX)
    }
}

/// What was bound when a run was recorded: name, whether it is an output, where and in which shape.
type Bound = Vec<(String, bool, Span, Vec<i64>)>;

#[derive(Default)]
struct State {
    /// By their addresses. Freed ones are kept until the device is gone.
    reservations: BTreeMap<usize, Reservation>,
    /// What has been put off, the decoder's and the encoder's.
    queues: [VecDeque<Operation>; 2],
    clock: Clock,
    marks: Vec<SetMark>,
    /// By graph and number.
    recordings: HashMap<(String, u32), Bound>,
    traffic: Traffic,
    in_step: bool,
}

struct Reservation {
    /// In words, so that every element type is aligned.
    memory: Box<[u64]>,
    bytes: usize,
    live: bool,
}

/// A mark as it is set now.
#[derive(Default)]
struct SetMark {
    queue: usize,
    /// How often it has been set, and how often reached.
    set: u64,
    reached: u64,
    clock: clock::Time,
    /// Whether somebody has asked for it since it was set.
    asked: bool,
}

enum Operation {
    Write { bytes: Vec<u8>, to: Span },
    Copy { from: Span, to: Span, pieces: Pieces },
    Set { mark: Mark, turn: u64 },
    Follow { mark: Mark, turn: u64 },
}

impl RecordingDevice {
    /// A device that has so much memory.
    pub fn with_memory(bytes: usize) -> Self {
        Self { memory: bytes, state: Mutex::default() }
    }

    /// From here to [`RecordingDevice::end_step`] the rules of a step hold.
    pub fn begin_step(&self) {
        self.state().in_step = true;
    }

    pub fn end_step(&self) {
        self.state().in_step = false;
    }

    /// What was asked since this was called last.
    pub fn traffic(&self) -> Traffic {
        std::mem::take(&mut self.state().traffic)
    }

    /// Bytes that are reserved and not freed.
    pub fn live_bytes(&self) -> usize {
        self.state().live_bytes()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless a run has it.
    fn idle(&self) -> DeviceResult<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(TryLockError::Poisoned(state)) => Ok(state.into_inner()),
            Err(TryLockError::WouldBlock) => Err("the device is asked for something while it runs".into()),
        }
    }
}

impl State {
    fn live_bytes(&self) -> usize {
        self.reservations.values().filter(|held| held.live).map(|held| held.bytes).sum()
    }

    /// The live reservation that holds all of `span`.
    fn check(&self, what: &str, span: Span) -> DeviceResult<()> {
        let held = self.reservations.range(..=span.address).next_back();
        let Some((&start, held)) = held.filter(|(start, held)| span.address < *start + held.bytes) else {
            return Err(format!("{what}: no memory of the device"));
        };
        if !held.live {
            return Err(format!("{what}: memory that was freed"));
        }
        if span.address + span.bytes > start + held.bytes {
            return Err(format!("{what}: {} bytes go beyond what was reserved", span.bytes));
        }
        Ok(())
    }

    fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        let (&start, held) = self.reservations.range_mut(..=span.address).next_back().expect("was checked");
        let offset = span.address - start;
        // SAFETY: any bits are bytes, and the words are borrowed as long.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(held.memory.as_mut_ptr().cast::<u8>(), held.memory.len() * 8)
        };
        &mut bytes[offset..offset + span.bytes]
    }

    /// Does what was put off in `queue`, in the order in which it was asked for.
    fn flush(&mut self, queue: usize) {
        while self.step(queue) {}
    }

    /// Does the next thing of `queue`; false when there is none.
    fn step(&mut self, queue: usize) -> bool {
        let Some(operation) = self.queues[queue].pop_front() else { return false };
        match operation {
            Operation::Write { bytes, to } => self.bytes_mut(to).copy_from_slice(&bytes),
            Operation::Copy { from, to, pieces: Pieces { bytes, pitch, count } } => {
                let source = self.bytes_mut(from).to_vec();
                let target = self.bytes_mut(to);
                for start in (0..count).map(|piece| piece * pitch) {
                    target[start..start + bytes].copy_from_slice(&source[start..start + bytes]);
                }
            }
            Operation::Set { mark, turn } => self.marks[mark.0].reached = turn,
            Operation::Follow { mark, turn } => self.reach(mark, turn),
        }
        true
    }

    /// Does what comes before `mark`, as it was set the `turn`th time.
    fn reach(&mut self, mark: Mark, turn: u64) {
        while self.marks[mark.0].reached < turn && self.step(self.marks[mark.0].queue) {}
    }

    fn check_run(&mut self, run: &mut Run<'_>) -> DeviceResult<bool> {
        let mut seen = Vec::new();
        for binding in &mut *run.bound {
            let what = format!("{}: {}", run.graph, binding.name);
            match binding.place {
                Place::Device => self.check(&what, binding.span)?,
                Place::Host if !binding.dims.is_empty() => {
                    return Err(format!("{what}: a tensor of shape {:?} in host memory", binding.dims));
                }
                Place::Host if self.check(&what, binding.span).is_ok() => {
                    return Err(format!("{what}: device memory bound as the host's"));
                }
                Place::Host => {}
            }
            seen.push((binding.name.to_owned(), binding.is_output, binding.span, binding.dims.to_vec()));
        }
        let mut accesses = seen.iter().map(|&(_, is_output, span, _)| Access { span, is_write: is_output });
        self.clock.tick(run.graph, run.queue as usize, &mut accesses)?;
        let (number, is_new) = match run.recording {
            Recording::None => return Ok(false),
            Recording::New(number) => (number, true),
            Recording::Replayed(number) => (number, false),
        };
        match self.recordings.get(&(run.graph.to_owned(), number)) {
            None if is_new => {
                self.recordings.insert((run.graph.to_owned(), number), seen);
                Ok(false)
            }
            None => Err(format!("{}: recording {number} is replayed and was never made", run.graph)),
            Some(_) if is_new => Err(format!("{}: recording {number} is made twice", run.graph)),
            Some(recorded) if *recorded == seen => Ok(true),
            Some(recorded) => {
                let moved = seen.iter().find(|bound| !recorded.contains(bound)).or(seen.first());
                Err(format!(
                    "{}: recording {number} is replayed over other memory: {:?}",
                    run.graph,
                    moved.map(|(name, ..)| name)
                ))
            }
        }
    }

    /// The mark, if it is one of this device.
    fn mark(&mut self, mark: Mark) -> DeviceResult<&mut SetMark> {
        self.marks.get_mut(mark.0).ok_or_else(|| "a mark of another device".into())
    }
}

// SAFETY: each reservation is a box of its own, kept until the device is gone.
unsafe impl Device for RecordingDevice {
    fn free_bytes(&self) -> DeviceResult<usize> {
        Ok(self.memory - self.idle()?.live_bytes())
    }

    fn allocate(&self, bytes: usize) -> DeviceResult<NonNull<u8>> {
        let mut state = self.idle()?;
        if state.in_step {
            return Err(format!("{bytes} bytes are reserved within a step"));
        }
        if bytes > self.memory - state.live_bytes() {
            return Err("out of memory".into());
        }
        let mut memory = vec![0_u64; bytes.div_ceil(8)].into_boxed_slice();
        let start = NonNull::from(&mut *memory).cast::<u8>();
        state.reservations.insert(start.as_ptr() as usize, Reservation { memory, bytes, live: true });
        Ok(start)
    }

    fn free(&self, memory: NonNull<u8>) {
        let mut state = self.state();
        assert!(!state.in_step, "memory is freed within a step");
        (0..2).for_each(|queue| state.flush(queue));
        let held = state.reservations.get_mut(&(memory.as_ptr() as usize)).expect("memory of this device");
        assert!(std::mem::replace(&mut held.live, false), "memory is freed twice");
        // NaN in every float type.
        held.memory.fill(u64::MAX);
    }

    unsafe fn upload(&self, queue: Queue, from: &[u8], to: Span) -> DeviceResult<()> {
        let mut state = self.idle()?;
        state.check("upload", to)?;
        state.clock.tick("upload", queue as usize, &mut [Access { span: to, is_write: true }].into_iter())?;
        state.traffic.uploads.push(to.bytes);
        state.queues[queue as usize].push_back(Operation::Write { bytes: from.to_vec(), to });
        Ok(())
    }

    unsafe fn download(&self, queue: Queue, parts: &mut [(Span, &mut [u8])]) -> DeviceResult<()> {
        let mut state = self.idle()?;
        for (from, _) in &*parts {
            state.check("download", *from)?;
        }
        let mut accesses = parts.iter().map(|&(span, _)| Access { span, is_write: false });
        state.clock.tick("download", queue as usize, &mut accesses)?;
        state.clock.host_waits(queue as usize);
        state.flush(queue as usize);
        state.traffic.waits += 1;
        for (from, to) in parts {
            state.traffic.downloads.push(from.bytes);
            to.copy_from_slice(state.bytes_mut(*from));
        }
        Ok(())
    }

    unsafe fn copy(&self, queue: Queue, from: Span, to: Span, pieces: Pieces) -> DeviceResult<()> {
        let mut state = self.idle()?;
        if state.in_step {
            return Err(format!("{pieces:?} are copied on the device within a step"));
        }
        state.check("copy", from)?;
        state.check("copy", to)?;
        let accesses = [Access { span: from, is_write: false }, Access { span: to, is_write: true }];
        state.clock.tick("copy", queue as usize, &mut accesses.into_iter())?;
        if (pieces.count - 1) * pieces.pitch + pieces.bytes > from.bytes {
            return Err(format!("copy: {pieces:?} go beyond {} bytes", from.bytes));
        }
        state.traffic.copies.push(pieces.count * pieces.bytes);
        state.queues[queue as usize].push_back(Operation::Copy { from, to, pieces });
        Ok(())
    }

    fn new_mark(&self) -> DeviceResult<Mark> {
        let mut state = self.idle()?;
        state.marks.push(SetMark::default());
        Ok(Mark(state.marks.len() - 1))
    }

    fn set_mark(&self, queue: Queue, mark: Mark) -> DeviceResult<()> {
        let mut state = self.idle()?;
        let queue = queue as usize;
        let clock = state.clock.of(queue);
        let held = state.mark(mark)?;
        *held = SetMark { queue, set: held.set + 1, reached: held.reached, clock, asked: false };
        let turn = held.set;
        state.queues[queue].push_back(Operation::Set { mark, turn });
        Ok(())
    }

    fn follow(&self, queue: Queue, mark: Mark) -> DeviceResult<()> {
        let mut state = self.idle()?;
        let (turn, clock) = state.mark(mark).map(|held| (held.set, held.clock))?;
        state.clock.follow(queue as usize, clock);
        state.queues[queue as usize].push_back(Operation::Follow { mark, turn });
        Ok(())
    }

    /// Whoever asks for the first time comes too early.
    fn is_reached(&self, mark: Mark) -> DeviceResult<bool> {
        let mut state = self.idle()?;
        let held = state.mark(mark)?;
        let (turn, clock, asked) = (held.set, held.clock, std::mem::replace(&mut held.asked, true));
        if asked {
            state.clock.host_knows(clock);
            state.reach(mark, turn);
        }
        Ok(asked || turn == 0)
    }

    fn memory(&self) -> ort::Result<MemoryInfo<'static>> {
        MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
    }

    fn run(&self, run: &mut Run<'_>, go: &mut dyn FnMut() -> DeviceResult<()>) -> DeviceResult<()> {
        let mut state = self.idle()?;
        let replays = state.check_run(run)?;
        state.flush(run.queue as usize);
        state.traffic.runs.push((run.graph.to_owned(), replays));
        // The state stays locked: see `idle`.
        go()
    }

    fn undisturbed(&self, work: &mut dyn FnMut()) {
        work();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::Binding, *};

    const QUEUE: Queue = Queue::Decode;
    const WHOLE: Pieces = Pieces { bytes: 32, pitch: 32, count: 1 };

    const DIMS: [i64; 2] = [2, 4];

    struct Bench {
        device: Arc<RecordingDevice>,
        memory: NonNull<u8>,
    }

    impl Bench {
        fn new() -> Self {
            let device = Arc::new(RecordingDevice::default());
            let memory = device.allocate(32).unwrap();
            Self { device, memory }
        }

        fn span(&self) -> Span {
            Span { address: self.memory.as_ptr() as usize, bytes: 32 }
        }

        fn cache(&self) -> Binding<'static> {
            Binding { name: "cache", is_output: false, place: Place::Device, span: self.span(), dims: &DIMS }
        }

        fn run(&self, bound: &[Binding<'_>], recording: Recording) -> DeviceResult<()> {
            let mut bound = bound.iter().cloned();
            let mut run = Run { graph: "decoder", queue: QUEUE, bound: &mut bound, recording };
            self.device.run(&mut run, &mut || Ok(()))
        }
    }

    fn refused<T>(result: DeviceResult<T>, part: &str) {
        let error = result.err().expect(part);
        assert!(error.contains(part), "{part} is not in: {error}");
    }

    #[test]
    fn what_is_right_runs() {
        let bench = Bench::new();
        let scalar = 5_i32;
        let span = Span { address: &raw const scalar as usize, bytes: 4 };
        let total = Binding { name: "total", is_output: false, place: Place::Host, span, dims: &[] };
        bench.device.begin_step();
        bench.run(&[bench.cache(), total.clone()], Recording::New(1)).unwrap();
        bench.run(&[bench.cache(), total], Recording::Replayed(1)).unwrap();
        bench.device.end_step();
        let runs = bench.device.traffic().runs;
        assert_eq!(runs, [("decoder".into(), false), ("decoder".into(), true)]);
        assert_eq!(bench.device.live_bytes(), 32);
    }

    #[test]
    fn a_host_pointer_is_no_device_memory_nor_the_other_way_round() {
        let bench = Bench::new();
        let host = [0_u64; 4];
        let span = Span { address: host.as_ptr() as usize, bytes: 32 };
        refused(bench.run(&[Binding { span, ..bench.cache() }], Recording::None), "no memory of the device");
        let place = Place::Host;
        refused(
            bench.run(&[Binding { place, dims: &[], ..bench.cache() }], Recording::None),
            "bound as the host's",
        );
        refused(bench.run(&[Binding { place, span, ..bench.cache() }], Recording::None), "in host memory");
    }

    #[test]
    fn freed_memory_and_what_lies_beyond_it_are_not_used() {
        let bench = Bench::new();
        let beyond = Span { bytes: 33, ..bench.span() };
        refused(bench.run(&[Binding { span: beyond, ..bench.cache() }], Recording::None), "go beyond");
        let other = bench.device.allocate(32).unwrap();
        let other = Span { address: other.as_ptr() as usize, bytes: 32 };
        bench.device.free(bench.memory);
        refused(bench.run(&[bench.cache()], Recording::None), "was freed");
        // SAFETY: the device looks at the spans before it touches them.
        unsafe {
            refused(bench.device.upload(QUEUE, &[0; 32], bench.span()), "was freed");
            refused(bench.device.download(QUEUE, &mut [(bench.span(), &mut [0; 32])]), "was freed");
            refused(bench.device.copy(QUEUE, bench.span(), other, WHOLE), "was freed");
            refused(bench.device.copy(QUEUE, other, bench.span(), WHOLE), "was freed");
        }
    }

    #[test]
    fn a_step_copies_and_reserves_nothing() {
        let bench = Bench::new();
        let other = bench.device.allocate(32).unwrap();
        let other = Span { address: other.as_ptr() as usize, bytes: 32 };
        bench.device.begin_step();
        // SAFETY: both spans are live.
        unsafe {
            refused(bench.device.copy(QUEUE, other, bench.span(), WHOLE), "within a step");
            bench.device.upload(QUEUE, &[0; 32], other).unwrap();
        }
        refused(bench.device.allocate(8), "within a step");
    }

    #[test]
    fn a_recording_is_replayed_over_the_same_memory_only() {
        let bench = Bench::new();
        bench.run(&[bench.cache()], Recording::New(7)).unwrap();
        let other = bench.device.allocate(32).unwrap();
        let moved = Span { address: other.as_ptr() as usize, bytes: 32 };
        refused(
            bench.run(&[Binding { span: moved, ..bench.cache() }], Recording::Replayed(7)),
            "recording 7",
        );
        refused(
            bench.run(&[Binding { dims: &[4, 2], ..bench.cache() }], Recording::Replayed(7)),
            "recording 7",
        );
        refused(bench.run(&[], Recording::Replayed(7)), "recording 7");
        bench.run(&[Binding { span: moved, ..bench.cache() }], Recording::New(8)).unwrap();
        bench.run(&[bench.cache()], Recording::None).unwrap();
    }

    #[test]
    fn what_was_asked_is_done_late_and_in_order() {
        let bench = Bench::new();
        let other = bench.device.allocate(32).unwrap();
        let other = Span { address: other.as_ptr() as usize, bytes: 32 };
        // SAFETY: the spans are live, and so is the memory that is looked at behind the device's back.
        unsafe {
            bench.device.upload(QUEUE, &[1; 32], bench.span()).unwrap();
            bench.device.copy(QUEUE, bench.span(), other, WHOLE).unwrap();
            bench.device.upload(QUEUE, &[2; 32], bench.span()).unwrap();
            assert_eq!(*bench.memory.as_ptr(), 0, "a copy was done before anyone waited");
            let mut got = [0; 32];
            bench.device.download(QUEUE, &mut [(other, &mut got)]).unwrap();
            assert_eq!(got, [1; 32]);
            bench.device.download(QUEUE, &mut [(bench.span(), &mut got)]).unwrap();
            assert_eq!(got, [2; 32]);
        }
        let traffic = bench.device.traffic();
        assert_eq!(
            (traffic.uploads, traffic.downloads, traffic.copies),
            (vec![32; 2], vec![32; 2], vec![32])
        );
    }

    #[test]
    fn nothing_is_asked_of_it_while_it_runs() {
        let bench = Bench::new();
        let (mut bound, span) = (std::iter::empty(), bench.span());
        let mut run = Run { graph: "decoder", queue: QUEUE, bound: &mut bound, recording: Recording::None };
        let device = bench.device.clone();
        // SAFETY: the span is live.
        refused(
            bench.device.run(&mut run, &mut || unsafe { device.upload(QUEUE, &[0; 32], span) }),
            "while it runs",
        );
    }
}
