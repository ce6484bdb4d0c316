//! Statuses of ONNX Runtime's C API.

/// Turns a status of ONNX Runtime's C API into a result, and releases it.
pub(super) fn check(status: ort::sys::OrtStatusPtr) -> std::result::Result<(), String> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null status is ours to read and to release, once.
    unsafe {
        let message = std::ffi::CStr::from_ptr((ort::api().GetErrorMessage)(status.0));
        // An error is one line of a log and of a response.
        let message = message.to_string_lossy().split_whitespace().collect::<Vec<_>>().join(" ");
        (ort::api().ReleaseStatus)(status.0);
        Err(message)
    }
}
