//! The answers to one request, up to exactly one FINAL.

use std::{ptr, slice, sync::Arc};

use super::{
    OutputTensor,
    error::{HostError, check, report},
    strings::to_host,
    sys,
};
use crate::error::{Error, Result};

/// The host's factory of responses; the last owner deletes it, which is the end of the request.
struct Factory(*mut sys::TRITONBACKEND_ResponseFactory);

// SAFETY: the host's factory is a shared pointer behind a pointer; its functions may be called from any thread.
unsafe impl Send for Factory {}
// SAFETY: as above: asking whether the request is cancelled reads an atomic, and sending is for the one owner
// of the stream.
unsafe impl Sync for Factory {}

impl Drop for Factory {
    fn drop(&mut self) {
        // SAFETY: the only deletion, by the last owner.
        report("a response factory cannot be deleted", unsafe {
            sys::TRITONBACKEND_ResponseFactoryDelete(self.0)
        });
    }
}

/// Answers one request: any number of responses, then `finish` or `fail`, which consume it.
/// Dropped before that, it answers an error itself, so that the client never waits for ever.
pub struct ResponseStream {
    factory: Arc<Factory>,
    /// Whether a response has been sent: a request must get at least one.
    answered: bool,
    /// Whether FINAL has been sent.
    finished: bool,
}

/// Asks whether the client has given a request up; cheap, and from any thread.
#[derive(Clone)]
pub struct CancelProbe(Arc<Factory>);

impl CancelProbe {
    /// True once the client has given the request up.
    pub fn is_cancelled(&self) -> bool {
        let mut cancelled = false;
        // SAFETY: the factory lives as long as self.
        let asked = check(unsafe { sys::TRITONBACKEND_ResponseFactoryIsCancelled(self.0.0, &mut cancelled) });
        asked.is_ok() && cancelled
    }
}

/// Whether a response is the last of its request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Inner,
    Last,
}

impl Position {
    fn flags(self) -> u32 {
        match self {
            Position::Inner => 0,
            Position::Last => sys::TRITONSERVER_RESPONSE_COMPLETE_FINAL,
        }
    }
}

impl ResponseStream {
    /// # Safety
    /// `request` is valid and has no stream yet.
    pub(super) unsafe fn new(request: *mut sys::TRITONBACKEND_Request) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the request is valid; the factory is ours to delete.
        check(unsafe { sys::TRITONBACKEND_ResponseFactoryNew(&mut raw, request) })?;
        Ok(Self { factory: Arc::new(Factory(raw)), answered: false, finished: false })
    }

    /// A way to ask for cancellation that another thread may keep.
    pub fn cancel_probe(&self) -> CancelProbe {
        CancelProbe(self.factory.clone())
    }

    /// Sends a response that is not the last.
    pub fn send(&mut self, outputs: &[OutputTensor]) -> Result<()> {
        self.send_response(outputs, Position::Inner)
    }

    /// Sends the last response. When it cannot be built, the reason is sent in its place.
    pub fn finish(mut self, outputs: &[OutputTensor]) {
        if let Err(error) = self.send_response(outputs, Position::Last) {
            self.fail(&error);
        }
    }

    /// Ends the stream after its last response; a stream without any response ends with an empty one.
    pub fn finish_empty(mut self) {
        if !self.answered {
            return self.finish(&[]);
        }
        self.finished = true;
        // SAFETY: the factory is valid, and FINAL has not been sent.
        report("FINAL was not sent", unsafe {
            sys::TRITONBACKEND_ResponseFactorySendFlags(self.factory.0, Position::Last.flags())
        });
    }

    /// Ends the stream with an error.
    pub fn fail(mut self, error: &Error) {
        self.send_error(error);
    }

    fn send_error(&mut self, error: &Error) {
        self.finished = true;
        let sent = Response::new(&self.factory)
            .and_then(|response| response.send(Position::Last, Some(&HostError::new(error))));
        if let Err(reason) = sent {
            log::error!("an error could not be sent ({reason}): {error}");
        }
    }

    fn send_response(&mut self, outputs: &[OutputTensor], position: Position) -> Result<()> {
        let response = Response::new(&self.factory)?;
        for output in outputs {
            response.add(output)?;
        }
        self.answered = true;
        self.finished |= position == Position::Last;
        // A send that fails has still consumed the response and its flags; another FINAL would be the second.
        if let Err(error) = response.send(position, None) {
            log::error!("a response was not sent: {error}");
        }
        Ok(())
    }
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        if !self.finished {
            self.send_error(&Error::internal(
                "the request was dropped without an answer; this is a defect of the textgen backend",
            ));
        }
    }
}

/// A response that has not been sent; dropped, it is deleted.
struct Response(*mut sys::TRITONBACKEND_Response);

impl Response {
    fn new(factory: &Factory) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the factory is valid; the response is ours until it is sent.
        check(unsafe { sys::TRITONBACKEND_ResponseNewFromFactory(&mut raw, factory.0) })?;
        Ok(Self(raw))
    }

    fn add(&self, tensor: &OutputTensor) -> Result<()> {
        let name = to_host(tensor.name());
        let shape = tensor.shape();
        let bytes = tensor.data().len();
        let mut output = ptr::null_mut();
        let mut buffer = ptr::null_mut();
        let mut memory = sys::TRITONSERVER_MemoryType::TRITONSERVER_MEMORY_CPU;
        let mut device = 0;
        // SAFETY: the response is valid; name and shape are copied during the call, and the output belongs to
        // the response.
        unsafe {
            check(sys::TRITONBACKEND_ResponseOutput(
                self.0,
                &mut output,
                name.as_ptr(),
                tensor.host_type(),
                shape.as_ptr(),
                shape.len() as u32,
            ))?;
            check(sys::TRITONBACKEND_OutputBuffer(
                output,
                &mut buffer,
                bytes as u64,
                &mut memory,
                &mut device,
            ))?;
        }
        if memory == sys::TRITONSERVER_MemoryType::TRITONSERVER_MEMORY_GPU {
            return Err(Error::unsupported(format!(
                "output `{}` is wanted in the memory of GPU {device}; ask for it in system memory",
                tensor.name()
            )));
        }
        if bytes > 0 {
            if buffer.is_null() {
                return Err(Error::internal(format!(
                    "output `{}`: the server gave no memory",
                    tensor.name()
                )));
            }
            // SAFETY: the host gave `bytes` writable bytes of system memory for this output alone.
            unsafe { slice::from_raw_parts_mut(buffer.cast::<u8>(), bytes) }.copy_from_slice(tensor.data());
        }
        Ok(())
    }

    /// Sends the response; the host consumes it in every case, the error never.
    fn send(self, position: Position, error: Option<&HostError>) -> Result<()> {
        let raw = self.0;
        std::mem::forget(self);
        // SAFETY: the response is valid and given away here; the error lives for the call.
        check(unsafe {
            sys::TRITONBACKEND_ResponseSend(
                raw,
                position.flags(),
                error.map_or(ptr::null_mut(), HostError::as_ptr),
            )
        })
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        // SAFETY: not sent, so it is ours to delete.
        report("a response cannot be deleted", unsafe { sys::TRITONBACKEND_ResponseDelete(self.0) });
    }
}
