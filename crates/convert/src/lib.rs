//! Checkpoint to artifact.
//!
//! A family's reader gives weights through [`weights::TensorSource`]; its architecture builds the two graphs
//! with [`graph::GraphBuilder`], which appends the large tensors to `weights.bin` as they come, so that memory
//! holds about one tensor at a time.

pub mod error;
pub mod graph;
pub mod onnx;
pub mod weights;
