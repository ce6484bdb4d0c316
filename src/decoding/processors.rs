//! Logits processors: what the target so far does to the next token's logits.
//!
//! The order is that of Hugging Face `generate()`: repetition penalty, presence and frequency penalty (which
//! `generate()` does not have), bad words, minimum length, suppressed tokens. They touch few tokens, so they
//! write in place and remember what they overwrote.

use super::SamplingParams;

/// Logits found by their token: those of the whole vocabulary, or of a part of it.
pub(super) trait LogitsByToken {
    /// None for a token that has none here: nobody can choose it here.
    fn logit_mut(&mut self, token: u32) -> Option<&mut f32>;
}

impl LogitsByToken for [f32] {
    fn logit_mut(&mut self, token: u32) -> Option<&mut f32> {
        self.get_mut(token as usize)
    }
}

/// Logits that processors replaced, in the order they did.
#[derive(Debug, Default)]
pub(super) struct Edits {
    replaced: Vec<(u32, f32)>,
}

impl Edits {
    pub fn clear(&mut self) {
        self.replaced.clear();
    }

    /// Tokens beyond the logits are ignored: nobody can choose them.
    fn replace<L: LogitsByToken + ?Sized>(
        &mut self,
        logits: &mut L,
        token: u32,
        new: impl FnOnce(f32) -> f32,
    ) {
        if let Some(logit) = logits.logit_mut(token) {
            self.replaced.push((token, *logit));
            *logit = new(*logit);
        }
    }

    fn forbid<L: LogitsByToken + ?Sized>(&mut self, logits: &mut L, token: u32) {
        // NaN stays: a broken row must not pass for a sound one.
        self.replace(logits, token, |logit| if logit.is_nan() { logit } else { f32::NEG_INFINITY });
    }

    /// The logit of `token` as the model gave it.
    pub fn original(&self, logits: &[f32], token: u32) -> f32 {
        let replaced = self.replaced.iter().find(|(edited, _)| *edited == token).map(|&(_, logit)| logit);
        replaced.or_else(|| logits.get(token as usize).copied()).unwrap_or(f32::NEG_INFINITY)
    }

    /// The tokens whose logits were replaced, and what these were; in the order in which it was done.
    pub fn replaced(&self) -> impl Iterator<Item = (u32, f32)> {
        self.replaced.iter().copied()
    }
}

/// A token that the target holds.
#[derive(Debug, Clone, Copy)]
struct Seen {
    token: u32,
    /// How often it was generated; 0 when it is only part of what was forced.
    generated: u32,
}

/// What the processors must know of the target so far.
#[derive(Debug)]
pub(super) struct TargetHistory {
    /// Ordered by token. Empty when no penalty needs it.
    seen: Vec<Seen>,
    /// All tokens, the start token and a forced prefix included. Empty when no bad word needs them.
    tokens: Vec<u32>,
    generated: usize,
    keeps_seen: bool,
    keeps_tokens: bool,
}

impl TargetHistory {
    pub fn new(params: &SamplingParams, context: &[u32]) -> Self {
        let mut history = Self {
            seen: Vec::new(),
            tokens: Vec::new(),
            generated: 0,
            keeps_seen: params.repetition_penalty != 1.0
                || params.presence_penalty != 0.0
                || params.frequency_penalty != 0.0,
            keeps_tokens: params.bad_words.iter().any(|word| word.len() > 1),
        };
        for &token in context {
            history.record(token, 0);
        }
        history
    }

    /// Adds a generated token.
    pub fn push(&mut self, token: u32) {
        self.generated += 1;
        self.record(token, 1);
    }

    fn record(&mut self, token: u32, generated: u32) {
        if self.keeps_tokens {
            self.tokens.push(token);
        }
        if !self.keeps_seen {
            return;
        }
        match self.seen.binary_search_by_key(&token, |seen| seen.token) {
            Ok(at) => self.seen[at].generated += generated,
            Err(at) => self.seen.insert(at, Seen { token, generated }),
        }
    }

    /// Runs every processor that `params` enable over `logits`.
    pub fn process<L: LogitsByToken + ?Sized>(
        &self,
        params: &SamplingParams,
        logits: &mut L,
        edits: &mut Edits,
    ) {
        self.penalize(params, logits, edits);
        self.forbid(params, logits, edits);
    }

    /// The processors that make tokens less likely.
    pub fn penalize<L: LogitsByToken + ?Sized>(
        &self,
        params: &SamplingParams,
        logits: &mut L,
        edits: &mut Edits,
    ) {
        for seen in &self.seen {
            edits.replace(logits, seen.token, |logit| {
                let mut logit = logit;
                if params.repetition_penalty != 1.0 {
                    logit = if logit < 0.0 {
                        logit * params.repetition_penalty
                    } else {
                        logit / params.repetition_penalty
                    };
                }
                if seen.generated > 0 {
                    logit -= params.frequency_penalty * seen.generated as f32;
                    logit -= params.presence_penalty;
                }
                logit
            });
        }
    }

    /// The processors that rule tokens out.
    fn forbid<L: LogitsByToken + ?Sized>(&self, params: &SamplingParams, logits: &mut L, edits: &mut Edits) {
        for word in &params.bad_words {
            let Some((&last, head)) = word.split_last() else { continue };
            // To forbid the end of the sequence would forbid every ending.
            if head.is_empty() && params.eos_token_ids.contains(&last) {
                continue;
            }
            if self.tokens.ends_with(head) {
                edits.forbid(logits, last);
            }
        }
        if self.generated < params.min_new_tokens {
            for &token in &params.eos_token_ids {
                edits.forbid(logits, token);
            }
        }
        for &token in &params.suppress_tokens {
            edits.forbid(logits, token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processed(params: &SamplingParams, generated: &[u32], logits: &[f32]) -> Vec<f32> {
        let mut history = TargetHistory::new(params, &[0, 1]);
        for &token in generated {
            history.push(token);
        }
        let mut processed = logits.to_vec();
        let mut edits = Edits::default();
        history.process(params, &mut processed[..], &mut edits);
        for token in 0..logits.len() as u32 {
            assert_eq!(edits.original(&processed, token), logits[token as usize]);
        }
        processed
    }

    #[test]
    fn repetition_counts_what_was_forced_and_the_other_penalties_do_not() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..SamplingParams::default()
        };
        let got = processed(&params, &[3, 3, 2], &[4.0, -4.0, 2.0, -2.0, 1.0]);
        assert_eq!(got, [2.0, -8.0, 0.25, -5.0, 1.0]);
    }

    #[test]
    fn a_bad_word_is_forbidden_only_where_it_would_be_completed() {
        let params = SamplingParams {
            bad_words: vec![vec![2, 3], vec![0, 1, 4], vec![5], vec![9, 9, 9, 9, 9, 9, 5]],
            eos_token_ids: vec![5],
            ..SamplingParams::default()
        };
        const NO: f32 = f32::NEG_INFINITY;
        assert_eq!(processed(&params, &[], &[0.0; 6]), [0.0, 0.0, 0.0, 0.0, NO, 0.0]);
        assert_eq!(processed(&params, &[2], &[0.0; 6]), [0.0, 0.0, 0.0, NO, 0.0, 0.0]);
        assert_eq!(processed(&params, &[2, 4], &[0.0; 6]), [0.0; 6]);
    }

    #[test]
    fn tokens_beyond_the_logits_are_ignored() {
        let params = SamplingParams {
            suppress_tokens: vec![7, u32::MAX],
            repetition_penalty: 1.5,
            ..SamplingParams::default()
        };
        assert_eq!(processed(&params, &[u32::MAX], &[0.0, 3.0]), [0.0, 2.0]);
    }
}
