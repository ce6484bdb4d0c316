//! A GPU as a device: its memory, streams and events, by the CUDA runtime that ONNX Runtime uses as well.
//!
//! While ONNX Runtime records a run, the CUDA runtime refuses to reserve or free memory to every thread of the process,
//! and to ask after events; what is recorded is lost too. So a run that is recorded is alone.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::Path,
    ptr::{self, NonNull},
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

use super::{Device, DeviceResult, Mark, Pieces, Queue, Recording, Run, Span};
use crate::model::cuda::Library;

/// A result of the CUDA runtime; 0 is success.
type Status = c_int;
type Stream = *mut c_void;
type Event = *mut c_void;

/// Held for reading by whoever calls the CUDA runtime, and for writing while a run is recorded.
static RECORDING: RwLock<()> = RwLock::new(());

const HOST_TO_DEVICE: c_int = 1;
const DEVICE_TO_HOST: c_int = 2;
const DEVICE_TO_DEVICE: c_int = 3;
/// The stream does not wait for the default one, on which others of this process may work.
const NON_BLOCKING: c_uint = 1;
/// The event keeps no time, which makes it cheap.
const DISABLE_TIMING: c_uint = 2;
/// An event that is not reached.
const NOT_READY: Status = 600;

/// The functions that are needed; signatures and numbers are those of the runtime's interface.
struct Functions {
    set_device: unsafe extern "C" fn(c_int) -> Status,
    malloc: unsafe extern "C" fn(*mut *mut c_void, usize) -> Status,
    free: unsafe extern "C" fn(*mut c_void) -> Status,
    memcpy: unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int, Stream) -> Status,
    memcpy_2d:
        unsafe extern "C" fn(*mut c_void, usize, *const c_void, usize, usize, usize, c_int, Stream) -> Status,
    memset: unsafe extern "C" fn(*mut c_void, c_int, usize, Stream) -> Status,
    stream_create: unsafe extern "C" fn(*mut Stream, c_uint) -> Status,
    stream_synchronize: unsafe extern "C" fn(Stream) -> Status,
    stream_destroy: unsafe extern "C" fn(Stream) -> Status,
    stream_wait: unsafe extern "C" fn(Stream, Event, c_uint) -> Status,
    event_create: unsafe extern "C" fn(*mut Event, c_uint) -> Status,
    event_record: unsafe extern "C" fn(Event, Stream) -> Status,
    event_query: unsafe extern "C" fn(Event) -> Status,
    event_destroy: unsafe extern "C" fn(Event) -> Status,
    memory_info: unsafe extern "C" fn(*mut usize, *mut usize) -> Status,
    error_text: unsafe extern "C" fn(Status) -> *const c_char,
    last_error: unsafe extern "C" fn() -> Status,
}

/// Takes the address of an exported function for one of the type that is asked for.
macro_rules! function {
    ($library:expr, $name:literal) => {{
        let address = $library.symbol($name)?;
        // SAFETY: the runtime's interface declares this function as the field does into which it goes.
        unsafe { std::mem::transmute::<*mut c_void, _>(address.as_ptr()) }
    }};
}

impl Functions {
    #[expect(
        clippy::missing_transmute_annotations,
        reason = "the type is that of the field into which it goes"
    )]
    fn of(library: &Library) -> DeviceResult<Self> {
        Ok(Self {
            set_device: function!(library, c"cudaSetDevice"),
            malloc: function!(library, c"cudaMalloc"),
            free: function!(library, c"cudaFree"),
            memcpy: function!(library, c"cudaMemcpyAsync"),
            memcpy_2d: function!(library, c"cudaMemcpy2DAsync"),
            memset: function!(library, c"cudaMemsetAsync"),
            stream_create: function!(library, c"cudaStreamCreateWithFlags"),
            stream_synchronize: function!(library, c"cudaStreamSynchronize"),
            stream_destroy: function!(library, c"cudaStreamDestroy"),
            stream_wait: function!(library, c"cudaStreamWaitEvent"),
            event_create: function!(library, c"cudaEventCreateWithFlags"),
            event_record: function!(library, c"cudaEventRecord"),
            event_query: function!(library, c"cudaEventQuery"),
            event_destroy: function!(library, c"cudaEventDestroy"),
            memory_info: function!(library, c"cudaMemGetInfo"),
            error_text: function!(library, c"cudaGetErrorString"),
            last_error: function!(library, c"cudaGetLastError"),
        })
    }

    /// The runtime keeps the last status that was not 0, for each thread. ONNX Runtime asks for it after each kernel, and
    /// would take it for the kernel's.
    fn forget_error(&self) {
        // SAFETY: takes nothing and gives a number.
        unsafe { (self.last_error)() };
    }

    fn check(&self, what: &str, status: Status) -> DeviceResult<()> {
        if status == 0 {
            return Ok(());
        }
        self.forget_error();
        // SAFETY: gives null or a NUL-terminated text that lives as long as the runtime.
        let text = unsafe {
            let text = (self.error_text)(status);
            if text.is_null() { c"unknown error" } else { CStr::from_ptr(text) }
        };
        Err(format!("{what} failed with {status}: {}", text.to_string_lossy()))
    }
}

/// See the module. It outlives every session that was made with its streams.
pub(in crate::model) struct CudaDevice {
    functions: Functions,
    device: c_int,
    /// Addresses of the queues' streams, which may be one.
    decode: usize,
    encode: usize,
    /// Addresses of the events, by their marks' numbers.
    events: Mutex<Vec<usize>>,
}

impl CudaDevice {
    /// Opens GPU `device` by the CUDA runtime in `library`, which stays open. With `share_stream` both queues are one
    /// stream.
    pub fn open(library: &Path, device: i32, share_stream: bool) -> DeviceResult<Self> {
        let functions = Functions::of(&Library::open(library)?)?;
        let mut opened = Self { functions, device, decode: 0, encode: 0, events: Mutex::default() };
        opened.decode = opened.new_stream()?;
        opened.encode = if share_stream { opened.decode } else { opened.new_stream()? };
        Ok(opened)
    }

    fn new_stream(&self) -> DeviceResult<usize> {
        let _turn = self.enter()?;
        let mut stream: Stream = ptr::null_mut();
        // SAFETY: memory that lives through the call.
        let made = unsafe { (self.functions.stream_create)(&mut stream, NON_BLOCKING) };
        self.functions.check("cudaStreamCreateWithFlags", made)?;
        Ok(stream as usize)
    }

    /// Address of a queue's stream, for the sessions on it.
    pub fn stream(&self, queue: Queue) -> usize {
        match queue {
            Queue::Decode => self.decode,
            Queue::Encode => self.encode,
        }
    }

    fn raw_stream(&self, queue: Queue) -> Stream {
        self.stream(queue) as Stream
    }

    /// Waits while a run is recorded, then chooses the GPU: the runtime keeps one for each thread, and the engine's
    /// is not the one that loaded the model.
    fn enter(&self) -> DeviceResult<RwLockReadGuard<'static, ()>> {
        let turn = RECORDING.read().unwrap_or_else(PoisonError::into_inner);
        self.select()?;
        Ok(turn)
    }

    fn select(&self) -> DeviceResult<()> {
        // SAFETY: a plain number.
        self.functions.check("cudaSetDevice", unsafe { (self.functions.set_device)(self.device) })
    }

    fn wait(&self, queue: Queue) -> DeviceResult<()> {
        // SAFETY: the stream lives as long as `self`.
        let status = unsafe { (self.functions.stream_synchronize)(self.raw_stream(queue)) };
        self.functions.check("cudaStreamSynchronize", status)
    }

    fn transfer(
        &self,
        queue: Queue,
        to: *mut c_void,
        from: *const c_void,
        bytes: usize,
        kind: c_int,
    ) -> DeviceResult<()> {
        // SAFETY: the caller vouches for both sides. Of pageable host memory the runtime takes what is copied to the
        // device before it returns; what is copied from it is waited for in `download`.
        let status = unsafe { (self.functions.memcpy)(to, from, bytes, kind, self.raw_stream(queue)) };
        self.functions.check("cudaMemcpyAsync", status)
    }

    fn events(&self) -> MutexGuard<'_, Vec<usize>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, mark: Mark) -> DeviceResult<Event> {
        let event = self.events().get(mark.0).copied();
        Ok(event.ok_or("a mark of another device")? as Event)
    }

    fn release(&self, memory: NonNull<u8>) {
        // SAFETY: from `allocate`, and not used after this. cudaFree itself waits for what uses the memory.
        let freed = unsafe { (self.functions.free)(memory.as_ptr().cast()) };
        self.report("cudaFree", freed);
    }

    /// For what nobody can do anything about.
    fn report(&self, what: &str, status: Status) {
        if let Err(error) = self.functions.check(what, status) {
            log::error!("GPU {}: {error}", self.device);
        }
    }
}

// SAFETY: cudaMalloc gives memory that nobody else has until cudaFree.
unsafe impl Device for CudaDevice {
    fn free_bytes(&self) -> DeviceResult<usize> {
        let _turn = self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: memory that lives through the call.
        let asked = unsafe { (self.functions.memory_info)(&mut free, &mut total) };
        self.functions.check("cudaMemGetInfo", asked)?;
        Ok(free)
    }

    fn allocate(&self, bytes: usize) -> DeviceResult<NonNull<u8>> {
        let _turn = self.enter()?;
        let mut memory = ptr::null_mut();
        // SAFETY: memory that lives through the call.
        self.functions.check("cudaMalloc", unsafe { (self.functions.malloc)(&mut memory, bytes) })?;
        let memory = NonNull::new(memory.cast::<u8>()).ok_or("cudaMalloc gave no memory")?;
        let start = memory.as_ptr().cast();
        // SAFETY: just reserved, so many bytes.
        let zeroed = unsafe { (self.functions.memset)(start, 0, bytes, self.raw_stream(Queue::Decode)) };
        // Either queue may use it from here on.
        let zeroed = self.functions.check("cudaMemsetAsync", zeroed).and_then(|()| self.wait(Queue::Decode));
        zeroed.inspect_err(|_| self.release(memory))?;
        Ok(memory)
    }

    fn free(&self, memory: NonNull<u8>) {
        match self.enter() {
            Ok(_turn) => self.release(memory),
            Err(error) => log::error!("GPU {}: memory cannot be given back: {error}", self.device),
        }
    }

    unsafe fn upload(&self, queue: Queue, from: &[u8], to: Span) -> DeviceResult<()> {
        let _turn = self.enter()?;
        self.transfer(queue, to.address as *mut c_void, from.as_ptr().cast(), to.bytes, HOST_TO_DEVICE)
    }

    unsafe fn download(&self, queue: Queue, parts: &mut [(Span, &mut [u8])]) -> DeviceResult<()> {
        let _turn = self.enter()?;
        for (from, to) in parts {
            let source = from.address as *const c_void;
            self.transfer(queue, to.as_mut_ptr().cast(), source, from.bytes, DEVICE_TO_HOST)?;
        }
        self.wait(queue)
    }

    unsafe fn copy(&self, queue: Queue, from: Span, to: Span, pieces: Pieces) -> DeviceResult<()> {
        let _turn = self.enter()?;
        let (source, target) = (from.address as *const c_void, to.address as *mut c_void);
        let Pieces { bytes, pitch, count } = pieces;
        if count == 1 {
            return self.transfer(queue, target, source, bytes, DEVICE_TO_DEVICE);
        }
        let stream = self.raw_stream(queue);
        // SAFETY: the caller vouches for both spans, and for the pieces.
        let status = unsafe {
            (self.functions.memcpy_2d)(target, pitch, source, pitch, bytes, count, DEVICE_TO_DEVICE, stream)
        };
        self.functions.check("cudaMemcpy2DAsync", status)
    }

    fn new_mark(&self) -> DeviceResult<Mark> {
        let _turn = self.enter()?;
        let mut event: Event = ptr::null_mut();
        // SAFETY: memory that lives through the call.
        let made = unsafe { (self.functions.event_create)(&mut event, DISABLE_TIMING) };
        self.functions.check("cudaEventCreateWithFlags", made)?;
        let mut events = self.events();
        events.push(event as usize);
        Ok(Mark(events.len() - 1))
    }

    fn set_mark(&self, queue: Queue, mark: Mark) -> DeviceResult<()> {
        let _turn = self.enter()?;
        // SAFETY: event and stream live as long as `self`.
        let set = unsafe { (self.functions.event_record)(self.event(mark)?, self.raw_stream(queue)) };
        self.functions.check("cudaEventRecord", set)
    }

    fn follow(&self, queue: Queue, mark: Mark) -> DeviceResult<()> {
        let _turn = self.enter()?;
        // SAFETY: event and stream live as long as `self`.
        let followed = unsafe { (self.functions.stream_wait)(self.raw_stream(queue), self.event(mark)?, 0) };
        self.functions.check("cudaStreamWaitEvent", followed)
    }

    fn is_reached(&self, mark: Mark) -> DeviceResult<bool> {
        let _turn = self.enter()?;
        // SAFETY: the event lives as long as `self`.
        match unsafe { (self.functions.event_query)(self.event(mark)?) } {
            NOT_READY => {
                self.functions.forget_error();
                Ok(false)
            }
            status => self.functions.check("cudaEventQuery", status).map(|()| true),
        }
    }

    fn memory(&self) -> ort::Result<MemoryInfo<'static>> {
        MemoryInfo::new(AllocationDevice::CUDA, self.device, AllocatorType::Device, MemoryType::Default)
    }

    fn run(&self, run: &mut Run<'_>, go: &mut dyn FnMut() -> DeviceResult<()>) -> DeviceResult<()> {
        if let Recording::New(_) = run.recording {
            let _alone = RECORDING.write().unwrap_or_else(PoisonError::into_inner);
            self.select()?;
            return go();
        }
        let _turn = self.enter()?;
        go()
    }

    fn undisturbed(&self, work: &mut dyn FnMut()) {
        let _turn = RECORDING.read().unwrap_or_else(PoisonError::into_inner);
        // What is given back may still be in use.
        let idle =
            self.select().and_then(|()| self.wait(Queue::Decode)).and_then(|()| self.wait(Queue::Encode));
        if let Err(error) = idle {
            log::error!("GPU {}: {error}", self.device);
        }
        work();
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        let _turn = RECORDING.read().unwrap_or_else(PoisonError::into_inner);
        let events = std::mem::take(&mut *self.events());
        for event in events {
            // SAFETY: made in `new_mark`, and nobody has the device any more.
            self.report("cudaEventDestroy", unsafe { (self.functions.event_destroy)(event as Event) });
        }
        let mut streams = vec![self.decode, self.encode];
        streams.dedup();
        for stream in streams.into_iter().filter(|&stream| stream != 0) {
            // SAFETY: made in `open`; tensors and sessions hold the device, so that nothing uses the stream any more.
            self.report("cudaStreamDestroy", unsafe { (self.functions.stream_destroy)(stream as Stream) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, process::Command, sync::Arc};

    use super::*;
    use crate::model::{
        binding::ElementType,
        device::{DeviceTensor, Download},
    };

    /// A runtime whose device is the host's memory, and whose streams only work when they are waited for. Memory beyond
    /// one mebibyte it does not have.
    const RUNTIME: &str = r#"
        #include <stdlib.h>
        #include <string.h>
        struct event { int set, reached; struct stream* by; };
        struct op { void* to; void* from; size_t bytes; int staged; struct event* sets; struct event* waits; int turn; };
        struct stream { struct op ops[64]; int queued, done, live; } streams[4];
        static struct event events[8];
        static int device = -1, opened = 0, marks = 0, last = 0;
        static int said(int status) { if (status) last = status; return status; }
        int cudaGetLastError() { int status = last; last = 0; return status; }
        int lastError() { return last; }
        static int known(struct stream* s) { return s >= streams && s < streams + 4 && s->live; }
        static void step(struct stream* s) {
          struct op* op = &s->ops[s->done++];
          if (op->waits) while (op->waits->reached < op->turn) step(op->waits->by);
          if (op->sets) op->sets->reached = op->turn;
          if (op->to) memcpy(op->to, op->from, op->bytes);
          if (op->staged) free(op->from);
        }
        int cudaSetDevice(int wanted) { device = wanted; return said(wanted == 2 ? 0 : 101); }
        int cudaMemGetInfo(size_t* free, size_t* total) { *free = 1 << 20; *total = 1 << 21; return device == 2 ? 0 : 101; }
        int cudaMalloc(void** memory, size_t bytes) {
          if (bytes > 1 << 20) return said(2);
          *memory = malloc(bytes); memset(*memory, 0xff, bytes); return device == 2 ? 0 : 101;
        }
        int cudaStreamSynchronize(struct stream* s) {
          if (!known(s)) return 400;
          while (s->done < s->queued) step(s);
          return 0;
        }
        int cudaFree(void* memory) {
          for (int i = 0; i < 4; ++i) if (streams[i].live) cudaStreamSynchronize(&streams[i]);
          free(memory); return 0;
        }
        int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, struct stream* s) {
          if (!known(s) || kind < 1 || kind > 3) return 400;
          struct op op = { to, (void*)from, bytes, kind == 1 };
          if (kind == 1) { op.from = malloc(bytes); memcpy(op.from, from, bytes); }
          s->ops[s->queued++] = op;
          return 0;
        }
        int cudaMemcpy2DAsync(char* to, size_t to_pitch, const char* from, size_t from_pitch, size_t width, size_t height,
                              int kind, struct stream* s) {
          int status = 0;
          for (size_t i = 0; i < height; ++i)
            status |= cudaMemcpyAsync(to + i * to_pitch, from + i * from_pitch, width, kind, s);
          return status;
        }
        int cudaMemsetAsync(void* memory, int value, size_t bytes, struct stream* s) {
          memset(memory, value, bytes); return known(s) ? 0 : 400;
        }
        int cudaStreamCreateWithFlags(struct stream** s, unsigned flags) {
          *s = &streams[opened++]; (*s)->live = 1; return flags == 1 ? 0 : 400;
        }
        int cudaStreamDestroy(struct stream* s) { if (!known(s)) return 400; s->live = 0; return 0; }
        int cudaEventCreateWithFlags(struct event** e, unsigned flags) { *e = &events[marks++]; return flags == 2 ? 0 : 400; }
        int cudaEventDestroy(struct event* e) { return 0; }
        int cudaEventRecord(struct event* e, struct stream* s) {
          struct op op = { .sets = e, .turn = ++e->set };
          e->by = s; s->ops[s->queued++] = op; return known(s) ? 0 : 400;
        }
        int cudaEventQuery(struct event* e) { return said(e->reached >= e->set ? 0 : 600); }
        int cudaStreamWaitEvent(struct stream* s, struct event* e, unsigned flags) {
          struct op op = { .waits = e, .turn = e->set };
          s->ops[s->queued++] = op; return known(s) && flags == 0 ? 0 : 400;
        }
        const char* cudaGetErrorString(int status) { return status == 2 ? "out of memory" : "invalid"; }
    "#;

    fn runtime(folder: &Path) -> PathBuf {
        let (source, library) = (folder.join("runtime.c"), folder.join("runtime.so"));
        fs::write(&source, RUNTIME).unwrap();
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(built.unwrap().success());
        library
    }

    fn tensor(device: &Arc<dyn Device>, dims: &[usize]) -> crate::error::Result<DeviceTensor> {
        DeviceTensor::zeroed(device, "cache", ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, dims)
    }

    /// What the runtime would tell the next who asks.
    fn last_error(library: &Path) -> Status {
        let library = Library::open(library).unwrap();
        let address = library.symbol(c"lastError").unwrap();
        // SAFETY: the runtime above declares it so.
        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> Status>(address.as_ptr())() }
    }

    fn read<const N: usize>(queue: Queue, from: &DeviceTensor) -> [i32; N] {
        let mut got = [-1; N];
        Download::all(queue, [from.to_host(&mut got).unwrap()]).unwrap();
        got
    }

    #[test]
    fn what_is_copied_arrives_in_the_order_of_the_stream() {
        let folder = tempfile::tempdir().unwrap();
        let library = runtime(folder.path());
        let error = CudaDevice::open(&library, 0, false).err().unwrap();
        assert!(error.contains("cudaSetDevice failed with 101: invalid"), "{error}");
        let device: Arc<dyn Device> = Arc::new(CudaDevice::open(&library, 2, false).unwrap());
        assert_eq!(device.free_bytes(), Ok(1 << 20));
        let (first, second) = (tensor(&device, &[3, 2]).unwrap(), tensor(&device, &[3, 2]).unwrap());
        let queue = Queue::Encode;
        let mut numbers = [1, 2];
        first.rows(1, 1).unwrap().upload(queue, &numbers).unwrap();
        numbers = [8, 9];
        second.copy_from(queue, &first).unwrap();
        first.upload(queue, &numbers).unwrap();
        let (mut got, mut copied) = ([-1; 6], [-1; 6]);
        let parts = [second.to_host(&mut copied).unwrap(), first.to_host(&mut got).unwrap()];
        Download::all(queue, parts).unwrap();
        assert_eq!((got, copied), ([8, 9, 1, 2, 0, 0], [0, 0, 1, 2, 0, 0]));

        let (cache, other) =
            (tensor(&device, &[2, 1, 3, 2]).unwrap(), tensor(&device, &[2, 1, 3, 2]).unwrap());
        cache.upload(queue, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]).unwrap();
        other.copy_positions_from(queue, &cache, 2).unwrap();
        assert_eq!(read(queue, &other), [1, 2, 3, 4, 0, 0, 7, 8, 9, 10, 0, 0]);

        let error = tensor(&device, &[1 << 20]).err().unwrap();
        assert!(
            error.message.contains("out of memory") && error.message.contains("max_sequences"),
            "{error}"
        );
        assert_eq!(last_error(&library), 0);
    }

    #[test]
    fn a_queue_waits_for_the_other_at_a_mark() {
        let folder = tempfile::tempdir().unwrap();
        let library = runtime(folder.path());
        let device: Arc<dyn Device> = Arc::new(CudaDevice::open(&library, 2, false).unwrap());
        let memory = tensor(&device, &[2]).unwrap();
        let mark = device.new_mark().unwrap();
        assert_eq!(device.is_reached(mark), Ok(true));
        memory.upload(Queue::Encode, &[5, 6]).unwrap();
        // Nobody waits yet, and the encoder's queue has not begun.
        assert_eq!(read(Queue::Decode, &memory), [0, 0]);
        device.set_mark(Queue::Encode, mark).unwrap();
        memory.upload(Queue::Encode, &[7, 8]).unwrap();
        assert_eq!(device.is_reached(mark), Ok(false));
        assert_eq!(last_error(&library), 0);
        device.follow(Queue::Decode, mark).unwrap();
        assert_eq!(read(Queue::Decode, &memory), [5, 6]);
        assert_eq!(device.is_reached(mark), Ok(true));
        assert!(device.set_mark(Queue::Decode, Mark(9)).is_err());
    }

    #[test]
    fn queues_may_be_one_stream() {
        let folder = tempfile::tempdir().unwrap();
        let opened = CudaDevice::open(&runtime(folder.path()), 2, true).unwrap();
        assert_eq!(opened.stream(Queue::Decode), opened.stream(Queue::Encode));
        let device: Arc<dyn Device> = Arc::new(opened);
        let memory = tensor(&device, &[2]).unwrap();
        memory.upload(Queue::Encode, &[5, 6]).unwrap();
        assert_eq!(read(Queue::Decode, &memory), [5, 6]);
    }
}
