//! A model instance as the host sees it.

use std::ptr;

use super::{
    Model, Request,
    error::check,
    monotonic_ns,
    state::{HoldsState, Slot},
    strings::from_host,
    sys,
};
use crate::error::Result;

/// Borrowed for one call of the host.
pub struct Instance(*mut sys::TRITONBACKEND_ModelInstance);

/// Where an instance is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceKind {
    /// On the CPU.
    Cpu,
    /// On a GPU.
    Gpu {
        /// Which one.
        device: i32,
    },
    /// Wherever the backend likes.
    Any,
}

/// Points of the monotonic clock within one Execute, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// Execute was called.
    pub start: u64,
    /// The request has been read and checked.
    pub read: u64,
}

impl Instance {
    /// Wraps the host's pointer.
    ///
    /// # Safety
    /// `raw` is valid for the life of the handle.
    pub unsafe fn from_raw(raw: *mut sys::TRITONBACKEND_ModelInstance) -> Self {
        Self(raw)
    }

    /// Its name, unique within the model.
    pub fn name(&self) -> Result<String> {
        let mut name = ptr::null();
        // SAFETY: the instance is valid; the name lives as long as it.
        unsafe {
            check(sys::TRITONBACKEND_ModelInstanceName(self.0, &mut name))?;
            Ok(from_host(name))
        }
    }

    /// Where it is to run.
    pub fn kind(&self) -> Result<InstanceKind> {
        use sys::TRITONSERVER_InstanceGroupKind as Kind;
        let mut kind = Kind::TRITONSERVER_INSTANCEGROUPKIND_AUTO;
        // SAFETY: the instance is valid.
        check(unsafe { sys::TRITONBACKEND_ModelInstanceKind(self.0, &mut kind) })?;
        Ok(match kind {
            Kind::TRITONSERVER_INSTANCEGROUPKIND_CPU => InstanceKind::Cpu,
            Kind::TRITONSERVER_INSTANCEGROUPKIND_GPU => {
                let mut device = 0;
                // SAFETY: the instance is valid.
                check(unsafe { sys::TRITONBACKEND_ModelInstanceDeviceId(self.0, &mut device) })?;
                InstanceKind::Gpu { device }
            }
            _ => InstanceKind::Any,
        })
    }

    /// The model it belongs to.
    pub fn model(&self) -> Result<Model> {
        let mut raw = ptr::null_mut();
        // SAFETY: the instance is valid, and its model outlives it.
        unsafe {
            check(sys::TRITONBACKEND_ModelInstanceModel(self.0, &mut raw))?;
            Ok(Model::from_raw(raw))
        }
    }

    /// Reports one request to the server's statistics and releases it: the report must come first, and nothing
    /// of the request may be used after.
    pub fn report_and_release(&self, request: Request, success: bool, timings: Timings) {
        let end = monotonic_ns();
        // SAFETY: the instance is valid, and the request is until it is dropped below.
        let reported = check(unsafe {
            sys::TRITONBACKEND_ModelInstanceReportStatistics(
                self.0,
                request.as_ptr(),
                success,
                timings.start,
                timings.read,
                end,
                end,
            )
        });
        if let Err(error) = reported {
            log::debug!("the statistics of a request were not taken: {error}");
        }
    }

    /// Reports one call of Execute with `requests` requests to the server's statistics.
    pub fn report_batch(&self, requests: usize, timings: Timings) {
        let end = monotonic_ns();
        // SAFETY: the instance is valid.
        let reported = check(unsafe {
            sys::TRITONBACKEND_ModelInstanceReportBatchStatistics(
                self.0,
                requests as u64,
                timings.start,
                timings.read,
                end,
                end,
            )
        });
        if let Err(error) = reported {
            log::debug!("the statistics of a batch were not taken: {error}");
        }
    }
}

impl HoldsState for Instance {
    type Object = sys::TRITONBACKEND_ModelInstance;

    fn slot(&self) -> Slot<Self::Object> {
        Slot {
            handle: self.0,
            read: sys::TRITONBACKEND_ModelInstanceState,
            write: sys::TRITONBACKEND_ModelInstanceSetState,
        }
    }
}
