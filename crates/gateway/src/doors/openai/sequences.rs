//! Takes replies apart by sequence, and counts.

use crate::{services::Usage, triton::Reply};

/// A part of one sequence.
pub struct Piece {
    pub sequence: usize,
    pub text: String,
    /// With the last one.
    pub finish_reason: Option<String>,
}

/// The sequences of one request.
pub struct Sequences {
    samples: usize,
    finish_reasons: Vec<Option<String>>,
    usage: Usage,
}

impl Sequences {
    /// So many prompts, and samples of each.
    pub fn new(prompts: usize, samples: usize) -> Self {
        Self { samples, finish_reasons: vec![None; prompts * samples], usage: Usage::default() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.finish_reasons.len()
    }

    /// Why that one ended.
    pub fn finish_reason(&self, sequence: usize) -> &str {
        self.finish_reasons.get(sequence).and_then(Option::as_deref).unwrap_or("stop")
    }

    /// Tokens so far. The tokens of a prompt count once, however many samples it has.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// What a reply says of each sequence in it.
    pub fn pieces(&mut self, reply: Reply) -> Vec<Piece> {
        let Reply { texts, sequences, finish_reasons, input_tokens, output_tokens, .. } = reply;
        let count = |counts: &[u32], at: usize| counts.get(at).copied().unwrap_or_default();
        let pieces = texts.into_iter().enumerate().map(|(at, text)| {
            let sequence = sequences.get(at).map_or(at, |&index| index.max(0) as usize);
            let finish_reason = finish_reasons.get(at).filter(|reason| !reason.is_empty()).cloned();
            if sequence % self.samples == 0 {
                self.usage.input_tokens += count(&input_tokens, at);
            }
            self.usage.output_tokens += count(&output_tokens, at);
            if let (Some(reason), Some(kept)) = (&finish_reason, self.finish_reasons.get_mut(sequence)) {
                *kept = Some(reason.clone());
            }
            Piece { sequence, text, finish_reason }
        });
        pieces.collect()
    }
}
