//! Text-to-text models behind Triton Inference Server: text in, text out, continuous batching, streaming.
//!
//! The way of a request: Triton calls [`entry`]; [`protocol`] reads its tensors, [`prompt`] makes prompts of its
//! texts, and they become an [`engine::GenerateRequest`]; the engine thread of the model instance ([`engine`]) plans
//! steps, [`model`] executes them on ONNX Runtime, [`decoding`] chooses tokens, [`tokenizer`] turns them into text;
//! the responses leave through [`triton`] from a thread of their own. [`backend`] puts the parts together.
//!
//! Imports point one way: `entry → backend → {protocol, config, engine, model, tokenizer, triton}`,
//! `protocol → {triton, engine, prompt}`, `model → engine`, `engine → decoding`; `triton`, `decoding`, `prompt` and
//! `tokenizer` know nothing of this crate but [`error`].

#![deny(unsafe_code)]
#![warn(missing_docs)]

#[cfg(not(panic = "unwind"))]
compile_error!("build with panic = \"unwind\": the guard at the C boundary must be able to catch a panic");

pub mod backend;
pub mod config;
pub mod decoding;
pub mod engine;
pub mod entry;
pub mod error;
pub mod metrics;
pub mod model;
pub mod options;
pub mod prompt;
pub mod protocol;
pub mod text_model;
pub mod tokenizer;
pub mod triton;
