//! The handle to an engine, and the thread behind it.

use std::{sync::Arc, time::Duration};

use super::{Executor, GenerateRequest, Observer, TextDecoderFactory};
use crate::error::Result;

/// Bounds of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Requests that may wait; one more is answered UNAVAILABLE at once.
    pub max_queue_requests: usize,
    /// Source tokens that one run of the encoder may hold, so that running streams keep their pace. A single
    /// longer source still runs, alone.
    pub max_encode_tokens: usize,
    /// Time that running requests get to finish when the engine is dropped; then they are cancelled.
    pub drain_timeout: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_queue_requests: 1024, max_encode_tokens: 2048, drain_timeout: Duration::from_secs(20) }
    }
}

/// Handle to a running engine. Dropping it drains: waiting and running requests get
/// [`EngineOptions::drain_timeout`] to finish, what is left is failed, and the thread is joined.
pub struct Engine {}

impl Engine {
    /// Starts the engine's thread. `name` appears in the thread list and the log.
    pub fn start(
        name: &str,
        executor: Box<dyn Executor>,
        text: Arc<dyn TextDecoderFactory>,
        observer: Arc<dyn Observer>,
        options: EngineOptions,
    ) -> Result<Self> {
        let _ = (name, executor, text, observer, options);
        Ok(Self {})
    }

    /// Hands a request over. A request that cannot be taken (full queue, draining, a prompt that is too long
    /// or empty) is answered through its sink; never blocks.
    pub fn submit(&self, request: GenerateRequest) {
        let _ = request;
    }
}
