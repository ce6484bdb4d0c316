//! One running sequence: what it feeds next, what it has said or found, when it ends.

use std::time::Instant;

use super::{CrossView, FinishReason, TextDecoder, draft::Drafter};
use crate::decoding::{Choice, ChoiceScore, SamplingParams, StopMatcher, TokenSampler};

/// A sequence that holds a slot.
pub struct Sequence {
    /// Key of its request.
    pub request: usize,
    /// Its slot.
    pub slot: usize,
    /// The encoded source it reads; none in a decoder-only model.
    pub cross: Option<CrossView>,
    /// Whether its cross slot is still kept for it.
    pub holds_source: bool,
    /// Tokens that the slot holds.
    pub position: usize,
    /// Tokens to feed: at first what the target starts from, then the last token.
    next: Vec<u32>,
    /// Number of `next` that have been fed.
    fed: usize,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a sequence is for.
pub enum Purpose {
    /// To be told to the client.
    Answer(Box<Answer>),
    /// To find how probable a choice is.
    Score(PromptScore),
}

/// The score of one choice of one prompt.
pub struct PromptScore {
    /// Index of the prompt within the request.
    pub prompt: usize,
    /// What has been counted so far.
    pub score: ChoiceScore,
}

/// What a sequence has said.
pub struct Answer {
    /// Its index within the request.
    pub index: usize,
    /// Tokens of its source or prompt.
    pub input_tokens: usize,
    /// Chooses its tokens.
    pub sampler: TokenSampler,
    /// When its last token came, for the time between tokens.
    pub last_token: Option<Instant>,
    /// Tokens generated.
    pub generated: usize,
    max_new_tokens: usize,
    /// None when nothing is drafted.
    drafter: Option<Drafter>,
    cumulative_logprob: f64,
    decoder: Box<dyn TextDecoder>,
    stop: StopMatcher,
    /// Text from the decoder, before stop words are looked for; kept for its memory.
    raw: String,
}

/// What a new answer starts from.
pub struct AnswerStart {
    /// See [`Answer`].
    pub index: usize,
    /// See [`Answer`].
    pub input_tokens: usize,
    /// New tokens at most; at least 1.
    pub max_new_tokens: usize,
    /// See [`Answer`].
    pub sampler: TokenSampler,
    /// See [`Answer`].
    pub drafter: Option<Drafter>,
    /// Turns its tokens into text.
    pub decoder: Box<dyn TextDecoder>,
    /// At the start of a text.
    pub stop: StopMatcher,
}

/// What a new sequence starts from.
pub struct SequenceStart {
    /// See [`Sequence`].
    pub request: usize,
    /// See [`Sequence`].
    pub slot: usize,
    /// See [`Sequence`].
    pub cross: Option<CrossView>,
    /// What the target starts from.
    pub first_tokens: Vec<u32>,
    /// Number of those that the slot holds already; fewer than all.
    pub reused: usize,
}

impl Sequence {
    pub fn new(start: SequenceStart, purpose: Purpose) -> Self {
        Self {
            request: start.request,
            slot: start.slot,
            cross: start.cross,
            holds_source: start.cross.is_some(),
            position: start.reused,
            next: start.first_tokens,
            fed: start.reused,
            purpose,
        }
    }

    /// The cross slot, if it is still kept for this sequence; from here on it is not.
    pub fn let_source_go(&mut self) -> Option<usize> {
        let held = std::mem::take(&mut self.holds_source);
        self.cross.filter(|_| held).map(|cross| cross.slot)
    }

    /// Tokens that have yet to be fed, at least one.
    pub fn pending(&self) -> &[u32] {
        &self.next[self.fed..]
    }

    /// Guesses that may be fed behind the last of the pending tokens.
    pub fn draft(&self) -> &[u32] {
        match &self.purpose {
            Purpose::Answer(answer) => answer.draft(),
            Purpose::Score(_) => &[],
        }
    }

    /// A step that fed the first `tokens` of the pending ones has succeeded.
    pub fn feed(&mut self, tokens: usize) {
        self.position += tokens;
        self.fed += tokens;
    }

    /// All tokens have been fed, and so many of a draft that were right; `token` follows.
    pub fn follow(&mut self, drafted: usize, token: u32) {
        self.position += drafted;
        self.next.clear();
        self.fed = 0;
        self.next.push(token);
    }
}

impl Answer {
    pub fn new(start: AnswerStart) -> Self {
        Self {
            index: start.index,
            input_tokens: start.input_tokens,
            sampler: start.sampler,
            last_token: None,
            generated: 0,
            max_new_tokens: start.max_new_tokens,
            drafter: start.drafter,
            cumulative_logprob: 0.0,
            decoder: start.decoder,
            stop: start.stop,
            raw: String::new(),
        }
    }

    /// `choice` follows: appends the text that became final to `text` and says whether the sequence ends here.
    pub fn advance(
        &mut self,
        choice: Choice,
        params: &SamplingParams,
        text: &mut String,
    ) -> Option<FinishReason> {
        self.generated += 1;
        self.cumulative_logprob += f64::from(choice.logprob);
        let ended = params.eos_token_ids.contains(&choice.token);
        self.raw.clear();
        if !ended {
            self.decoder.push(choice.token, &mut self.raw);
        }
        let reason = if ended {
            Some(FinishReason::Stop)
        } else if self.generated >= self.max_new_tokens {
            Some(FinishReason::Length)
        } else {
            None
        };
        if reason.is_some() {
            self.decoder.finish(&mut self.raw);
        }
        if self.stop.push(&self.raw, text) {
            return Some(FinishReason::Stop);
        }
        if reason.is_some() {
            self.stop.finish(text);
        }
        reason
    }

    /// Guesses at the tokens after its last one, fewer than it may still say; the same until [`Answer::said`].
    pub fn draft(&self) -> &[u32] {
        let Some(drafter) = &self.drafter else { return &[] };
        drafter.draft(self.max_new_tokens.saturating_sub(self.generated + 1))
    }

    /// A step has let it say `tokens`, at least one, and it goes on.
    pub fn said(&mut self, tokens: &[u32]) {
        if let Some(drafter) = &mut self.drafter {
            drafter.said(tokens);
        }
    }

    /// Sum of the log-probabilities of its tokens.
    pub fn cumulative_logprob(&self) -> f32 {
        self.cumulative_logprob as f32
    }
}
