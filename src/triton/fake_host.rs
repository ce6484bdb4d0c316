//! The server's side of the C API, as far as requests and responses go: it records what it is told, in order,
//! and counts what is alive. Each test has its own, because each runs on its own thread.

use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char, c_void},
    ptr,
};

use super::{ResponseStream, accept, sys::*};

/// What the plugin told the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A response: outputs as name, shape and data, or an error's code and message.
    Sent { outputs: Vec<(String, Vec<i64>, Vec<u8>)>, error: Option<(u32, String)>, is_final: bool },
    /// FINAL without a response.
    Final,
    /// The request was released.
    Released,
    /// The factory was deleted.
    FactoryDeleted,
}

/// One input of a request, in as many buffers as it has.
#[derive(Clone)]
pub struct FakeInput {
    pub name: &'static CStr,
    pub data_type: TRITONSERVER_DataType,
    pub shape: Vec<i64>,
    pub byte_size: u64,
    /// None is a buffer at null.
    pub buffers: Vec<Option<Vec<u8>>>,
    pub memory: TRITONSERVER_MemoryType,
}

#[derive(Default)]
struct Host {
    events: Vec<Event>,
    /// Errors and responses that nobody has deleted.
    alive: usize,
    cancelled: bool,
    /// An output that the configuration does not know.
    refused_output: Option<&'static str>,
    inputs: Vec<FakeInput>,
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::default();
}

fn with<T>(act: impl FnOnce(&mut Host) -> T) -> T {
    HOST.with_borrow_mut(act)
}

/// A request with these inputs.
pub fn request(inputs: Vec<FakeInput>) -> *mut TRITONBACKEND_Request {
    with(|host| host.inputs = inputs);
    ptr::without_provenance_mut(8)
}

/// The stream of a request that has been read and released.
pub fn stream() -> ResponseStream {
    let (request, stream) = unsafe { accept(request(Vec::new())) }.unwrap();
    drop(request);
    assert_eq!(events(), [Event::Released]);
    stream
}

/// What has happened since the last call.
pub fn events() -> Vec<Event> {
    with(|host| std::mem::take(&mut host.events))
}

/// Errors and responses that were made and not given back.
pub fn alive() -> usize {
    with(|host| host.alive)
}

pub fn cancel() {
    with(|host| host.cancelled = true);
}

pub fn refuse_output(name: &'static str) {
    with(|host| host.refused_output = Some(name));
}

struct FakeError {
    code: TRITONSERVER_Error_Code,
    message: CString,
}

#[derive(Default)]
struct FakeResponse {
    /// Boxed, because the plugin holds pointers to them while more are added.
    #[allow(clippy::vec_box)]
    outputs: Vec<Box<FakeOutput>>,
}

struct FakeOutput {
    name: String,
    shape: Vec<i64>,
    data: Vec<u8>,
}

fn error(code: TRITONSERVER_Error_Code, message: &CStr) -> *mut TRITONSERVER_Error {
    with(|host| host.alive += 1);
    Box::into_raw(Box::new(FakeError { code, message: message.to_owned() })).cast()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONSERVER_ErrorNew(
    code: TRITONSERVER_Error_Code,
    message: *const c_char,
) -> *mut TRITONSERVER_Error {
    error(code, unsafe { CStr::from_ptr(message) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONSERVER_ErrorDelete(error: *mut TRITONSERVER_Error) {
    with(|host| host.alive -= 1);
    drop(unsafe { Box::from_raw(error.cast::<FakeError>()) });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONSERVER_ErrorCode(error: *mut TRITONSERVER_Error) -> TRITONSERVER_Error_Code {
    unsafe { (*error.cast::<FakeError>()).code }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONSERVER_ErrorMessage(error: *mut TRITONSERVER_Error) -> *const c_char {
    unsafe { (*error.cast::<FakeError>()).message.as_ptr() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_RequestRelease(
    _: *mut TRITONBACKEND_Request,
    flags: u32,
) -> *mut TRITONSERVER_Error {
    assert_eq!(flags, TRITONSERVER_REQUEST_RELEASE_ALL);
    with(|host| host.events.push(Event::Released));
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_InferenceRequestTimeoutMicroseconds(
    _: *mut TRITONBACKEND_Request,
    timeout: *mut u64,
) -> *mut TRITONSERVER_Error {
    unsafe { *timeout = 5 };
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_RequestParameterCount(
    _: *mut TRITONBACKEND_Request,
    count: *mut u32,
) -> *mut TRITONSERVER_Error {
    unsafe { *count = 4 };
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_RequestParameter(
    _: *mut TRITONBACKEND_Request,
    index: u32,
    key: *mut *const c_char,
    kind: *mut TRITONSERVER_ParameterType,
    value: *mut *const c_void,
) -> *mut TRITONSERVER_Error {
    use TRITONSERVER_ParameterType as Kind;
    static INT: i64 = -7;
    static BOOL: bool = true;
    static DOUBLE: f64 = 0.5;
    let (name, of, at) = match index {
        0 => (c"text", Kind::TRITONSERVER_PARAMETER_STRING, c"value".as_ptr().cast::<c_void>()),
        1 => (c"int", Kind::TRITONSERVER_PARAMETER_INT, ptr::from_ref(&INT).cast()),
        2 => (c"bool", Kind::TRITONSERVER_PARAMETER_BOOL, ptr::from_ref(&BOOL).cast()),
        _ => (c"double", Kind::TRITONSERVER_PARAMETER_DOUBLE, ptr::from_ref(&DOUBLE).cast()),
    };
    unsafe { (*key, *kind, *value) = (name.as_ptr(), of, at) };
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_RequestOutputCount(
    _: *mut TRITONBACKEND_Request,
    count: *mut u32,
) -> *mut TRITONSERVER_Error {
    unsafe { *count = 1 };
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_RequestOutputName(
    _: *mut TRITONBACKEND_Request,
    _: u32,
    name: *mut *const c_char,
) -> *mut TRITONSERVER_Error {
    unsafe { *name = c"text_output".as_ptr() };
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_RequestInputCount(
    _: *mut TRITONBACKEND_Request,
    count: *mut u32,
) -> *mut TRITONSERVER_Error {
    unsafe { *count = with(|host| host.inputs.len()) as u32 };
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_RequestInputByIndex(
    _: *mut TRITONBACKEND_Request,
    index: u32,
    input: *mut *mut TRITONBACKEND_Input,
) -> *mut TRITONSERVER_Error {
    unsafe { *input = with(|host| ptr::from_mut(&mut host.inputs[index as usize]).cast()) };
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_InputProperties(
    input: *mut TRITONBACKEND_Input,
    name: *mut *const c_char,
    data_type: *mut TRITONSERVER_DataType,
    shape: *mut *const i64,
    dims: *mut u32,
    byte_size: *mut u64,
    buffers: *mut u32,
) -> *mut TRITONSERVER_Error {
    unsafe {
        let input = &*input.cast::<FakeInput>();
        *name = input.name.as_ptr();
        *data_type = input.data_type;
        *shape = input.shape.as_ptr();
        *dims = input.shape.len() as u32;
        *byte_size = input.byte_size;
        *buffers = input.buffers.len() as u32;
    }
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_InputBuffer(
    input: *mut TRITONBACKEND_Input,
    index: u32,
    base: *mut *const c_void,
    length: *mut u64,
    memory: *mut TRITONSERVER_MemoryType,
    device: *mut i64,
) -> *mut TRITONSERVER_Error {
    unsafe {
        let input = &*input.cast::<FakeInput>();
        *memory = input.memory;
        *device = 3;
        (*base, *length) = match &input.buffers[index as usize] {
            Some(buffer) => (buffer.as_ptr().cast(), buffer.len() as u64),
            None => (ptr::null(), 0),
        };
    }
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_ResponseFactoryNew(
    factory: *mut *mut TRITONBACKEND_ResponseFactory,
    _: *mut TRITONBACKEND_Request,
) -> *mut TRITONSERVER_Error {
    unsafe { *factory = ptr::without_provenance_mut(8) };
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_ResponseFactoryDelete(
    _: *mut TRITONBACKEND_ResponseFactory,
) -> *mut TRITONSERVER_Error {
    with(|host| host.events.push(Event::FactoryDeleted));
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_ResponseFactoryIsCancelled(
    _: *mut TRITONBACKEND_ResponseFactory,
    cancelled: *mut bool,
) -> *mut TRITONSERVER_Error {
    unsafe { *cancelled = with(|host| host.cancelled) };
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_ResponseFactorySendFlags(
    _: *mut TRITONBACKEND_ResponseFactory,
    flags: u32,
) -> *mut TRITONSERVER_Error {
    assert_eq!(flags, TRITONSERVER_RESPONSE_COMPLETE_FINAL);
    with(|host| host.events.push(Event::Final));
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_ResponseNewFromFactory(
    response: *mut *mut TRITONBACKEND_Response,
    _: *mut TRITONBACKEND_ResponseFactory,
) -> *mut TRITONSERVER_Error {
    with(|host| host.alive += 1);
    unsafe { *response = Box::into_raw(Box::<FakeResponse>::default()).cast() };
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_ResponseDelete(
    response: *mut TRITONBACKEND_Response,
) -> *mut TRITONSERVER_Error {
    with(|host| host.alive -= 1);
    drop(unsafe { Box::from_raw(response.cast::<FakeResponse>()) });
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_ResponseOutput(
    response: *mut TRITONBACKEND_Response,
    output: *mut *mut TRITONBACKEND_Output,
    name: *const c_char,
    _: TRITONSERVER_DataType,
    shape: *const i64,
    dims: u32,
) -> *mut TRITONSERVER_Error {
    let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned();
    if with(|host| host.refused_output == Some(&name)) {
        return error(TRITONSERVER_Error_Code::TRITONSERVER_ERROR_INVALID_ARG, c"unexpected output");
    }
    unsafe {
        let shape = std::slice::from_raw_parts(shape, dims as usize).to_vec();
        let outputs = &mut (*response.cast::<FakeResponse>()).outputs;
        outputs.push(Box::new(FakeOutput { name, shape, data: Vec::new() }));
        *output = ptr::from_mut(outputs.last_mut().unwrap().as_mut()).cast();
    }
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_OutputBuffer(
    output: *mut TRITONBACKEND_Output,
    buffer: *mut *mut c_void,
    bytes: u64,
    _: *mut TRITONSERVER_MemoryType,
    _: *mut i64,
) -> *mut TRITONSERVER_Error {
    unsafe {
        let data = &mut (*output.cast::<FakeOutput>()).data;
        data.resize(bytes as usize, 0);
        // The server gives null for an empty buffer.
        *buffer = if bytes == 0 { ptr::null_mut() } else { data.as_mut_ptr().cast() };
    }
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn TRITONBACKEND_ResponseSend(
    response: *mut TRITONBACKEND_Response,
    flags: u32,
    error: *mut TRITONSERVER_Error,
) -> *mut TRITONSERVER_Error {
    let response = unsafe { Box::from_raw(response.cast::<FakeResponse>()) };
    let outputs =
        response.outputs.into_iter().map(|output| (output.name, output.shape, output.data)).collect();
    let error = unsafe { error.cast::<FakeError>().as_ref() }
        .map(|error| (error.code.0, error.message.to_str().unwrap().to_owned()));
    let is_final = flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL;
    with(|host| {
        host.alive -= 1;
        host.events.push(Event::Sent { outputs, error, is_final });
    });
    ptr::null_mut()
}
