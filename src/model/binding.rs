//! Inputs and outputs bound to memory of our own, without a copy.

use std::{
    ffi::{CString, c_char, c_void},
    ptr,
};

/// ONNX Runtime's types of elements.
pub use ort::sys::ONNXTensorElementDataType as ElementType;
use ort::{
    AsPointer,
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    session::{IoBinding, Session},
};

use super::{memory::DeviceBuffer, status::check};
use crate::error::{Error, Result};

/// Elements that graphs take.
pub trait Element: Copy {
    /// ONNX Runtime's name for it.
    const TYPE: ElementType;
}

impl Element for f32 {
    const TYPE: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}
impl Element for i32 {
    const TYPE: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
}
impl Element for u8 {
    const TYPE: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}
impl Element for i8 {
    const TYPE: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
}
impl Element for i64 {
    const TYPE: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

/// Bytes of an element of those types that graphs have here.
pub fn element_bytes(element: ElementType) -> usize {
    match element {
        ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 => 8,
        ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
        | ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 => 4,
        ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
        | ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 => 2,
        _ => 1,
    }
}

/// A tensor's name as ONNX Runtime takes it.
#[derive(Debug)]
pub struct TensorName(CString);

impl TensorName {
    /// Names come from the artifact contract and hold no NUL.
    pub fn new(name: &str) -> Result<Self> {
        CString::new(name).map(Self).map_err(|_| Error::internal(format!("tensor name {name:?} holds a NUL")))
    }

    /// For ONNX Runtime's functions, during a call.
    pub fn as_ptr(&self) -> *const c_char {
        self.0.as_ptr()
    }
}

/// A session together with what is bound to it.
pub struct BoundSession {
    session: Session,
    binding: IoBinding,
    memory: MemoryInfo<'static>,
}

impl BoundSession {
    /// Nothing is bound yet.
    pub fn new(session: Session) -> Result<Self> {
        let ort = |error: ort::Error| Error::internal(format!("ONNX Runtime binding: {error}"));
        let binding = session.create_binding().map_err(ort)?;
        let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
            .map_err(ort)?;
        Ok(Self { session, binding, memory })
    }

    /// The graph's inputs and outputs by name.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Binds `data` as the input `name`.
    ///
    /// # Safety
    /// `data` must hold `dims`' elements and stay valid and unmoved until it is bound anew or the last
    /// [`BoundSession::run`] is over; while a run is going on nobody else may write it.
    pub unsafe fn bind_input<T: Element>(
        &mut self,
        name: &TensorName,
        data: *const T,
        dims: &[i64],
    ) -> Result<()> {
        let value = self.value(data.cast_mut(), dims)?;
        // SAFETY: binding, name and value are live; the binding keeps its own reference to the value.
        let status =
            unsafe { (ort::api().BindInput)(self.binding.ptr().cast_mut(), name.0.as_ptr(), value.0) };
        check(status).map_err(|error| Error::internal(format!("binding input {:?}: {error}", name.0)))
    }

    /// Binds `data` as the output `name`.
    ///
    /// # Safety
    /// As [`BoundSession::bind_input`]; the run writes `data`, so nobody else may touch it meanwhile.
    pub unsafe fn bind_output<T: Element>(
        &mut self,
        name: &TensorName,
        data: *mut T,
        dims: &[i64],
    ) -> Result<()> {
        let value = self.value(data, dims)?;
        // SAFETY: as in `bind_input`.
        let status =
            unsafe { (ort::api().BindOutput)(self.binding.ptr().cast_mut(), name.0.as_ptr(), value.0) };
        check(status).map_err(|error| Error::internal(format!("binding output {:?}: {error}", name.0)))
    }

    /// Binds `buffer` as the input `past` and as the output `present`: the run changes it in place.
    ///
    /// # Safety
    /// The buffer must outlive the last [`BoundSession::run`], and nobody else may touch it during one.
    pub unsafe fn bind_in_place(
        &mut self,
        past: &TensorName,
        present: &TensorName,
        buffer: &mut DeviceBuffer,
    ) -> Result<()> {
        let (data, dims) = (buffer.as_mut_ptr(), buffer.dims());
        // SAFETY: the buffer holds `dims`' elements and does not move; the rest is the caller's word.
        unsafe {
            self.bind_input(past, data, dims)?;
            self.bind_output(present, data, dims)
        }
    }

    /// Runs the graph over what is bound.
    pub fn run(&mut self) -> std::result::Result<(), String> {
        // SAFETY: session and binding are live and belong together; what is bound is valid by the contract
        // of the bind functions.
        let status = unsafe {
            (ort::api().RunWithBinding)(self.session.ptr().cast_mut(), ptr::null(), self.binding.ptr())
        };
        check(status)
    }

    /// A tensor over memory that stays the caller's.
    fn value<T: Element>(&self, data: *mut T, dims: &[i64]) -> Result<OwnedValue> {
        let elements: i64 = dims.iter().product();
        let bytes = elements as usize * size_of::<T>();
        // SAFETY: the caller vouches for `data` and `dims`.
        unsafe { tensor_over(&self.memory, data.cast(), bytes, dims, T::TYPE) }
    }
}

/// A tensor over memory that stays the caller's.
///
/// # Safety
/// `data` holds `bytes` bytes of the memory that `memory` names, which are `dims` elements, and stays valid as long as
/// the value is used.
pub unsafe fn tensor_over(
    memory: &MemoryInfo,
    data: *mut c_void,
    bytes: usize,
    dims: &[i64],
    element: ElementType,
) -> Result<OwnedValue> {
    let mut value = ptr::null_mut();
    // SAFETY: the memory info is live; the rest is the caller's word.
    let status = unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            memory.ptr(),
            data,
            bytes,
            dims.as_ptr(),
            dims.len(),
            element,
            &mut value,
        )
    };
    check(status).map_err(|error| Error::internal(format!("tensor of shape {dims:?}: {error}")))?;
    Ok(OwnedValue(value))
}

/// Releases our reference to a value; a binding keeps one of its own.
pub struct OwnedValue(*mut ort::sys::OrtValue);

impl OwnedValue {
    /// For ONNX Runtime's functions, during a call.
    pub fn as_ptr(&self) -> *const ort::sys::OrtValue {
        self.0
    }
}

impl Drop for OwnedValue {
    fn drop(&mut self) {
        // SAFETY: made by `tensor_over` and released only here.
        unsafe { (ort::api().ReleaseValue)(self.0) }
    }
}
