//! What an operator sees: the log, the metrics, and the id that ties a request to both.

mod log;
mod metrics;
mod request;
mod work;

pub use log::start as start_log;
pub use metrics::{Metrics, name};
pub use request::{RequestId, observe};
pub use work::Work;
