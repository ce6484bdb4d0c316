//! Prompts with rows that have not started.

use super::{
    CrossView, Prompt,
    draft::{Drafter, PromptLookup},
};

/// A prompt whose source is not encoded yet, or, in a decoder-only model, that no slot was free for.
pub struct WaitingPrompt {
    pub request: usize,
    /// Index within the request.
    pub index: usize,
    pub prompt: Prompt,
    /// Rows that it will have.
    pub rows: usize,
}

/// A prompt with rows that wait for a slot; its source is encoded.
pub struct ReadyPrompt {
    pub request: usize,
    /// Index within the request.
    pub index: usize,
    /// The next row to start: its samples come first, then the choices to score.
    pub next_row: usize,
    pub rows_left: usize,
    /// None in a decoder-only model.
    pub cross: Option<CrossView>,
    /// Tokens of the source or prompt.
    pub input_tokens: usize,
    /// What each target starts from.
    pub first_tokens: Vec<u32>,
    /// The source, if its tokens mean the same in a target; else empty, as in a decoder-only model.
    pub repeatable: Vec<u32>,
    pub max_new_tokens: usize,
}

impl ReadyPrompt {
    /// Guesses what a row of this prompt says; none when that is off.
    pub fn drafter(&self, lookup: PromptLookup, vocab_size: usize) -> Option<Drafter> {
        (lookup.num_tokens > 0).then(|| {
            let tokens = [self.repeatable.as_slice(), &self.first_tokens].concat();
            Drafter::new(lookup, vocab_size, tokens)
        })
    }
}
