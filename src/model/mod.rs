//! The only room that knows ONNX Runtime: sessions, caches, the operators of our own.
//!
//! [`ModelExecutor`] is the [`crate::engine::Executor`] over an artifact: [`cpu_executor`], or [`on_device`] for a GPU. It
//! owns the weights (mapped), the caches and one session for each graph. `unsafe` is allowed here: the caches are bound by
//! address, and the operators write them in place.

#![allow(unsafe_code)]

mod binding;
mod cpu_executor;
mod cuda;
mod decoder;
mod device;
mod embedding;
mod encoder;
mod executor;
mod graph_check;
mod kernels;
mod limits;
mod memory;
mod on_device;
mod operators;
mod placement;
mod rotary;
mod runtime;
mod status;
mod weights;

pub use cuda::{ArenaExtendStrategy, CudaOptions};
pub use executor::{ExecutorOptions, MayShrink, ModelExecutor};
pub use placement::Placement;
pub use runtime::{Runtime, locate_runtime};
