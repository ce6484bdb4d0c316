//! The on-disk contract between the converter, which writes an artifact, and the backend, which serves it.
//!
//! An artifact is a folder:
//!
//! | file | holds |
//! | --- | --- |
//! | `manifest.json` | [`Manifest`]: family, geometry, generation defaults, precision plan |
//! | `encoder.onnx`, `decoder.onnx` | the graphs, a decoder-only model has no encoder; tensors named as in [`graph`], operators as in [`ops`]; for a device as in [`device_graph`] |
//! | `weights.bin` | every large tensor, page-aligned, mapped at load |
//! | `tokenizer.json` | the Hugging Face tokenizer |
//! | `chat_template.jinja` | the chat template, where the checkpoint has one |
//! | `normalizer.json` | [`NormalizerSpec`], where the tokenizer was made of a SentencePiece model |
//!
//! Whatever both sides must agree on is written here once: a name, a shape, a unit, a version.

mod charsmap;
pub mod device_graph;
pub mod graph;
mod manifest;
mod normalizer;
pub mod ops;

pub use charsmap::{Charsmap, CharsmapError};
pub use manifest::*;
pub use normalizer::*;
