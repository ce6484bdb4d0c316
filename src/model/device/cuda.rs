//! A GPU as a device: its memory and its stream, by the CUDA runtime that ONNX Runtime uses as well.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::Path,
    ptr::{self, NonNull},
};

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

use super::{Device, DeviceResult, Run, Span};
use crate::model::cuda::Library;

/// A result of the CUDA runtime; 0 is success.
type Status = c_int;
type Stream = *mut c_void;

const HOST_TO_DEVICE: c_int = 1;
const DEVICE_TO_HOST: c_int = 2;
const DEVICE_TO_DEVICE: c_int = 3;
/// The stream does not wait for the default one, on which others of this process may work.
const NON_BLOCKING: c_uint = 1;

/// The functions that are needed; signatures and numbers are those of the runtime's interface.
struct Functions {
    set_device: unsafe extern "C" fn(c_int) -> Status,
    malloc: unsafe extern "C" fn(*mut *mut c_void, usize) -> Status,
    free: unsafe extern "C" fn(*mut c_void) -> Status,
    memcpy: unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int, Stream) -> Status,
    memset: unsafe extern "C" fn(*mut c_void, c_int, usize, Stream) -> Status,
    stream_create: unsafe extern "C" fn(*mut Stream, c_uint) -> Status,
    stream_synchronize: unsafe extern "C" fn(Stream) -> Status,
    stream_destroy: unsafe extern "C" fn(Stream) -> Status,
    error_text: unsafe extern "C" fn(Status) -> *const c_char,
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
            memset: function!(library, c"cudaMemsetAsync"),
            stream_create: function!(library, c"cudaStreamCreateWithFlags"),
            stream_synchronize: function!(library, c"cudaStreamSynchronize"),
            stream_destroy: function!(library, c"cudaStreamDestroy"),
            error_text: function!(library, c"cudaGetErrorString"),
        })
    }

    fn check(&self, what: &str, status: Status) -> DeviceResult<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: gives null or a NUL-terminated text that lives as long as the runtime.
        let text = unsafe {
            let text = (self.error_text)(status);
            if text.is_null() { c"unknown error" } else { CStr::from_ptr(text) }
        };
        Err(format!("{what} failed with {status}: {}", text.to_string_lossy()))
    }
}

/// See the module. It outlives every session that was made with its stream.
pub(in crate::model) struct CudaDevice {
    functions: Functions,
    device: c_int,
    stream: usize,
}

impl CudaDevice {
    /// Opens GPU `device` by the CUDA runtime in `library`, which stays open.
    pub fn open(library: &Path, device: i32) -> DeviceResult<Self> {
        let functions = Functions::of(&Library::open(library)?)?;
        let mut stream: Stream = ptr::null_mut();
        // SAFETY: plain numbers, and memory that lives through the call.
        unsafe {
            functions.check("cudaSetDevice", (functions.set_device)(device))?;
            functions
                .check("cudaStreamCreateWithFlags", (functions.stream_create)(&mut stream, NON_BLOCKING))?;
        }
        Ok(Self { functions, device, stream: stream as usize })
    }

    /// Address of its stream, for the sessions on it.
    pub fn stream(&self) -> usize {
        self.stream
    }

    fn raw_stream(&self) -> Stream {
        self.stream as Stream
    }

    /// The runtime keeps a device for each thread; the engine's is not the one that loaded the model.
    fn select(&self) -> DeviceResult<()> {
        // SAFETY: a plain number.
        self.functions.check("cudaSetDevice", unsafe { (self.functions.set_device)(self.device) })
    }

    fn wait(&self) -> DeviceResult<()> {
        // SAFETY: the stream lives as long as `self`.
        let status = unsafe { (self.functions.stream_synchronize)(self.raw_stream()) };
        self.functions.check("cudaStreamSynchronize", status)
    }

    fn transfer(&self, to: *mut c_void, from: *const c_void, bytes: usize, kind: c_int) -> DeviceResult<()> {
        self.select()?;
        // SAFETY: the caller vouches for both sides. Of pageable host memory the runtime takes what is copied to the
        // device before it returns; what is copied from it is waited for in `download`.
        let status = unsafe { (self.functions.memcpy)(to, from, bytes, kind, self.raw_stream()) };
        self.functions.check("cudaMemcpyAsync", status)
    }
}

// SAFETY: cudaMalloc gives memory that nobody else has until cudaFree.
unsafe impl Device for CudaDevice {
    fn allocate(&self, bytes: usize) -> DeviceResult<NonNull<u8>> {
        self.select()?;
        let mut memory = ptr::null_mut();
        // SAFETY: memory that lives through the call.
        self.functions.check("cudaMalloc", unsafe { (self.functions.malloc)(&mut memory, bytes) })?;
        let memory = NonNull::new(memory.cast::<u8>()).ok_or("cudaMalloc gave no memory")?;
        // SAFETY: just reserved, so many bytes.
        let zeroed = unsafe { (self.functions.memset)(memory.as_ptr().cast(), 0, bytes, self.raw_stream()) };
        if let Err(error) = self.functions.check("cudaMemsetAsync", zeroed) {
            self.free(memory);
            return Err(error);
        }
        Ok(memory)
    }

    fn free(&self, memory: NonNull<u8>) {
        // SAFETY: from `allocate`, and not used after this. cudaFree itself waits for what uses the memory.
        let freed = self.select().and_then(|()| {
            self.functions.check("cudaFree", unsafe { (self.functions.free)(memory.as_ptr().cast()) })
        });
        if let Err(error) = freed {
            log::error!("GPU {}: memory cannot be given back: {error}", self.device);
        }
    }

    unsafe fn upload(&self, from: &[u8], to: Span) -> DeviceResult<()> {
        self.transfer(to.address as *mut c_void, from.as_ptr().cast(), to.bytes, HOST_TO_DEVICE)
    }

    unsafe fn download(&self, from: Span, to: &mut [u8]) -> DeviceResult<()> {
        self.transfer(to.as_mut_ptr().cast(), from.address as *const c_void, from.bytes, DEVICE_TO_HOST)?;
        self.wait()
    }

    unsafe fn copy(&self, from: Span, to: Span) -> DeviceResult<()> {
        self.transfer(to.address as *mut c_void, from.address as *const c_void, from.bytes, DEVICE_TO_DEVICE)
    }

    fn memory(&self) -> ort::Result<MemoryInfo<'static>> {
        MemoryInfo::new(AllocationDevice::CUDA, self.device, AllocatorType::Device, MemoryType::Default)
    }

    fn run(&self, _run: &mut Run<'_>, go: &mut dyn FnMut() -> DeviceResult<()>) -> DeviceResult<()> {
        self.select()?;
        go()
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // SAFETY: made in `open`; tensors and sessions hold the device, so that nothing uses the stream any more.
        let gone = unsafe { (self.functions.stream_destroy)(self.raw_stream()) };
        if let Err(error) = self.functions.check("cudaStreamDestroy", gone) {
            log::error!("GPU {}: {error}", self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command, sync::Arc};

    use super::*;
    use crate::model::{binding::ElementType, device::DeviceTensor};

    /// A runtime whose device is the host's memory, and whose stream only works when it is waited for. Memory beyond
    /// one mebibyte it does not have.
    const RUNTIME: &str = r#"
        #include <stdlib.h>
        #include <string.h>
        static struct { void* to; void* from; size_t bytes; int staged; } queue[64];
        static int queued = 0, device = -1, streams = 0;
        int cudaSetDevice(int wanted) { device = wanted; return wanted == 2 ? 0 : 101; }
        int cudaMalloc(void** memory, size_t bytes) {
          if (bytes > 1 << 20) return 2;
          *memory = malloc(bytes); memset(*memory, 0xff, bytes); return device == 2 ? 0 : 101;
        }
        int cudaStreamSynchronize(void* stream) {
          for (int i = 0; i < queued; ++i) {
            memcpy(queue[i].to, queue[i].from, queue[i].bytes);
            if (queue[i].staged) free(queue[i].from);
          }
          queued = 0;
          return stream == &streams ? 0 : 400;
        }
        int cudaFree(void* memory) { cudaStreamSynchronize(&streams); free(memory); return 0; }
        int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
          queue[queued].to = to; queue[queued].bytes = bytes; queue[queued].staged = kind == 1;
          queue[queued].from = (void*)from;
          if (kind == 1) { queue[queued].from = malloc(bytes); memcpy(queue[queued].from, from, bytes); }
          ++queued;
          return stream == &streams && kind >= 1 && kind <= 3 ? 0 : 400;
        }
        int cudaMemsetAsync(void* memory, int value, size_t bytes, void* stream) {
          memset(memory, value, bytes); return stream == &streams ? 0 : 400;
        }
        int cudaStreamCreateWithFlags(void** stream, unsigned flags) { *stream = &streams; ++streams; return flags == 1 ? 0 : 400; }
        int cudaStreamDestroy(void* stream) { --streams; return 0; }
        const char* cudaGetErrorString(int status) { return status == 2 ? "out of memory" : "invalid"; }
    "#;

    #[test]
    fn what_is_copied_arrives_in_the_order_of_the_stream() {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("runtime.c"), folder.path().join("runtime.so"));
        fs::write(&source, RUNTIME).unwrap();
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(built.unwrap().success());

        let error = CudaDevice::open(&library, 0).err().unwrap();
        assert!(error.contains("cudaSetDevice failed with 101: invalid"), "{error}");
        let device: Arc<dyn Device> = Arc::new(CudaDevice::open(&library, 2).unwrap());
        let element = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
        let tensor = |dims: &[usize]| DeviceTensor::zeroed(&device, "cache", element, dims);
        let (first, second) = (tensor(&[3, 2]).unwrap(), tensor(&[3, 2]).unwrap());
        let mut numbers = [1, 2];
        first.rows(1, 1).unwrap().upload(&numbers).unwrap();
        numbers = [8, 9];
        second.copy_from(&first).unwrap();
        first.upload(&numbers).unwrap();
        let (mut got, mut copied) = ([-1; 6], [-1; 6]);
        second.download(&mut copied).unwrap();
        first.download(&mut got).unwrap();
        assert_eq!((got, copied), ([8, 9, 1, 2, 0, 0], [0, 0, 1, 2, 0, 0]));

        let error = tensor(&[1 << 20]).err().unwrap();
        assert!(
            error.message.contains("out of memory") && error.message.contains("max_sequences"),
            "{error}"
        );
    }
}
