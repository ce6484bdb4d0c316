//! What the engine is asked to do.

use std::{sync::Arc, time::Instant};

use super::EventSink;
use crate::decoding::SamplingParams;

/// One request: some prompts, each decoded `params.num_return_sequences` times.
///
/// Sequence `i · num_return_sequences + j` is sample `j` of prompt `i`. Where probabilities of choices are asked for,
/// each choice of each prompt is one more row of the steps, fed as it stands, of which only its score is told.
pub struct GenerateRequest {
    /// At least one.
    pub prompts: Vec<Prompt>,
    /// Options of every sequence.
    pub params: Arc<SamplingParams>,
    /// When the request came in; queue time counts from here.
    pub arrival: Instant,
    /// When the whole request must be done, queueing included; none waits for ever.
    pub deadline: Option<Instant>,
    /// Where the events of this request go.
    pub sink: Box<dyn EventSink>,
}

/// One source text, tokenized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Source tokens, special ones included; at least one.
    pub source: Vec<u32>,
    /// Target tokens that are forced before anything is generated, without the decoder's start token.
    pub decoder_prefix: Vec<u32>,
    /// New tokens at most for this prompt; the smaller of this and the request's limit holds.
    pub max_new_tokens: Option<usize>,
}

/// Turns the tokens of one sequence into text, as far as it is final.
pub trait TextDecoder: Send {
    /// Appends to `text` what is final after `token`; an incomplete character is held back.
    fn push(&mut self, token: u32, text: &mut String);
    /// Appends what was held back; called once, after the last token.
    fn finish(&mut self, text: &mut String);
}

/// Makes a [`TextDecoder`] for each new sequence.
pub trait TextDecoderFactory: Send + Sync {
    /// A decoder at the start of a text.
    fn text_decoder(&self) -> Box<dyn TextDecoder>;
}
