//! Where this plugin lies on disk.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

use crate::error::{Error, Result};

/// Path of the shared library that holds this very function: the plugin, or the program it is linked into.
pub fn plugin_path() -> Result<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let address = plugin_path as fn() -> Result<PathBuf> as *const libc::c_void;
    // SAFETY: `info` is valid for writing; an all-zero Dl_info is a valid value should the call fail.
    let (found, info) = unsafe { (libc::dladdr(address, info.as_mut_ptr()), info.assume_init()) };
    if found == 0 || info.dli_fname.is_null() {
        return Err(Error::internal(
            "the plugin's own path cannot be found; set the configuration key `runtime_library`",
        ));
    }
    // SAFETY: dladdr gave a NUL-terminated name that lives as long as the library is loaded.
    let name = unsafe { std::ffi::CStr::from_ptr(info.dli_fname) };
    Ok(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}
