//! Shared libraries that are opened by name and stay open.

use std::{
    ffi::{CStr, CString, c_void},
    path::Path,
    ptr::NonNull,
};

/// A library that is never closed: what comes after wants it as well, and the driver's must not be.
pub(in crate::model) struct Library(NonNull<c_void>);

impl Library {
    /// Looks where the dynamic linker looks, unless `name` is a path. The error is the linker's.
    pub fn open(name: &Path) -> Result<Self, String> {
        let name = CString::new(name.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: the name is NUL-terminated. The library's initialisers run, as they would when ONNX Runtime opens it.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        NonNull::new(handle).map(Self).ok_or_else(last_error)
    }

    /// Address of an exported function.
    pub fn symbol(&self, name: &CStr) -> Result<NonNull<c_void>, String> {
        // SAFETY: the handle is open and stays so.
        let address = unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) };
        NonNull::new(address).ok_or_else(last_error)
    }
}

fn last_error() -> String {
    // SAFETY: dlerror gives null or a NUL-terminated text of this thread, which is copied before another call.
    unsafe {
        let message = libc::dlerror();
        if message.is_null() {
            return "no reason given".to_owned();
        }
        CStr::from_ptr(message).to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_opens_by_name_and_what_is_missing_is_said() {
        let library = Library::open(Path::new("libc.so.6")).unwrap();
        assert!(library.symbol(c"getpid").is_ok());
        assert!(library.symbol(c"no_such_function").is_err());
        let error = Library::open(Path::new("libnosuch.so.1")).err().unwrap();
        assert!(error.contains("libnosuch.so.1"), "{error}");
    }
}
