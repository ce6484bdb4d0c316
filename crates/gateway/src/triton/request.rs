//! A request as Triton takes it.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use super::{
    ModelFacts,
    wire::{self, infer_parameter::ParameterChoice},
};
use crate::settings::Options;

/// What a model is given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// Texts; each becomes one sequence or more.
    Texts(Vec<String>),
    /// One conversation, a JSON list of messages.
    Messages(String),
}

/// One request.
#[derive(Debug, Clone)]
pub struct Generate {
    /// Name of the model.
    pub model: String,
    /// What it is given.
    pub input: Input,
    /// Options as the backend names them.
    pub options: Options,
    /// Pieces as they come rather than one reply.
    pub stream: bool,
    /// For the server's log.
    pub id: String,
}

impl Generate {
    pub(super) fn message(self, facts: &ModelFacts) -> wire::ModelInferRequest {
        let (name, texts) = match self.input {
            Input::Texts(texts) => ("text_input", texts),
            Input::Messages(messages) => ("messages", vec![messages]),
        };
        let mut options = self.options;
        // The members of an ensemble hand on whole texts.
        if !facts.ensemble {
            options.insert("stream".into(), json!(self.stream && facts.streams));
            for output in ["return_num_input_tokens", "return_num_output_tokens"] {
                options.insert(output.into(), json!(true));
            }
        }
        if facts.tells_end {
            options.insert("return_finish_reason".into(), json!(true));
        }
        // One parameter holds every option, lists too, and reaches the members of an ensemble.
        // Without the second, Triton keeps the end of a stream to itself when it carries no output.
        let parameters = HashMap::from([
            parameter(
                "sampling_parameters",
                ParameterChoice::StringParam(Value::Object(options).to_string()),
            ),
            parameter("triton_enable_empty_final_response", ParameterChoice::BoolParam(true)),
        ]);
        let count = texts.len() as i64;
        wire::ModelInferRequest {
            model_name: self.model,
            id: self.id,
            parameters,
            inputs: vec![wire::model_infer_request::InferInputTensor {
                name: name.to_owned(),
                datatype: "BYTES".to_owned(),
                shape: if facts.batched { vec![count, 1] } else { vec![count] },
                ..Default::default()
            }],
            raw_input_contents: vec![strings(&texts)],
            ..Default::default()
        }
    }
}

fn parameter(name: &str, value: ParameterChoice) -> (String, wire::InferParameter) {
    (name.to_owned(), wire::InferParameter { parameter_choice: Some(value) })
}

/// Each text behind its length in bytes, 32 bits, little-endian.
fn strings(texts: &[String]) -> Bytes {
    let mut raw = BytesMut::with_capacity(texts.iter().map(|text| 4 + text.len()).sum());
    for text in texts {
        raw.put_u32_le(text.len() as u32);
        raw.put_slice(text.as_bytes());
    }
    raw.freeze()
}
