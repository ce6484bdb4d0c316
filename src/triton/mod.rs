//! Safe handles over Triton's C API: everything that the rest of the crate may do with the host.
//!
//! What the host leaves to discipline is kept by types here:
//!
//! - a [`Request`] is released exactly once, by its `Drop`;
//! - every request comes with its [`ResponseStream`], whose `finish` and `fail` consume it: nothing can follow
//!   FINAL, FINAL cannot be sent twice, and a stream that is dropped unfinished answers an error and FINAL, so
//!   no client waits for ever;
//! - a stream never ends without a response, which would crash a non-decoupled gRPC stream;
//! - Execute cannot return an error: `guard::execute` takes a closure without a result.
//!
//! Refuses: memory that is not on the host's side, strings that are not UTF-8, types it does not know.

#![allow(unsafe_code)]

mod backend;
mod clock;
mod error;
#[cfg(test)]
pub(crate) mod fake_host;
pub mod guard;
mod instance;
mod library;
mod logger;
mod message;
mod metrics;
mod model;
mod parameter;
mod request;
mod response;
mod state;
mod strings;
pub mod sys;
mod tensor;
#[cfg(test)]
mod tests;

pub use backend::{Attributes, Backend};
pub use clock::monotonic_ns;
pub use instance::{Instance, InstanceKind, Timings};
pub use library::plugin_path;
pub use logger::install_logger;
pub use metrics::{Counter, CounterFamily, Gauge, GaugeFamily, Histogram, HistogramFamily};
pub use model::{Model, ReadyProbe};
pub use parameter::ParameterValue;
pub use request::{Request, RequestContent, accept};
pub use response::{CancelProbe, ResponseStream};
pub use state::{HoldsState, Slot};
pub use tensor::{DataType, InputTensor, OutputTensor};
