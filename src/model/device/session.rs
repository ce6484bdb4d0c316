//! A graph with tensors of a device bound to it.

use std::{collections::BTreeMap, ptr, sync::Arc};

use ort::{
    AsPointer,
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    session::{IoBinding, Session},
};

use super::{Binding, Device, DeviceTensor, Place, Run, Span};
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
    session: Session,
    binding: IoBinding,
    /// How ONNX Runtime names the device's memory, and the host's.
    memory: MemoryInfo<'static>,
    host: MemoryInfo<'static>,
    inputs: BTreeMap<String, Bound>,
    outputs: BTreeMap<String, Bound>,
    device: Arc<dyn Device>,
}

enum Bound {
    Device(DeviceTensor),
    /// A scalar, at an address of its own.
    Host(Box<i32>),
}

/// A scalar has no dimensions.
const SCALAR: [i64; 0] = [];

impl DeviceSession {
    /// Nothing is bound yet. The session was made for `device`; errors name `graph`.
    pub fn new(graph: &str, session: Session, device: Arc<dyn Device>) -> Result<Self> {
        let ort = |error: ort::Error| Error::internal(format!("ONNX Runtime binding of {graph}: {error}"));
        let binding = session.create_binding().map_err(ort)?;
        let memory = device.memory().map_err(ort)?;
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
            .map_err(ort)?;
        let (inputs, outputs) = Default::default();
        Ok(Self { graph: graph.to_owned(), session, binding, memory, host, inputs, outputs, device })
    }

    /// The graph's inputs and outputs by name.
    pub fn session(&self) -> &Session {
        &self.session
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
            Some(Bound::Host(scalar)) => scalar,
            _ => Box::new(value),
        };
        *scalar = value;
        let data = ptr::from_mut(&mut *scalar).cast();
        // SAFETY: the box holds one i32, and is kept as long as it is bound.
        let bound = unsafe { tensor_over(&self.host, data, size_of::<i32>(), &SCALAR, i32::TYPE)? };
        // Anew each time: ONNX Runtime may copy the number when it is bound, if some operator wants it on the device.
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
        let binding = self.binding.ptr().cast_mut();
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

    /// Runs the graph over what is bound. With a `recording`, the first run of that number records the kernels, and
    /// later ones replay them, over the same addresses and shapes.
    pub fn run(&mut self, recording: Option<u32>) -> std::result::Result<(), String> {
        let options = recording.map(RunOptions::recording).transpose()?;
        let (session, binding) = (&self.session, &self.binding);
        let mut go = || {
            let options = options.as_ref().map_or(ptr::null(), |options| options.0.cast_const());
            // SAFETY: session and binding are live and belong together; what is bound is kept alive by `self`.
            let status =
                unsafe { (ort::api().RunWithBinding)(session.ptr().cast_mut(), options, binding.ptr()) };
            check(status)
        };
        let inputs = self.inputs.iter().map(|bound| binding_of(bound, false));
        let outputs = self.outputs.iter().map(|bound| binding_of(bound, true));
        let mut bound = inputs.chain(outputs);
        self.device.run(&mut Run { graph: &self.graph, bound: &mut bound, recording }, &mut go)
    }
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

impl RunOptions {
    /// Of recording `number`.
    fn recording(number: u32) -> std::result::Result<Self, String> {
        let number = TensorName::new(&number.to_string()).map_err(|error| error.message)?;
        let mut raw = ptr::null_mut();
        // SAFETY: writes one pointer, which is ours to release.
        check(unsafe { (ort::api().CreateRunOptions)(&mut raw) })?;
        let options = Self(raw);
        // SAFETY: the options are live, key and value NUL-terminated and copied.
        check(unsafe { (ort::api().AddRunConfigEntry)(raw, c"gpu_graph_id".as_ptr(), number.as_ptr()) })?;
        Ok(options)
    }
}

impl Drop for RunOptions {
    fn drop(&mut self) {
        // SAFETY: made by `recording` and released only here.
        unsafe { (ort::api().ReleaseRunOptions)(self.0) }
    }
}
