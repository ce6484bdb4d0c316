//! The tensors of a text model: names, types and shapes, once.

use crate::triton::DataType;

/// One input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: &'static str,
    /// Its element type as it is declared when the model's configuration does not.
    pub data_type: DataType,
    /// How many values it takes.
    pub arity: Arity,
}

/// How many values a tensor holds, the batch dimension aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// One.
    One,
    /// Any number.
    Many,
}

impl Arity {
    /// The dimension to declare.
    pub fn dim(self) -> i64 {
        match self {
            Arity::One => 1,
            Arity::Many => -1,
        }
    }
}

/// The source texts; the one input that is required.
pub const TEXT_INPUT: &str = "text_input";
/// Options as one JSON object.
pub const SAMPLING_PARAMETERS: &str = "sampling_parameters";

/// The target text: all of it, or the new piece when streaming.
pub const TEXT_OUTPUT: &str = "text_output";
/// Why a sequence ended; on its last response.
pub const FINISH_REASON: &str = "finish_reason";
/// Sum of the log-probabilities of a sequence; on its last response.
pub const CUMULATIVE_LOGPROB: &str = "cumulative_logprob";
/// Token ids and log-probabilities as a JSON array, of this response.
pub const LOGPROBS: &str = "logprobs";
/// Source tokens; on the last response of a sequence.
pub const NUM_INPUT_TOKENS: &str = "num_input_tokens";
/// Generated tokens of this response.
pub const NUM_OUTPUT_TOKENS: &str = "num_output_tokens";
/// Which sequence of the request: text index × `num_return_sequences` + sample index.
pub const SEQUENCE_INDEX: &str = "sequence_index";

const fn one(name: &'static str, data_type: DataType) -> TensorSpec {
    TensorSpec { name, data_type, arity: Arity::One }
}

const fn many(name: &'static str, data_type: DataType) -> TensorSpec {
    TensorSpec { name, data_type, arity: Arity::Many }
}

/// Every input. All but the first are optional; all but the first and [`SAMPLING_PARAMETERS`] are options.
pub const INPUTS: &[TensorSpec] = &[
    many(TEXT_INPUT, DataType::Bytes),
    one("max_tokens", DataType::Int32),
    one("max_length", DataType::Int32),
    one("min_length", DataType::Int32),
    one("min_tokens", DataType::Int32),
    one("top_k", DataType::Int32),
    one("beam_width", DataType::Int32),
    one("num_return_sequences", DataType::Int32),
    one("end_id", DataType::Int32),
    one("pad_id", DataType::Int32),
    one("temperature", DataType::Fp32),
    one("top_p", DataType::Fp32),
    one("min_p", DataType::Fp32),
    one("length_penalty", DataType::Fp32),
    one("repetition_penalty", DataType::Fp32),
    one("presence_penalty", DataType::Fp32),
    one("frequency_penalty", DataType::Fp32),
    one("random_seed", DataType::Uint64),
    one("seed", DataType::Uint64),
    many("stop_words", DataType::Bytes),
    many("bad_words", DataType::Bytes),
    one("stream", DataType::Bool),
    one("exclude_input_in_output", DataType::Bool),
    one("return_log_probs", DataType::Bool),
    one("return_finish_reason", DataType::Bool),
    one("return_cumulative_logprob", DataType::Bool),
    one("return_num_input_tokens", DataType::Bool),
    one("return_num_output_tokens", DataType::Bool),
    one(SAMPLING_PARAMETERS, DataType::Bytes),
    one("decoder_text_input", DataType::Bytes),
    one("guided_decoding_guide", DataType::Bytes),
    one("guided_decoding_guide_type", DataType::Bytes),
    one("src_lang", DataType::Bytes),
    one("tgt_lang", DataType::Bytes),
];

/// Every output: one value for each sequence of the response.
pub const OUTPUTS: &[TensorSpec] = &[
    many(TEXT_OUTPUT, DataType::Bytes),
    many(FINISH_REASON, DataType::Bytes),
    many(CUMULATIVE_LOGPROB, DataType::Fp32),
    many(LOGPROBS, DataType::Bytes),
    many(NUM_INPUT_TOKENS, DataType::Int32),
    many(NUM_OUTPUT_TOKENS, DataType::Int32),
    many(SEQUENCE_INDEX, DataType::Int32),
];

/// The input of that name.
pub fn input(name: &str) -> Option<&'static TensorSpec> {
    INPUTS.iter().find(|spec| spec.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::RequestOptions;

    #[test]
    fn every_input_but_the_texts_and_the_json_is_an_option() {
        for spec in INPUTS {
            let option = ![TEXT_INPUT, SAMPLING_PARAMETERS].contains(&spec.name);
            assert_eq!(RequestOptions::knows(spec.name), option, "{}", spec.name);
        }
    }
}
