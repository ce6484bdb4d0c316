//! A node before it is in a graph.

use textgen_artifact::ops;

use super::Value;
use crate::onnx::{AttributeProto, AttributeType, MICROSOFT_DOMAIN};

/// An operator with its inputs and attributes.
pub struct Node {
    pub(super) domain: &'static str,
    pub(super) op: &'static str,
    /// Value ids; none for an optional input left out.
    pub(super) inputs: Vec<Option<usize>>,
    pub(super) attributes: Vec<AttributeProto>,
}

impl Node {
    /// An operator of the ONNX standard.
    pub fn onnx(op: &'static str) -> Self {
        Self { domain: "", op, inputs: Vec::new(), attributes: Vec::new() }
    }

    /// An operator of ONNX Runtime's own.
    pub fn microsoft(op: &'static str) -> Self {
        Self { domain: MICROSOFT_DOMAIN, ..Self::onnx(op) }
    }

    /// An operator of ours, from [`textgen_artifact::ops`].
    pub fn textgen(op: &'static str) -> Self {
        Self { domain: ops::DOMAIN, ..Self::onnx(op) }
    }

    /// Appends an input.
    pub fn input<T>(mut self, value: Value<T>) -> Self {
        self.inputs.push(Some(value.id));
        self
    }

    /// Appends an optional input.
    pub fn optional<T>(mut self, value: Option<Value<T>>) -> Self {
        self.inputs.push(value.map(|value| value.id));
        self
    }

    pub fn int(mut self, name: &str, value: usize) -> Self {
        let i = i64::try_from(value).expect("a size in memory fits in 63 bits");
        self.attributes.push(AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) });
        self
    }

    pub fn ints(mut self, name: &str, values: &[i64]) -> Self {
        let ints = values.to_vec();
        self.attributes.push(AttributeProto { ints, ..attribute(name, AttributeType::Ints) });
        self
    }

    pub fn float(mut self, name: &str, value: f32) -> Self {
        self.attributes.push(AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) });
        self
    }

    pub fn string(mut self, name: &str, value: &str) -> Self {
        let s = Some(value.as_bytes().to_vec());
        self.attributes.push(AttributeProto { s, ..attribute(name, AttributeType::String) });
        self
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: kind.into(), ..AttributeProto::default() }
}
