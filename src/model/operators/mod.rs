//! The operators of [`textgen_artifact::ops`], as ONNX Runtime custom operators for the CPU.
//!
//! Each one checks its inputs against each other before it touches memory, so that a graph or a caller that
//! breaks the contract gets an error from the run instead of a wild write.

mod attention;
mod cache;
mod context;
mod linear;
mod recurrent;
mod rotary;

use ort::operator::OperatorDomain;
use textgen_artifact::ops::DOMAIN;

/// The domain with all operators, for a session to register.
pub fn domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(linear::Int8Linear)?
        .add(attention::RaggedAttention)?
        .add(rotary::RotaryHeads)?
        .add(attention::CachedAttention)?
        .add(attention::CrossAttention)?
        .add(cache::CacheWrite)?
        .add(recurrent::SimpleRecurrentCell)
}
