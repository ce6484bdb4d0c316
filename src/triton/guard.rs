//! The guard that every exported function runs in: no panic crosses the C boundary.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use super::{error::HostError, sys};
use crate::error::{Error, Result};

/// Runs the body of an exported function and turns its outcome into what the host expects.
pub fn call(name: &str, body: impl FnOnce() -> Result<()>) -> *mut sys::TRITONSERVER_Error {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ptr::null_mut(),
        Ok(Err(error)) => HostError::new(&error).into_raw(),
        Err(panic) => HostError::new(&panicked(name, &*panic)).into_raw(),
    }
}

/// Runs the body of Execute, which must never return an error: the host would touch requests that have been
/// released. What the body holds when it panics answers for itself while it is dropped.
pub fn execute(body: impl FnOnce()) -> *mut sys::TRITONSERVER_Error {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
        log::error!("{}", panicked("TRITONBACKEND_ModelInstanceExecute", &*panic));
    }
    ptr::null_mut()
}

/// The error of a caught panic of `what`.
pub fn panicked(what: &str, panic: &(dyn Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::internal(format!("{what} panicked: {message}; this is a defect of the textgen backend"))
}
