//! ONNX Runtime's CUDA execution provider: its options, and what must be there before it is asked for.
//!
//! Called where a session is made for a GPU. [`require`] names everything that is missing, and the package that has it,
//! before ONNX Runtime would say that some library failed to load. Nothing here is linked: a machine without a GPU never
//! opens a library of CUDA's.

mod driver;
mod library;
mod options;
mod requirements;

pub(super) use library::Library;
pub use options::{ArenaExtendStrategy, CudaOptions};
pub(super) use requirements::{Gpu, require};
