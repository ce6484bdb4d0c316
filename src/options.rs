//! The options of a request by name: one table for Triton inputs, request parameters, `sampling_parameters`
//! and the command line.

use textgen_artifact::GenerationSpec;

use crate::{decoding::SamplingParams, error::Result, tokenizer::Tokenizer};

/// A value as a client sent it.
#[derive(Debug, Clone, PartialEq)]
pub enum OptionValue {
    /// An integer of any width.
    Int(i128),
    /// A floating-point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list of strings, as stop words.
    List(Vec<String>),
}

/// Options as the client gave them, checked one by one; what was not given is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestOptions {}

impl RequestOptions {
    /// True for a name that [`RequestOptions::set`] knows, aliases included.
    pub fn knows(name: &str) -> bool {
        let _ = name;
        todo!()
    }

    /// Sets one option; refuses unknown names, wrong types and values out of range.
    pub fn set(&mut self, name: &str, value: OptionValue) -> Result<()> {
        let _ = (name, value);
        todo!()
    }

    /// Sets every option of a JSON object (`sampling_parameters`). Numbers may be strings.
    pub fn set_json(&mut self, json: &str) -> Result<()> {
        let _ = json;
        todo!()
    }

    /// Fills in the model's defaults and checks what depends on more than one option.
    pub fn resolve(&self, defaults: &GenerationSpec, tokenizer: &Tokenizer) -> Result<ResolvedOptions> {
        let _ = (defaults, tokenizer);
        todo!()
    }
}

/// Options ready for the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedOptions {
    /// For the engine.
    pub params: SamplingParams,
    /// A forced prefix of the target (`decoder_text_input`).
    pub decoder_prefix: Vec<u32>,
    /// One response for each piece of text, rather than one at the end.
    pub stream: bool,
    /// False repeats the source text before the target's.
    pub exclude_input_in_output: bool,
    /// Which extra outputs the client wants.
    pub outputs: OutputOptions,
}

/// Outputs beyond the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputOptions {
    /// `logprobs`
    pub log_probs: bool,
    /// `finish_reason`
    pub finish_reason: bool,
    /// `cumulative_logprob`
    pub cumulative_logprob: bool,
    /// `num_input_tokens`
    pub num_input_tokens: bool,
    /// `num_output_tokens`
    pub num_output_tokens: bool,
}
