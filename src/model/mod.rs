//! The only room that knows ONNX Runtime: sessions, caches, the operators of our own.
//!
//! [`ModelExecutor`] is the [`crate::engine::Executor`] over an artifact. It owns the weights (mapped), the
//! caches (in [`memory`]) and one session for each graph. `unsafe` is allowed here: the caches are bound by
//! address, and the operators write them in place.

#![allow(unsafe_code)]

mod binding;
mod decoder;
mod embedding;
mod encoder;
mod executor;
mod graph_check;
mod kernels;
mod memory;
mod operators;
mod rotary;
mod runtime;
mod status;
mod weights;

pub use executor::{ExecutorOptions, ModelExecutor};
pub use runtime::{Runtime, locate_runtime};
