//! The backend as the host sees it: one for the process.

use std::ptr;

use serde_json::Value;

use super::{
    error::check,
    message,
    state::{HoldsState, Slot},
    sys,
};
use crate::error::{Error, Result};

/// Borrowed for one call of the host.
pub struct Backend(*mut sys::TRITONBACKEND_Backend);

impl Backend {
    /// Wraps the host's pointer.
    ///
    /// # Safety
    /// `raw` is valid for the life of the handle.
    pub unsafe fn from_raw(raw: *mut sys::TRITONBACKEND_Backend) -> Self {
        Self(raw)
    }

    /// Refuses a server whose API is older than the declarations this plugin was built with.
    pub fn check_api_version(&self) -> Result<()> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two integers.
        check(unsafe { sys::TRITONBACKEND_ApiVersion(&mut major, &mut minor) })?;
        let (want_major, want_minor) =
            (sys::TRITONBACKEND_API_VERSION_MAJOR, sys::TRITONBACKEND_API_VERSION_MINOR);
        if major != want_major || minor < want_minor {
            return Err(Error::unsupported(format!(
                "the server's backend API is {major}.{minor}, expected {want_major}.{want_minor} or a later \
                 {want_major}.x; use Triton 2.51 (release 24.10) or newer"
            )));
        }
        Ok(())
    }

    /// The configuration of the backend; `--backend-config` pairs are in its `cmdline`.
    pub fn config(&self) -> Result<Value> {
        let mut raw = ptr::null_mut();
        // SAFETY: the backend is valid; the message stays the host's.
        unsafe {
            check(sys::TRITONBACKEND_BackendConfig(self.0, &mut raw))?;
            message::parse(raw)
        }
    }
}

/// What the server wants to know of the backend before it places a model; borrowed for one call of the host.
pub struct Attributes(*mut sys::TRITONBACKEND_BackendAttribute);

impl Attributes {
    /// Wraps the host's pointer.
    ///
    /// # Safety
    /// `raw` is valid for the life of the handle.
    pub unsafe fn from_raw(raw: *mut sys::TRITONBACKEND_BackendAttribute) -> Self {
        Self(raw)
    }

    /// Makes one instance on the CPU of every model whose configuration has no `instance_group`. The server's own
    /// choice would be each GPU that it sees.
    pub fn prefer_cpu(&self) -> Result<()> {
        let kind = sys::TRITONSERVER_InstanceGroupKind::TRITONSERVER_INSTANCEGROUPKIND_CPU;
        // SAFETY: the attributes are valid; no device is listed, and a count of 0 leaves the number to the server.
        check(unsafe {
            sys::TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(self.0, kind, 0, ptr::null(), 0)
        })
    }
}

impl HoldsState for Backend {
    type Object = sys::TRITONBACKEND_Backend;

    fn slot(&self) -> Slot<Self::Object> {
        Slot {
            handle: self.0,
            read: sys::TRITONBACKEND_BackendState,
            write: sys::TRITONBACKEND_BackendSetState,
        }
    }
}
