//! The text of an answer that is one of given choices, where the model's own text of a choice is another.

use std::sync::Arc;

use super::TextDecoder;
use crate::decoding::ChoiceGuide;

/// Writes a choice in the client's spelling, all of it at the end, because only then is the choice certain.
pub struct SpelledChoice {
    guide: Arc<ChoiceGuide>,
    tokens: Vec<u32>,
}

impl SpelledChoice {
    /// Nothing of a choice has been said.
    pub fn new(guide: Arc<ChoiceGuide>) -> Self {
        Self { guide, tokens: Vec::new() }
    }
}

impl TextDecoder for SpelledChoice {
    fn push(&mut self, token: u32, _text: &mut String) {
        self.tokens.push(token);
    }

    fn finish(&mut self, text: &mut String) {
        text.push_str(self.guide.spelling(&self.tokens).unwrap_or_default());
    }
}
