//! The tensors of a text model: names, types and shapes, once.

use crate::{
    options::{OPTIONS, OptionKind},
    triton::DataType,
};

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

/// Source texts; a request has them, or [`MESSAGES`].
pub const TEXT_INPUT: &str = "text_input";
/// Conversations, each a whole one in JSON.
pub const MESSAGES: &str = "messages";
/// The inputs of which a request has exactly one.
pub const SOURCES: [&str; 2] = [TEXT_INPUT, MESSAGES];

/// Why each source text ended, where another model wrote it. An answer made from a cut text is cut too.
pub const SOURCE_FINISH_REASON: &str = "source_finish_reason";

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

/// How probable each choice of the guide is, as a JSON array in the order of the choices; on the last response of a
/// sequence.
pub const CHOICE_PROBABILITIES: &str = "choice_probabilities";

/// Every input: what the prompts are made of and is known of it, then each option under its name and aliases.
pub fn inputs() -> impl Iterator<Item = TensorSpec> {
    let sources = SOURCES.into_iter().chain([SOURCE_FINISH_REASON]).map(|name| many(name, DataType::Bytes));
    let options = OPTIONS.iter().flat_map(|option| {
        let (data_type, arity) = match option.kind {
            OptionKind::Int { max, .. } if max > i128::from(i32::MAX) => (DataType::Uint64, Arity::One),
            OptionKind::Int { .. } => (DataType::Int32, Arity::One),
            OptionKind::Float { .. } => (DataType::Fp32, Arity::One),
            OptionKind::Bool => (DataType::Bool, Arity::One),
            OptionKind::Text | OptionKind::Json | OptionKind::Object => (DataType::Bytes, Arity::One),
            OptionKind::List { .. } => (DataType::Bytes, Arity::Many),
        };
        option.names.iter().map(move |name| TensorSpec { name, data_type, arity })
    });
    sources.chain(options)
}

/// Every output: one value for each sequence of the response.
pub const OUTPUTS: &[TensorSpec] = &[
    many(TEXT_OUTPUT, DataType::Bytes),
    many(FINISH_REASON, DataType::Bytes),
    many(CUMULATIVE_LOGPROB, DataType::Fp32),
    many(LOGPROBS, DataType::Bytes),
    many(NUM_INPUT_TOKENS, DataType::Int32),
    many(NUM_OUTPUT_TOKENS, DataType::Int32),
    many(SEQUENCE_INDEX, DataType::Int32),
    many(CHOICE_PROBABILITIES, DataType::Bytes),
];

/// The input of that name.
pub fn input(name: &str) -> Option<TensorSpec> {
    inputs().find(|spec| spec.name == name)
}

const fn many(name: &'static str, data_type: DataType) -> TensorSpec {
    TensorSpec { name, data_type, arity: Arity::Many }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inputs_that_clients_send_are_declared_as_they_send_them() {
        for (name, data_type, arity) in [
            ("text_input", DataType::Bytes, Arity::Many),
            ("messages", DataType::Bytes, Arity::Many),
            ("apply_chat_template", DataType::Bool, Arity::One),
            ("max_tokens", DataType::Int32, Arity::One),
            ("max_length", DataType::Int32, Arity::One),
            ("min_length", DataType::Int32, Arity::One),
            ("min_tokens", DataType::Int32, Arity::One),
            ("top_k", DataType::Int32, Arity::One),
            ("beam_width", DataType::Int32, Arity::One),
            ("num_return_sequences", DataType::Int32, Arity::One),
            ("end_id", DataType::Int32, Arity::One),
            ("pad_id", DataType::Int32, Arity::One),
            ("temperature", DataType::Fp32, Arity::One),
            ("top_p", DataType::Fp32, Arity::One),
            ("min_p", DataType::Fp32, Arity::One),
            ("length_penalty", DataType::Fp32, Arity::One),
            ("repetition_penalty", DataType::Fp32, Arity::One),
            ("presence_penalty", DataType::Fp32, Arity::One),
            ("frequency_penalty", DataType::Fp32, Arity::One),
            ("random_seed", DataType::Uint64, Arity::One),
            ("seed", DataType::Uint64, Arity::One),
            ("stop_words", DataType::Bytes, Arity::Many),
            ("bad_words", DataType::Bytes, Arity::Many),
            ("stream", DataType::Bool, Arity::One),
            ("exclude_input_in_output", DataType::Bool, Arity::One),
            ("return_log_probs", DataType::Bool, Arity::One),
            ("return_finish_reason", DataType::Bool, Arity::One),
            ("return_cumulative_logprob", DataType::Bool, Arity::One),
            ("return_num_input_tokens", DataType::Bool, Arity::One),
            ("return_num_output_tokens", DataType::Bool, Arity::One),
            ("return_choice_probabilities", DataType::Bool, Arity::One),
            ("sampling_parameters", DataType::Bytes, Arity::One),
            ("decoder_text_input", DataType::Bytes, Arity::One),
            ("guided_decoding_guide", DataType::Bytes, Arity::One),
            ("guided_decoding_guide_type", DataType::Bytes, Arity::One),
            ("src_lang", DataType::Bytes, Arity::One),
            ("tgt_lang", DataType::Bytes, Arity::One),
            ("chat_template_kwargs", DataType::Bytes, Arity::One),
            ("skip_special_tokens", DataType::Bool, Arity::One),
        ] {
            let spec = input(name).unwrap_or_else(|| panic!("{name} is not an input"));
            assert_eq!((spec.data_type, spec.arity), (data_type, arity), "{name}");
        }
    }
}
