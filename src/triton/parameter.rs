//! Request parameters.

use std::ffi::{c_char, c_void};

use super::{strings::from_host, sys};

/// The value of a request parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum ParameterValue {
    /// A string.
    Text(String),
    /// A 64-bit integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A floating-point number.
    Double(f64),
    /// A type that no door of the server produces today.
    Unknown,
}

impl ParameterValue {
    /// Copies a value of the host's.
    ///
    /// # Safety
    /// `value` is null or points to a value of type `kind` that lives for the call.
    pub(super) unsafe fn from_host(kind: sys::TRITONSERVER_ParameterType, value: *const c_void) -> Self {
        use sys::TRITONSERVER_ParameterType as Kind;
        if value.is_null() {
            return Self::Unknown;
        }
        // SAFETY: the caller promises that the type fits; the host aligns its own values.
        unsafe {
            match kind {
                // The host passes the characters themselves, not a pointer to them.
                Kind::TRITONSERVER_PARAMETER_STRING => Self::Text(from_host(value.cast::<c_char>())),
                Kind::TRITONSERVER_PARAMETER_INT => Self::Int(*value.cast::<i64>()),
                Kind::TRITONSERVER_PARAMETER_BOOL => Self::Bool(*value.cast::<u8>() != 0),
                Kind::TRITONSERVER_PARAMETER_DOUBLE => Self::Double(*value.cast::<f64>()),
                _ => Self::Unknown,
            }
        }
    }
}
