//! A model as the host sees it.

use std::{ffi::CString, path::PathBuf, ptr};

use serde_json::Value;

use super::{
    Backend,
    error::check,
    message::Message,
    state::{HoldsState, Slot},
    strings::{from_host, to_host},
    sys,
};
use crate::error::{Error, Result};

/// Version of the model configuration's JSON form.
const CONFIG_VERSION: u32 = 1;

/// Borrowed for one call of the host.
pub struct Model(*mut sys::TRITONBACKEND_Model);

impl Model {
    /// Wraps the host's pointer.
    ///
    /// # Safety
    /// `raw` is valid for the life of the handle.
    pub unsafe fn from_raw(raw: *mut sys::TRITONBACKEND_Model) -> Self {
        Self(raw)
    }

    /// Its name.
    pub fn name(&self) -> Result<String> {
        let mut name = ptr::null();
        // SAFETY: the model is valid; the name lives as long as it.
        unsafe {
            check(sys::TRITONBACKEND_ModelName(self.0, &mut name))?;
            Ok(from_host(name))
        }
    }

    /// Its version.
    pub fn version(&self) -> Result<u64> {
        let mut version = 0;
        // SAFETY: the model is valid.
        check(unsafe { sys::TRITONBACKEND_ModelVersion(self.0, &mut version) })?;
        Ok(version)
    }

    /// Its folder in the repository, which holds the version folders.
    pub fn repository(&self) -> Result<PathBuf> {
        let mut artifact = sys::TRITONBACKEND_ArtifactType::TRITONBACKEND_ARTIFACT_FILESYSTEM;
        let mut location = ptr::null();
        // SAFETY: the model is valid; the path lives as long as it.
        let location = unsafe {
            check(sys::TRITONBACKEND_ModelRepository(self.0, &mut artifact, &mut location))?;
            from_host(location)
        };
        if artifact != sys::TRITONBACKEND_ArtifactType::TRITONBACKEND_ARTIFACT_FILESYSTEM {
            return Err(Error::unsupported("the model's repository is not a folder of the file system"));
        }
        Ok(PathBuf::from(location))
    }

    /// Its configuration.
    pub fn config(&self) -> Result<Value> {
        let mut raw = ptr::null_mut();
        // SAFETY: the model is valid, and this message is ours to delete.
        let message = unsafe {
            check(sys::TRITONBACKEND_ModelConfig(self.0, CONFIG_VERSION, &mut raw))?;
            Message::from_raw(raw)
        };
        message.json()
    }

    /// True when the server wants the configuration completed.
    pub fn wants_auto_complete(&self) -> Result<bool> {
        let mut wanted = false;
        // SAFETY: the model is valid.
        check(unsafe { sys::TRITONBACKEND_ModelAutoCompleteConfig(self.0, &mut wanted) })?;
        Ok(wanted)
    }

    /// Replaces the configuration. The host takes `max_batch_size`, inputs, outputs, the transaction policy and
    /// an unset scheduling choice, and ignores everything else.
    pub fn set_config(&self, config: &Value) -> Result<()> {
        let message = Message::new(config)?;
        // SAFETY: both are valid; the message is read during the call.
        check(unsafe { sys::TRITONBACKEND_ModelSetConfig(self.0, CONFIG_VERSION, message.as_ptr()) })
    }

    /// The backend it belongs to.
    pub fn backend(&self) -> Result<Backend> {
        let mut raw = ptr::null_mut();
        // SAFETY: the model is valid, and its backend outlives it.
        unsafe {
            check(sys::TRITONBACKEND_ModelBackend(self.0, &mut raw))?;
            Ok(Backend::from_raw(raw))
        }
    }

    /// A question to the server that may be asked while the model is loaded.
    pub fn ready_probe(&self) -> Result<ReadyProbe> {
        let mut server = ptr::null_mut();
        // SAFETY: the model is valid.
        check(unsafe { sys::TRITONBACKEND_ModelServer(self.0, &mut server) })?;
        let version = i64::try_from(self.version()?)
            .map_err(|_| Error::invalid_argument("the model's version does not fit in 63 bits"))?;
        Ok(ReadyProbe { server, name: to_host(&self.name()?), version })
    }
}

impl HoldsState for Model {
    type Object = sys::TRITONBACKEND_Model;

    fn slot(&self) -> Slot<Self::Object> {
        Slot { handle: self.0, read: sys::TRITONBACKEND_ModelState, write: sys::TRITONBACKEND_ModelSetState }
    }
}

/// Asks the server whether a model takes requests. It does not while it is being loaded or unloaded, nor
/// while the server shuts down.
pub struct ReadyProbe {
    server: *mut sys::TRITONSERVER_Server,
    name: CString,
    version: i64,
}

// SAFETY: the server's functions may be called from any thread, and the server outlives its models.
unsafe impl Send for ReadyProbe {}
// SAFETY: as above.
unsafe impl Sync for ReadyProbe {}

impl ReadyProbe {
    /// True while the server sends requests to the model. An error counts as no: it means shutdown.
    pub fn is_ready(&self) -> bool {
        let mut ready = false;
        // SAFETY: the server outlives the model, and the probe is kept no longer than the model's state.
        let asked = check(unsafe {
            sys::TRITONSERVER_ServerModelIsReady(self.server, self.name.as_ptr(), self.version, &mut ready)
        });
        asked.is_ok() && ready
    }
}
