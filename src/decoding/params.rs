//! How the next token is chosen, and when a sequence ends.

use std::sync::Arc;

use super::ChoiceGuide;

/// Decoding options of one request. Order and arithmetic follow Hugging Face `generate()`.
///
/// The value that disables an option is said at each field.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// New tokens at most, the end-of-sequence token included, a forced prefix excluded. At least 1.
    pub max_new_tokens: usize,
    /// End-of-sequence tokens are forbidden until so many new tokens exist. 0 disables.
    pub min_new_tokens: usize,
    /// Divides the logits. 0 means greedy: the most probable token, the lowest id among equals.
    pub temperature: f32,
    /// Keep the so many most probable tokens, and all that equal the last of them. 0 disables.
    pub top_k: usize,
    /// Keep the smallest set of most probable tokens whose probabilities reach this sum. 1 disables.
    pub top_p: f32,
    /// Drop tokens less probable than this share of the most probable one. 0 disables.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that the target already holds, its start
    /// token and forced prefix included. 1 disables.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every token generated at least once. 0 disables.
    pub presence_penalty: f32,
    /// Subtracted from the logit of every token for each time it was generated. 0 disables.
    pub frequency_penalty: f32,
    /// Token sequences that must not be completed.
    pub bad_words: Vec<Vec<u32>>,
    /// Tokens that are never chosen.
    pub suppress_tokens: Vec<u32>,
    /// Tokens that end the sequence. They count as generated and have no text.
    pub eos_token_ids: Vec<u32>,
    /// Texts that end the sequence where they first appear; neither they nor what follows is emitted.
    pub stop_words: Vec<String>,
    /// Seed of the first sequence; sequence `i` of the request uses `seed + i`. None draws a fresh one.
    pub seed: Option<u64>,
    /// Sequences for each prompt, at least 1.
    pub num_return_sequences: usize,
    /// Report the log-probability of each chosen token under the model's own distribution: before penalties,
    /// forbidden tokens, temperature and truncation.
    pub logprobs: bool,
    /// Targets of which each sequence must be one, ended by `eos_token_ids`. They go before [`SamplingParams::min_new_tokens`], bad words and
    /// suppressed tokens, which whoever makes the guide has to heed. None allows any.
    pub guide: Option<Arc<ChoiceGuide>>,
    /// Report for each prompt how probable the guide's choices are among each other, under the model's own
    /// distribution.
    pub choice_probabilities: bool,
}

impl SamplingParams {
    /// True when some of `tokens` may be cut off before one is drawn.
    pub(super) fn truncates(&self, tokens: usize) -> bool {
        (self.top_k > 0 && self.top_k < tokens) || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// True when no processor can make a token more likely than the model finds it.
    pub(super) fn only_lowers(&self) -> bool {
        self.repetition_penalty >= 1.0 && self.presence_penalty >= 0.0 && self.frequency_penalty >= 0.0
    }

    /// True when no processor changes a logit.
    pub(super) fn leaves_logits(&self) -> bool {
        self.repetition_penalty == 1.0
            && self.presence_penalty == 0.0
            && self.frequency_penalty == 0.0
            && self.bad_words.is_empty()
            && self.suppress_tokens.is_empty()
            && self.min_new_tokens == 0
    }

    /// Choices whose probabilities each prompt is asked for.
    pub fn scored_choices(&self) -> usize {
        match &self.guide {
            Some(guide) if self.choice_probabilities => guide.choices(),
            _ => 0,
        }
    }
}

impl Default for SamplingParams {
    /// Greedy decoding of up to 256 tokens, nothing else enabled.
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            min_new_tokens: 0,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            bad_words: Vec::new(),
            suppress_tokens: Vec::new(),
            eos_token_ids: Vec::new(),
            stop_words: Vec::new(),
            seed: None,
            num_return_sequences: 1,
            logprobs: false,
            guide: None,
            choice_probabilities: false,
        }
    }
}
