//! One loaded model.

use std::{path::PathBuf, sync::Arc};

use super::{BackendState, drain::DrainWatch};
use crate::{
    config::{self, ModelConfig},
    error::Result,
    metrics::ModelMetrics,
    protocol::ModelInterface,
    triton::{HoldsState, Model, plugin_path},
};

/// What the instances of a model share.
pub struct ModelState {
    pub(super) config: ModelConfig,
    pub(super) interface: ModelInterface,
    /// Folder of the artifact: `<repository>/<version>`.
    pub(super) artifact: PathBuf,
    pub(super) metrics: Arc<ModelMetrics>,
    pub(super) drain: Arc<DrainWatch>,
    /// After the metrics, whose families it owns.
    pub(super) backend: Arc<BackendState>,
}

impl ModelState {
    /// Completes and reads the model's configuration.
    pub fn new(model: &Model) -> Result<Self> {
        let backend: Arc<BackendState> = model.backend()?.state()?;
        if model.wants_auto_complete()? {
            let completed = config::complete(model.config()?)?;
            model.set_config(&completed)?;
        }
        let json = model.config()?;
        let interface = config::interface(&json)?;
        let folder = model.repository()?;
        let config = ModelConfig::parse(&json, &backend.config, &plugin_path()?, &folder)?;
        let version = model.version()?.to_string();
        let probe = model.ready_probe()?;
        let drain = DrainWatch::new(move || probe.is_ready(), config.options.engine.drain_timeout);
        Ok(Self {
            config,
            interface,
            artifact: folder.join(&version),
            metrics: Arc::new(ModelMetrics::new(&backend.families, &model.name()?, &version)?),
            drain: Arc::new(drain),
            backend,
        })
    }
}
