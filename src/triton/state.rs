//! What the host keeps for us: one pointer on each backend, model and instance.

use std::{any::Any, ffi::c_void, ptr, sync::Arc};

use super::error::{check, report};
use super::sys::TRITONSERVER_Error;
use crate::error::{Error, Result};

/// What the pointer points to: thin, and it knows the type of what it holds.
type Holder = Arc<dyn Any + Send + Sync>;

/// The pointer that the host keeps on one of its objects.
///
/// Every access goes through the holder's own type, so a mix-up of types is an error, never a wrong cast.
pub struct Slot<H> {
    /// The object.
    pub(super) handle: *mut H,
    /// Reads the pointer.
    pub(super) read: unsafe extern "C" fn(*mut H, *mut *mut c_void) -> *mut TRITONSERVER_Error,
    /// Writes the pointer.
    pub(super) write: unsafe extern "C" fn(*mut H, *mut c_void) -> *mut TRITONSERVER_Error,
}

impl<H> Slot<H> {
    fn pointer(&self) -> Result<*mut Holder> {
        let mut pointer = ptr::null_mut();
        // SAFETY: the handle is valid while the typed handle that made this slot lives.
        check(unsafe { (self.read)(self.handle, &mut pointer) })?;
        Ok(pointer.cast())
    }

    /// Stores `state`; there must be none yet.
    fn put<T: Send + Sync + 'static>(&self, state: Arc<T>) -> Result<()> {
        if !self.pointer()?.is_null() {
            return Err(Error::internal("the server initialised the same object twice"));
        }
        let holder: Box<Holder> = Box::new(state);
        let raw = Box::into_raw(holder);
        // SAFETY: as above.
        check(unsafe { (self.write)(self.handle, raw.cast()) }).inspect_err(|_| {
            // SAFETY: the host did not take the pointer, so it is still ours alone.
            drop(unsafe { Box::from_raw(raw) })
        })
    }

    /// The state, if it has been stored.
    fn get<T: Send + Sync + 'static>(&self) -> Result<Arc<T>> {
        // SAFETY: a non-null pointer comes from `put`, and only `take` frees it, in the object's last call.
        let holder = unsafe { self.pointer()?.as_ref() }
            .ok_or_else(|| Error::internal("the server used an object that was not initialised"))?;
        holder
            .clone()
            .downcast()
            .map_err(|_| Error::internal(format!("expected {} on the host's object", type_name::<T>())))
    }

    /// Gives the state up; none where initialisation failed.
    fn take(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        let pointer = self.pointer().inspect_err(|error| log::error!("{error}")).ok()?;
        if pointer.is_null() {
            return None;
        }
        // SAFETY: as in `put`; null is what the host starts with.
        report("the state cannot be taken off an object", unsafe {
            (self.write)(self.handle, ptr::null_mut())
        });
        // SAFETY: it comes from `put`, and the host no longer has it.
        Some(*unsafe { Box::from_raw(pointer) })
    }
}

/// An object of the host that keeps our state for us.
pub trait HoldsState {
    /// The host's type of it.
    type Object;

    /// Where the host keeps the pointer.
    fn slot(&self) -> Slot<Self::Object>;

    /// Stores our state on it.
    fn put_state<T: Send + Sync + 'static>(&self, state: Arc<T>) -> Result<()> {
        self.slot().put(state)
    }

    /// Our state.
    fn state<T: Send + Sync + 'static>(&self) -> Result<Arc<T>> {
        self.slot().get()
    }

    /// Takes our state off it; none where initialisation failed.
    fn take_state(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.slot().take()
    }
}

fn type_name<T>() -> &'static str {
    std::any::type_name::<T>()
}
