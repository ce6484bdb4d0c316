//! A response as Triton sends it.

use bytes::{Buf, Bytes};

use super::wire;
use crate::error::{ApiError, Result};

/// One response: a value for each sequence in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    /// Whole texts, or the new pieces.
    pub texts: Vec<String>,
    /// Which sequence each belongs to; empty when the reply holds all in order.
    pub sequences: Vec<i32>,
    /// With a sequence's last piece: `stop` or `length`.
    pub finish_reasons: Vec<String>,
    /// With a sequence's last piece.
    pub input_tokens: Vec<u32>,
    /// Tokens of this reply.
    pub output_tokens: Vec<u32>,
    /// What the model gives each choice, a JSON list; when it was asked for.
    pub choice_probabilities: Vec<String>,
}

/// True for the response that ends a stream.
pub(super) fn is_final(response: &wire::ModelInferResponse) -> bool {
    use wire::infer_parameter::ParameterChoice::BoolParam;
    let mark =
        response.parameters.get("triton_final_response").and_then(|mark| mark.parameter_choice.as_ref());
    matches!(mark, Some(BoolParam(true)))
}

impl Reply {
    pub(super) fn of(response: wire::ModelInferResponse) -> Result<Self> {
        let mut reply = Self::default();
        for (output, raw) in response.outputs.iter().zip(response.raw_output_contents) {
            match output.name.as_str() {
                "text_output" => reply.texts = strings(raw)?,
                name if is_finish_reason(name) => reply.ends(strings(raw)?),
                "choice_probabilities" => reply.choice_probabilities = strings(raw)?,
                "sequence_index" => reply.sequences = numbers(&raw),
                "num_input_tokens" => reply.input_tokens = counts(&raw),
                "num_output_tokens" => reply.output_tokens = counts(&raw),
                _ => {}
            }
        }
        Ok(reply)
    }

    /// Takes in why its sequences ended; one that any model cut short is cut short.
    fn ends(&mut self, reasons: Vec<String>) {
        if self.finish_reasons.is_empty() {
            self.finish_reasons = reasons;
            return;
        }
        for (known, reason) in self.finish_reasons.iter_mut().zip(reasons) {
            if reason == "length" {
                *known = reason;
            }
        }
    }
}

/// True for an output that says why sequences ended. An ensemble has one for each model whose answer can be cut, such as
/// `portuguese_finish_reason` beside `finish_reason`.
pub(super) fn is_finish_reason(output: &str) -> bool {
    output.strip_suffix("finish_reason").is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
}

fn strings(mut raw: Bytes) -> Result<Vec<String>> {
    let broken = || ApiError::internal("Triton sent an output that is not a list of UTF-8 texts");
    let mut texts = Vec::new();
    while raw.has_remaining() {
        let length = raw.try_get_u32_le().map_err(|_| broken())? as usize;
        if length > raw.remaining() {
            return Err(broken());
        }
        texts.push(String::from_utf8(raw.split_to(length).into()).map_err(|_| broken())?);
    }
    Ok(texts)
}

fn numbers(raw: &[u8]) -> Vec<i32> {
    raw.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect()
}

/// The same where less than none means nothing.
fn counts(raw: &[u8]) -> Vec<u32> {
    numbers(raw).into_iter().map(|count| count.max(0).unsigned_abs()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cut_of_an_ensemble_cuts_the_whole() {
        let texts = |texts: &[&str]| -> Bytes {
            let raw = texts.iter().flat_map(|text| {
                [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
            });
            raw.collect::<Vec<u8>>().into()
        };
        let output = |name: &str| wire::model_infer_response::InferOutputTensor {
            name: name.to_owned(),
            ..Default::default()
        };
        let reply = Reply::of(wire::ModelInferResponse {
            outputs: ["portuguese_finish_reason", "text_output", "finish_reason", "refinish_reason"].map(output).into(),
            raw_output_contents: vec![
                texts(&["stop", "length", "stop"]),
                texts(&["a", "b", "c"]),
                texts(&["length", "stop", "stop"]),
                texts(&["length", "length", "length"]),
            ],
            ..Default::default()
        });
        let reply = reply.unwrap();
        assert_eq!(reply.finish_reasons, ["length", "length", "stop"]);
        assert_eq!(reply.texts, ["a", "b", "c"]);
    }
}
