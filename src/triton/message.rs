//! JSON documents exchanged with the host.

use std::{ffi::c_char, ptr, slice};

use serde_json::Value;

use super::{
    error::{check, report},
    sys,
};
use crate::error::{Error, Result};

/// A message that is ours to delete.
pub(super) struct Message(*mut sys::TRITONSERVER_Message);

impl Message {
    pub(super) fn new(json: &Value) -> Result<Self> {
        let text = json.to_string();
        let mut raw = ptr::null_mut();
        // SAFETY: the text is copied during the call.
        check(unsafe {
            sys::TRITONSERVER_MessageNewFromSerializedJson(
                &mut raw,
                text.as_ptr().cast::<c_char>(),
                text.len(),
            )
        })?;
        Ok(Self(raw))
    }

    /// # Safety
    /// `raw` is a valid message that nobody else deletes.
    pub(super) unsafe fn from_raw(raw: *mut sys::TRITONSERVER_Message) -> Self {
        Self(raw)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::TRITONSERVER_Message {
        self.0
    }

    pub(super) fn json(&self) -> Result<Value> {
        // SAFETY: the message is valid while self lives.
        unsafe { parse(self.0) }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: owned, and not used after this.
        report("a message cannot be deleted", unsafe { sys::TRITONSERVER_MessageDelete(self.0) });
    }
}

/// Reads a message that stays with whoever owns it.
///
/// # Safety
/// `raw` is a valid message for the call.
pub(super) unsafe fn parse(raw: *mut sys::TRITONSERVER_Message) -> Result<Value> {
    let mut base = ptr::null();
    let mut byte_size = 0;
    // SAFETY: promised by the caller.
    check(unsafe { sys::TRITONSERVER_MessageSerializeToJson(raw, &mut base, &mut byte_size) })?;
    let bytes = if base.is_null() {
        &[]
    } else {
        // SAFETY: the host gave `byte_size` bytes at `base`, which live as long as the message.
        unsafe { slice::from_raw_parts(base.cast::<u8>(), byte_size) }
    };
    serde_json::from_slice(bytes)
        .map_err(|error| Error::internal(format!("the server sent a message that is not JSON: {error}")))
}
