//! What the driver of the GPUs says: its version, the devices, their memory.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::Path,
    ptr,
};

use super::library::Library;

/// The name by which the driver's library is known to everything that uses CUDA.
pub(super) const DRIVER_LIBRARY: &str = "libcuda.so.1";

/// What a machine's driver knows of its GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DriverReport {
    /// Newest version of CUDA that the driver can run, as 1000 · major + 10 · minor.
    pub cuda_version: i32,
    /// Number of GPUs that this process can see.
    pub gpus: i32,
    /// The one that was asked for, if there is one.
    pub gpu: Option<GpuReport>,
}

/// What the driver says of one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GpuReport {
    /// As it is sold.
    pub name: String,
    /// Compute capability: major, minor.
    pub capability: (i32, i32),
    /// Bytes of its memory that nobody uses, and all.
    pub free_bytes: usize,
    pub total_bytes: usize,
}

/// A result of the driver; 0 is success.
type Status = c_int;
type Context = *mut c_void;

const SUCCESS: Status = 0;
const NO_DEVICE: Status = 100;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

/// Calls `$name`, whose declaration is `$type`, and says which call failed.
macro_rules! call {
    ($library:expr, $name:literal, $type:ty, ($($argument:expr),*)) => {{
        let function = $library.symbol($name)?;
        // SAFETY: the driver's interface declares this function so and has not changed it since; the arguments are
        // plain numbers, or pointers to memory that lives through the call.
        let status = unsafe {
            let function: $type = std::mem::transmute::<*mut c_void, $type>(function.as_ptr());
            function($($argument),*)
        };
        (status, $name)
    }};
}

/// Asks the driver in `library` about its GPUs, and about `device` in particular.
pub(super) fn report(library: &Path, device: i32) -> Result<DriverReport, String> {
    let library = Library::open(library)?;
    let mut cuda_version = 0;
    checked(
        &library,
        call!(
            library,
            c"cuDriverGetVersion",
            unsafe extern "C" fn(*mut c_int) -> Status,
            (&mut cuda_version)
        ),
    )?;
    let initialised = call!(library, c"cuInit", unsafe extern "C" fn(c_uint) -> Status, (0));
    // No device is no failure: whoever asks says it better.
    if initialised.0 == NO_DEVICE {
        return Ok(DriverReport { cuda_version, gpus: 0, gpu: None });
    }
    checked(&library, initialised)?;
    let mut gpus = 0;
    checked(
        &library,
        call!(library, c"cuDeviceGetCount", unsafe extern "C" fn(*mut c_int) -> Status, (&mut gpus)),
    )?;
    let gpu = if (0..gpus).contains(&device) { Some(gpu(&library, device)?) } else { None };
    Ok(DriverReport { cuda_version, gpus, gpu })
}

fn gpu(library: &Library, ordinal: c_int) -> Result<GpuReport, String> {
    let mut device: c_int = 0;
    checked(
        library,
        call!(
            library,
            c"cuDeviceGet",
            unsafe extern "C" fn(*mut c_int, c_int) -> Status,
            (&mut device, ordinal)
        ),
    )?;
    let mut name: [c_char; 256] = [0; 256];
    checked(
        library,
        call!(
            library,
            c"cuDeviceGetName",
            unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status,
            (name.as_mut_ptr(), name.len() as c_int - 1, device)
        ),
    )?;
    // SAFETY: the last byte was kept from the driver, so that there is a NUL.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let attribute = |which: c_int| -> Result<c_int, String> {
        let mut value = 0;
        checked(
            library,
            call!(
                library,
                c"cuDeviceGetAttribute",
                unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Status,
                (&mut value, which, device)
            ),
        )?;
        Ok(value)
    };
    let capability = (attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?);
    let (free_bytes, total_bytes) = memory(library, device)?;
    Ok(GpuReport { name, capability, free_bytes, total_bytes })
}

/// Free and all bytes of a GPU's memory. The driver tells them within a context only: the one that the CUDA runtime
/// uses too.
fn memory(library: &Library, device: c_int) -> Result<(usize, usize), String> {
    let mut context: Context = ptr::null_mut();
    checked(
        library,
        call!(
            library,
            c"cuDevicePrimaryCtxRetain",
            unsafe extern "C" fn(*mut Context, c_int) -> Status,
            (&mut context, device)
        ),
    )?;
    let asked = within(library, context);
    let released =
        call!(library, c"cuDevicePrimaryCtxRelease_v2", unsafe extern "C" fn(c_int) -> Status, (device));
    let memory = asked?;
    checked(library, released)?;
    Ok(memory)
}

fn within(library: &Library, context: Context) -> Result<(usize, usize), String> {
    checked(
        library,
        call!(library, c"cuCtxPushCurrent_v2", unsafe extern "C" fn(Context) -> Status, (context)),
    )?;
    let (mut free, mut total) = (0_usize, 0_usize);
    let asked = call!(
        library,
        c"cuMemGetInfo_v2",
        unsafe extern "C" fn(*mut usize, *mut usize) -> Status,
        (&mut free, &mut total)
    );
    let mut popped: Context = ptr::null_mut();
    let left =
        call!(library, c"cuCtxPopCurrent_v2", unsafe extern "C" fn(*mut Context) -> Status, (&mut popped));
    checked(library, asked)?;
    checked(library, left)?;
    Ok((free, total))
}

/// Turns the status of a call into a result, in the driver's own words.
fn checked(library: &Library, (status, function): (Status, &CStr)) -> Result<(), String> {
    if status == SUCCESS {
        return Ok(());
    }
    let mut text: *const c_char = ptr::null();
    let (said, _) = call!(
        library,
        c"cuGetErrorString",
        unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
        (status, &mut text)
    );
    let text = if said == SUCCESS && !text.is_null() {
        // SAFETY: the driver's texts are NUL-terminated and live as long as its library.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    } else {
        "unknown error".to_owned()
    };
    Err(format!("{} failed with {status}: {text}", function.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
        process::Command,
    };

    use super::*;

    /// A driver of the interface's functions alone: two GPUs, of which the second fails to give a context.
    const DRIVER: &str = r#"
        #include <stddef.h>
        #include <string.h>
        static int depth = 0;
        int cuDriverGetVersion(int* version) { *version = 13010; return 0; }
        int cuInit(unsigned flags) { return INIT; }
        int cuDeviceGetCount(int* count) { *count = 2; return 0; }
        int cuDeviceGet(int* device, int ordinal) { *device = ordinal + 40; return 0; }
        int cuDeviceGetName(char* name, int length, int device) { strncpy(name, "Stub 40", length); return device == 40 || device == 41 ? 0 : 101; }
        int cuDeviceGetAttribute(int* value, int attribute, int device) {
          *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1; return 0;
        }
        int cuDevicePrimaryCtxRetain(void** context, int device) { *context = &depth; return device == 40 ? 0 : 2; }
        int cuDevicePrimaryCtxRelease_v2(int device) { return depth == 0 ? 0 : 201; }
        int cuCtxPushCurrent_v2(void* context) { ++*(int*)context; return 0; }
        int cuCtxPopCurrent_v2(void** context) { *context = &depth; --depth; return 0; }
        int cuMemGetInfo_v2(size_t* free, size_t* total) {
          if (depth != 1) return 201;
          *free = 3; *total = (size_t)5 << 32; return 0;
        }
        int cuGetErrorString(int status, const char** text) { *text = status == 2 ? "out of memory" : "other"; return 0; }
    "#;

    fn driver(folder: &Path, init: i32) -> PathBuf {
        let (source, library) = (folder.join("driver.c"), folder.join(format!("driver{init}.so")));
        fs::write(&source, DRIVER).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", &format!("-DINIT={init}"), "-o"])
            .args([&library, &source])
            .status();
        assert!(built.unwrap().success());
        library
    }

    #[test]
    fn what_the_driver_says_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let library = driver(folder.path(), 0);
        let gpu =
            GpuReport { name: "Stub 40".into(), capability: (8, 9), free_bytes: 3, total_bytes: 5 << 32 };
        let expected = DriverReport { cuda_version: 13010, gpus: 2, gpu: Some(gpu) };
        assert_eq!(report(&library, 0), Ok(expected.clone()));
        assert_eq!(report(&library, 2), Ok(DriverReport { gpu: None, ..expected }));
        let error = report(&library, 1).unwrap_err();
        assert!(error.contains("cuDevicePrimaryCtxRetain") && error.contains("out of memory"), "{error}");
    }

    #[test]
    fn a_driver_without_a_device_is_told_from_one_that_fails() {
        let folder = tempfile::tempdir().unwrap();
        let none = DriverReport { cuda_version: 13010, gpus: 0, gpu: None };
        assert_eq!(report(&driver(folder.path(), NO_DEVICE), 0), Ok(none));
        let error = report(&driver(folder.path(), 999), 0).unwrap_err();
        assert!(error.contains("cuInit failed with 999: other"), "{error}");
        // A library that is no driver.
        assert!(report(Path::new("libc.so.6"), 0).unwrap_err().contains("cuDriverGetVersion"));
    }
}
