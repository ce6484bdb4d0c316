//! A graph with tensors of a device bound to it.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    mem::ManuallyDrop,
    ptr,
    sync::Arc,
};

use ort::{
    AsPointer,
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    session::{IoBinding, Session},
};

use super::{Binding, Device, DeviceTensor, Place, Queue, Recording, Run, Span};
use crate::{
    error::{Error, Result},
    model::{
        binding::{Element, OwnedValue, TensorName, tensor_over},
        status::check,
    },
};

/// A session, and what is bound to it, which it keeps alive.
pub(in crate::model) struct DeviceSession {
    graph: String,
    /// Dropped when the device says so.
    bindable: ManuallyDrop<Bindable>,
    queue: Queue,
    /// How ONNX Runtime names the device's memory, and the host's.
    memory: MemoryInfo<'static>,
    host: MemoryInfo<'static>,
    inputs: BTreeMap<String, Bound>,
    outputs: BTreeMap<String, Bound>,
    /// For runs that are neither recorded nor replayed.
    plain: RunOptions,
    /// For those of each number that has been recorded.
    recorded: BTreeMap<u32, RunOptions>,
    device: Arc<dyn Device>,
}

struct Bindable {
    binding: IoBinding,
    session: Session,
}

enum Bound {
    Device(DeviceTensor),
    /// A scalar, at an address of its own.
    Host(Box<i32>),
}

/// A scalar has no dimensions.
const SCALAR: [i64; 0] = [];

impl DeviceSession {
    /// Nothing is bound yet. The session was made for `device`, and for its `queue`; errors name `graph`.
    pub fn new(graph: &str, session: Session, device: Arc<dyn Device>, queue: Queue) -> Result<Self> {
        let ort = |error: ort::Error| ort_binding(graph, &error);
        let binding = session.create_binding().map_err(ort)?;
        let memory = device.memory().map_err(ort)?;
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
            .map_err(ort)?;
        let plain = RunOptions::new(None)
            .map_err(|error| Error::internal(format!("ONNX Runtime options of {graph}: {error}")))?;
        let (inputs, outputs, recorded) = Default::default();
        let bindable = ManuallyDrop::new(Bindable { binding, session });
        Ok(Self {
            graph: graph.to_owned(),
            bindable,
            queue,
            memory,
            host,
            inputs,
            outputs,
            plain,
            recorded,
            device,
        })
    }

    /// The graph's inputs and outputs by name.
    pub fn session(&self) -> &Session {
        &self.bindable.session
    }

    /// Forgets what is bound, so that its memory can be given back. What has been recorded would go on using it.
    pub fn unbind(&mut self) -> Result<()> {
        debug_assert!(self.recorded.is_empty(), "{} has recordings", self.graph);
        self.bindable.binding =
            self.session().create_binding().map_err(|error| ort_binding(&self.graph, &error))?;
        self.inputs.clear();
        self.outputs.clear();
        Ok(())
    }

    /// Bytes of the device's memory that ONNX Runtime holds for this session: its weights, and what its runs have
    /// needed at most between inputs and outputs. 0, and a warning, of a provider that keeps no account.
    pub fn held_bytes(&self) -> usize {
        held_bytes(self.session(), &self.memory).unwrap_or_else(|error| {
            log::warn!(
                "ONNX Runtime does not tell the memory of the {}: {error}; gpu_mem_limit bounds each graph by itself",
                self.graph
            );
            0
        })
    }

    /// Binds `tensor` as the input `name`, until another is bound.
    pub fn bind_input(&mut self, name: &str, tensor: DeviceTensor) -> Result<()> {
        let value = self.value(&tensor)?;
        self.bind(name, &value, false)?;
        self.inputs.insert(name.to_owned(), Bound::Device(tensor));
        Ok(())
    }

    /// Binds `tensor` as the output `name`, until another is bound.
    pub fn bind_output(&mut self, name: &str, tensor: DeviceTensor) -> Result<()> {
        let value = self.value(&tensor)?;
        self.bind(name, &value, true)?;
        self.outputs.insert(name.to_owned(), Bound::Device(tensor));
        Ok(())
    }

    /// Gives the input `name` a number in the host's memory. Its address stays the same from the first call on.
    pub fn set_host_scalar(&mut self, name: &str, value: i32) -> Result<()> {
        let mut scalar = match self.inputs.remove(name) {
            Some(Bound::Host(scalar)) if *scalar == value => {
                self.inputs.insert(name.to_owned(), Bound::Host(scalar));
                return Ok(());
            }
            Some(Bound::Host(scalar)) => scalar,
            _ => Box::new(value),
        };
        *scalar = value;
        let data = ptr::from_mut(&mut *scalar).cast();
        // SAFETY: the box holds one i32, and is kept as long as it is bound.
        let bound = unsafe { tensor_over(&self.host, data, size_of::<i32>(), &SCALAR, i32::TYPE)? };
        // Anew for each value: ONNX Runtime may copy the number when it is bound, if some operator wants it on the device.
        self.bind(name, &bound, false)?;
        self.inputs.insert(name.to_owned(), Bound::Host(scalar));
        Ok(())
    }

    fn value(&self, tensor: &DeviceTensor) -> Result<OwnedValue> {
        if !tensor.is_on(&self.device) {
            return Err(Error::internal(format!("{}: a tensor of another device", self.graph)));
        }
        // SAFETY: the tensor's memory has room for its shape, and whoever binds the value keeps the tensor.
        unsafe {
            tensor_over(&self.memory, tensor.data().cast(), tensor.bytes(), tensor.dims(), tensor.element())
        }
    }

    fn bind(&mut self, name: &str, value: &OwnedValue, is_output: bool) -> Result<()> {
        let tensor_name = TensorName::new(name)?;
        let binding = self.bindable.binding.ptr().cast_mut();
        // SAFETY: binding, name and value are live; the binding keeps its own reference to the value.
        let status = unsafe {
            if is_output {
                (ort::api().BindOutput)(binding, tensor_name.as_ptr(), value.as_ptr())
            } else {
                (ort::api().BindInput)(binding, tensor_name.as_ptr(), value.as_ptr())
            }
        };
        check(status).map_err(|error| Error::internal(format!("{}: binding {name}: {error}", self.graph)))
    }

    /// Runs the graph over what is bound. With a number, the first run of that number records the kernels, and later
    /// ones replay them, over the same addresses and shapes.
    pub fn run(&mut self, number: Option<u32>) -> std::result::Result<(), String> {
        let recording = match number {
            None => Recording::None,
            Some(number) if self.recorded.contains_key(&number) => Recording::Replayed(number),
            Some(number) => Recording::New(number),
        };
        if let Recording::New(number) = recording {
            self.recorded.insert(number, RunOptions::new(Some(number))?);
        }
        let result = self.run_as(recording);
        if let (Recording::New(number), Err(_)) = (recording, &result) {
            self.recorded.remove(&number);
        }
        result
    }

    fn run_as(&self, recording: Recording) -> std::result::Result<(), String> {
        let options = match recording {
            Recording::None => &self.plain,
            Recording::New(number) | Recording::Replayed(number) => {
                self.recorded.get(&number).unwrap_or(&self.plain)
            }
        };
        let Bindable { binding, session } = &*self.bindable;
        let mut go = || {
            // SAFETY: session and binding are live and belong together; what is bound is kept alive by `self`.
            let status =
                unsafe { (ort::api().RunWithBinding)(session.ptr().cast_mut(), options.0, binding.ptr()) };
            check(status)
        };
        let inputs = self.inputs.iter().map(|bound| binding_of(bound, false));
        let outputs = self.outputs.iter().map(|bound| binding_of(bound, true));
        let mut bound = inputs.chain(outputs);
        let mut run = Run { graph: &self.graph, queue: self.queue, bound: &mut bound, recording };
        self.device.run(&mut run, &mut go)
    }
}

impl Drop for DeviceSession {
    fn drop(&mut self) {
        // SAFETY: nobody uses it after this.
        self.device.undisturbed(&mut || unsafe { ManuallyDrop::drop(&mut self.bindable) });
    }
}

/// What `session`'s allocator of `memory` holds. 0 of one that keeps no account.
fn held_bytes(session: &Session, memory: &MemoryInfo<'static>) -> std::result::Result<usize, String> {
    let (mut allocator, mut stats) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: session and memory are live; each call writes one pointer, which is ours to release.
    unsafe {
        check((ort::api().CreateAllocator)(session.ptr(), memory.ptr(), &mut allocator))?;
        let asked = check((ort::api().AllocatorGetStats)(allocator, &mut stats));
        (ort::api().ReleaseAllocator)(allocator);
        asked?;
        let total = (ort::api().GetKeyValue)(stats, c"TotalAllocated".as_ptr());
        let bytes = if total.is_null() { None } else { CStr::from_ptr(total).to_str().ok() };
        let bytes = bytes.and_then(|text| text.parse().ok());
        (ort::api().ReleaseKeyValuePairs)(stats);
        bytes.ok_or_else(|| "its allocator names no total".to_owned())
    }
}

fn ort_binding(graph: &str, error: &ort::Error) -> Error {
    Error::internal(format!("ONNX Runtime binding of {graph}: {error}"))
}

fn binding_of<'a>((name, bound): (&'a String, &'a Bound), is_output: bool) -> Binding<'a> {
    match bound {
        Bound::Device(tensor) => {
            Binding { name, is_output, place: Place::Device, span: tensor.span(), dims: tensor.dims() }
        }
        Bound::Host(scalar) => Binding {
            name,
            is_output,
            place: Place::Host,
            span: Span { address: ptr::from_ref(&**scalar) as usize, bytes: size_of::<i32>() },
            dims: &SCALAR,
        },
    }
}

/// Options of one run.
struct RunOptions(*mut ort::sys::OrtRunOptions);

/// ONNX Runtime takes a run without a number for one of number 0, and one of this number for none.
const NOT_RECORDED: &CStr = c"-1";

impl RunOptions {
    /// Of a run that is recorded or replayed under `number`, or neither.
    fn new(number: Option<u32>) -> std::result::Result<Self, String> {
        let number = match number {
            Some(number) => CString::new(number.to_string()).map_err(|error| error.to_string())?,
            None => NOT_RECORDED.to_owned(),
        };
        let mut raw = ptr::null_mut();
        // SAFETY: writes one pointer, which is ours to release.
        check(unsafe { (ort::api().CreateRunOptions)(&mut raw) })?;
        let options = Self(raw);
        for (key, value) in [
            (c"gpu_graph_id", number.as_c_str()),
            // Whoever reads from the device waits; nobody else need.
            (c"disable_synchronize_execution_providers", c"1"),
        ] {
            // SAFETY: the options are live, key and value NUL-terminated and copied.
            check(unsafe { (ort::api().AddRunConfigEntry)(raw, key.as_ptr(), value.as_ptr()) })?;
        }
        Ok(options)
    }
}

// SAFETY: made once, then only read.
unsafe impl Send for RunOptions {}

impl Drop for RunOptions {
    fn drop(&mut self) {
        // SAFETY: made by `new` and released only here.
        unsafe { (ort::api().ReleaseRunOptions)(self.0) }
    }
}
