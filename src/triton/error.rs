//! Errors across the C boundary: ours to the host's and back.

use super::{
    strings::{from_host, to_host},
    sys,
};
use crate::error::{Error, ErrorKind, Result};

/// Takes an error that the host returned; null is success.
pub(super) fn check(error: *mut sys::TRITONSERVER_Error) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null error is valid and ours to delete; it is not used after that.
    let (code, message) = unsafe {
        let code = sys::TRITONSERVER_ErrorCode(error);
        let message = from_host(sys::TRITONSERVER_ErrorMessage(error));
        sys::TRITONSERVER_ErrorDelete(error);
        (code, message)
    };
    use sys::TRITONSERVER_Error_Code as Code;
    let kind = match code {
        Code::TRITONSERVER_ERROR_INVALID_ARG | Code::TRITONSERVER_ERROR_ALREADY_EXISTS => {
            ErrorKind::InvalidArgument
        }
        Code::TRITONSERVER_ERROR_NOT_FOUND => ErrorKind::NotFound,
        Code::TRITONSERVER_ERROR_UNSUPPORTED => ErrorKind::Unsupported,
        Code::TRITONSERVER_ERROR_UNAVAILABLE => ErrorKind::Unavailable,
        Code::TRITONSERVER_ERROR_CANCELLED => ErrorKind::Cancelled,
        _ => ErrorKind::Internal,
    };
    Err(Error { kind, message })
}

/// Logs what cannot be returned: a failure of the host while something is being given back to it.
pub(super) fn report(what: &str, error: *mut sys::TRITONSERVER_Error) {
    if let Err(error) = check(error) {
        log::error!("{what}: {error}");
    }
}

/// An error of the host's own, owned until it is handed over.
pub(super) struct HostError(*mut sys::TRITONSERVER_Error);

impl HostError {
    pub(super) fn new(error: &Error) -> Self {
        use sys::TRITONSERVER_Error_Code as Code;
        let code = match error.kind {
            ErrorKind::InvalidArgument => Code::TRITONSERVER_ERROR_INVALID_ARG,
            ErrorKind::NotFound => Code::TRITONSERVER_ERROR_NOT_FOUND,
            ErrorKind::Unsupported => Code::TRITONSERVER_ERROR_UNSUPPORTED,
            ErrorKind::Unavailable => Code::TRITONSERVER_ERROR_UNAVAILABLE,
            ErrorKind::Cancelled => Code::TRITONSERVER_ERROR_CANCELLED,
            ErrorKind::Internal => Code::TRITONSERVER_ERROR_INTERNAL,
        };
        let message = to_host(&error.message);
        // SAFETY: the message is copied during the call.
        Self(unsafe { sys::TRITONSERVER_ErrorNew(code, message.as_ptr()) })
    }

    /// For calls that look at the error and leave it with us.
    pub(super) fn as_ptr(&self) -> *mut sys::TRITONSERVER_Error {
        self.0
    }

    /// For returning: the host deletes it.
    pub(super) fn into_raw(self) -> *mut sys::TRITONSERVER_Error {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }
}

impl Drop for HostError {
    fn drop(&mut self) {
        // SAFETY: created in `new`, and `into_raw` forgets self.
        unsafe { sys::TRITONSERVER_ErrorDelete(self.0) }
    }
}
