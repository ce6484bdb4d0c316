//! A response as Triton sends it.

use bytes::{Buf, Bytes};

use super::wire;
use crate::error::{ApiError, Result};

/// The output that says why each sequence ended.
pub(super) const FINISH_REASON: &str = "finish_reason";

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
                FINISH_REASON => reply.finish_reasons = strings(raw)?,
                "choice_probabilities" => reply.choice_probabilities = strings(raw)?,
                "sequence_index" => reply.sequences = numbers(&raw),
                "num_input_tokens" => reply.input_tokens = counts(&raw),
                "num_output_tokens" => reply.output_tokens = counts(&raw),
                _ => {}
            }
        }
        Ok(reply)
    }
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
