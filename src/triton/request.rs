//! A request of the host's, until it is released.

use std::{ptr, slice};

use super::{
    DataType, InputTensor, ParameterValue, ResponseStream,
    error::{check, report},
    strings::from_host,
    sys,
};
use crate::error::{Error, Result};

/// Takes one request of an Execute call: the request to read, and the stream that answers it. From here the
/// backend owns both, and must not return an error for this call any more.
///
/// None when the host gives no way to answer; then the request is released at once.
///
/// # Safety
/// `raw` is a request of the running Execute call, and nobody else takes it.
pub unsafe fn accept(raw: *mut sys::TRITONBACKEND_Request) -> Option<(Request, ResponseStream)> {
    let request = Request(raw);
    // SAFETY: the request is valid until it is dropped.
    match unsafe { ResponseStream::new(raw) } {
        Ok(stream) => Some((request, stream)),
        Err(error) => {
            log::error!("a request cannot be answered: {error}");
            None
        }
    }
}

/// A request that has not been released; dropping it releases it.
pub struct Request(*mut sys::TRITONBACKEND_Request);

/// Everything a request says, copied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestContent {
    /// Every input that the client sent, in the host's order.
    pub inputs: Vec<InputTensor>,
    /// Every parameter, in the client's order.
    pub parameters: Vec<(String, ParameterValue)>,
    /// The outputs that the client asked for; all of the model's when it named none.
    pub outputs: Vec<String>,
    /// The client's time limit in microseconds; 0 is none.
    pub timeout_us: u64,
}

impl Request {
    /// The client's id; empty when it gave none.
    pub fn id(&self) -> Result<String> {
        let mut id = ptr::null();
        // SAFETY: the request is valid until drop; the id lives as long as it.
        unsafe {
            check(sys::TRITONBACKEND_RequestId(self.0, &mut id))?;
            Ok(from_host(id))
        }
    }

    /// Copies the request; refuses more than `max_input_bytes` in all inputs together.
    pub fn read(&self, max_input_bytes: usize) -> Result<RequestContent> {
        let mut timeout_us = 0;
        // SAFETY: the request is valid until drop.
        check(unsafe { sys::TRITONBACKEND_InferenceRequestTimeoutMicroseconds(self.0, &mut timeout_us) })?;
        Ok(RequestContent {
            inputs: self.inputs(max_input_bytes)?,
            parameters: self.parameters()?,
            outputs: self.outputs()?,
            timeout_us,
        })
    }

    fn parameters(&self) -> Result<Vec<(String, ParameterValue)>> {
        let mut count = 0;
        // SAFETY: the request is valid until drop.
        check(unsafe { sys::TRITONBACKEND_RequestParameterCount(self.0, &mut count) })?;
        (0..count)
            .map(|index| {
                let mut key = ptr::null();
                let mut kind = sys::TRITONSERVER_ParameterType::TRITONSERVER_PARAMETER_STRING;
                let mut value = ptr::null();
                // SAFETY: the request is valid until drop; key and value live as long as it, and the value is
                // of the type that the host names.
                unsafe {
                    check(sys::TRITONBACKEND_RequestParameter(
                        self.0, index, &mut key, &mut kind, &mut value,
                    ))?;
                    Ok((from_host(key), ParameterValue::from_host(kind, value)))
                }
            })
            .collect()
    }

    fn outputs(&self) -> Result<Vec<String>> {
        let mut count = 0;
        // SAFETY: the request is valid until drop.
        check(unsafe { sys::TRITONBACKEND_RequestOutputCount(self.0, &mut count) })?;
        (0..count)
            .map(|index| {
                let mut name = ptr::null();
                // SAFETY: the request is valid until drop; the name lives as long as it.
                unsafe {
                    check(sys::TRITONBACKEND_RequestOutputName(self.0, index, &mut name))?;
                    Ok(from_host(name))
                }
            })
            .collect()
    }

    fn inputs(&self, max_bytes: usize) -> Result<Vec<InputTensor>> {
        let mut count = 0;
        // SAFETY: the request is valid until drop.
        check(unsafe { sys::TRITONBACKEND_RequestInputCount(self.0, &mut count) })?;
        let mut bytes = 0;
        (0..count)
            .map(|index| {
                let mut input = ptr::null_mut();
                // SAFETY: the request is valid until drop.
                check(unsafe { sys::TRITONBACKEND_RequestInputByIndex(self.0, index, &mut input) })?;
                let tensor = read_input(input, max_bytes - bytes)?;
                bytes += tensor.data.len();
                Ok(tensor)
            })
            .collect()
    }

    pub(super) fn as_ptr(&self) -> *mut sys::TRITONBACKEND_Request {
        self.0
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: this is the only release, and the pointer is not used after it.
        report("a request cannot be released", unsafe {
            sys::TRITONBACKEND_RequestRelease(self.0, sys::TRITONSERVER_REQUEST_RELEASE_ALL)
        });
    }
}

/// Copies one input, which may lie in several buffers or none.
fn read_input(input: *mut sys::TRITONBACKEND_Input, max_bytes: usize) -> Result<InputTensor> {
    let mut name = ptr::null();
    let mut data_type = sys::TRITONSERVER_DataType::TRITONSERVER_TYPE_INVALID;
    let mut shape = ptr::null();
    let (mut dims, mut byte_size, mut buffers) = (0, 0, 0);
    // SAFETY: the input belongs to a request that has not been released; name and shape live as long as it.
    let (name, shape) = unsafe {
        check(sys::TRITONBACKEND_InputProperties(
            input,
            &mut name,
            &mut data_type,
            &mut shape,
            &mut dims,
            &mut byte_size,
            &mut buffers,
        ))?;
        let shape = if shape.is_null() { &[] } else { slice::from_raw_parts(shape, dims as usize) };
        (from_host(name), shape.to_vec())
    };
    let data_type = DataType::from_host(data_type).ok_or_else(|| {
        Error::invalid_argument(format!("input `{name}`: its element type is not known to this backend"))
    })?;
    let fits = usize::try_from(byte_size).ok().filter(|&bytes| bytes <= max_bytes);
    let byte_size = fits.ok_or_else(|| {
        Error::invalid_argument(format!(
            "input `{name}` has {byte_size} bytes, but only {max_bytes} are left of what one request may send; \
             send less, or raise the configuration key `max_input_bytes`"
        ))
    })?;

    let mut data = Vec::with_capacity(byte_size);
    for index in 0..buffers {
        let mut base = ptr::null();
        let mut length = 0;
        // A request for CPU memory, which the host may still answer with something else.
        let mut memory = sys::TRITONSERVER_MemoryType::TRITONSERVER_MEMORY_CPU;
        let mut device = 0;
        // SAFETY: the input is valid, see above.
        check(unsafe {
            sys::TRITONBACKEND_InputBuffer(input, index, &mut base, &mut length, &mut memory, &mut device)
        })?;
        if memory == sys::TRITONSERVER_MemoryType::TRITONSERVER_MEMORY_GPU {
            return Err(Error::unsupported(format!(
                "input `{name}` lies in the memory of GPU {device}; send it in system memory"
            )));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > byte_size - data.len() {
            return Err(Error::internal(format!(
                "input `{name}`: its buffers hold more than its {byte_size} bytes"
            )));
        }
        if !base.is_null() {
            // SAFETY: the host gave `length` readable bytes at `base`.
            data.extend_from_slice(unsafe { slice::from_raw_parts(base.cast::<u8>(), length) });
        }
    }
    if data.len() != byte_size {
        return Err(Error::invalid_argument(format!(
            "input `{name}`: its buffers hold {} bytes, expected {byte_size}",
            data.len()
        )));
    }
    Ok(InputTensor { name, data_type, shape, data })
}
