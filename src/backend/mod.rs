//! The composition root: puts configuration, model, engine and the host together, and accepts requests.
//!
//! Called by `entry`; owns one [`BackendState`] for the process, one [`ModelState`] for each loaded model and one
//! [`InstanceState`] for each of its instances. Each holds the one above, so the host's order of finalization
//! cannot pull one from under another.

mod drain;
mod instance;
mod mailbox;
mod model;
mod pace;
mod sender;

use crate::{
    config::BackendConfig,
    error::Result,
    metrics::MetricFamilies,
    triton::{Backend, install_logger},
};
use std::sync::Arc;

pub use instance::InstanceState;
pub use model::ModelState;
use pace::Pacer;

/// What the process has once.
pub struct BackendState {
    config: BackendConfig,
    families: MetricFamilies,
    pacer: Arc<Pacer>,
}

impl BackendState {
    /// Called once, before any model is loaded.
    pub fn new(backend: &Backend) -> Result<Self> {
        install_logger();
        backend.check_api_version()?;
        let config = BackendConfig::parse(&backend.config()?)?;
        let pacer = Arc::new(Pacer::new(config.max_responses_per_second()?));
        Ok(Self { config, families: MetricFamilies::new()?, pacer })
    }
}
