//! Strings across the C boundary.

use std::ffi::{CStr, CString, c_char};

/// A C string for the host. An interior NUL would cut it short, so it becomes U+FFFD.
pub(super) fn to_host(text: &str) -> CString {
    CString::new(text).unwrap_or_else(|_| {
        CString::new(text.replace('\0', "\u{fffd}")).expect("a text without NUL is a C string")
    })
}

/// A string of the host's, copied; empty for null. Names that are not UTF-8 are made so.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that lives for the call.
pub(super) unsafe fn from_host(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
