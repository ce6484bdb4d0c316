//! Prompt lookup: where a sequence repeats its prompt or itself, what followed there is a guess at what follows now.
//!
//! Guesses are tokens that the step feeds behind the one the sequence has last said. The model's own choices tell how
//! many of them were right, so no guess changes an answer: see `worker/step.rs`.

use std::ops::Range;

/// How drafts are looked for; the names are those of Hugging Face's `generate()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptLookup {
    /// `prompt_lookup_num_tokens`: tokens that a sequence drafts in one step, at most. 0 disables.
    pub num_tokens: usize,
    /// `max_matching_ngram_size`: as many of the last tokens, at most, are compared; a longer match goes before a
    /// shorter one, of one token at least.
    pub max_ngram_size: usize,
}

impl Default for PromptLookup {
    fn default() -> Self {
        Self { num_tokens: 0, max_ngram_size: 3 }
    }
}

/// Guesses what one sequence says next.
///
/// A guess is made after every token, and compared with what is said though it was not fed: so a sequence that does
/// not copy costs no step a token, and one that begins to is found out.
#[derive(Debug)]
pub struct Drafter {
    lookup: PromptLookup,
    /// Tokens are below it; a source may hold others.
    vocab_size: usize,
    /// What is looked through: source or prompt, then what has been said.
    tokens: Vec<u32>,
    /// The guess, in `tokens`. When there is none it is empty, and begins behind what was wrong in the last one.
    guess: Range<usize>,
    /// Tokens that the next draft may have: as many as were right in the last guess, or twice as many if all
    /// were.
    trusted: usize,
}

impl Drafter {
    /// A sequence that has said nothing yet, and may repeat `tokens`.
    pub fn new(lookup: PromptLookup, vocab_size: usize, tokens: Vec<u32>) -> Self {
        Self { lookup, vocab_size, tokens, guess: 0..0, trusted: 0 }
    }

    /// What may follow, `at_most` tokens of it; the same until more is said.
    pub fn draft(&self, at_most: usize) -> &[u32] {
        let guess = &self.tokens[self.guess.clone()];
        &guess[..guess.len().min(self.trusted).min(at_most)]
    }

    /// The sequence has said `said`, at least one token.
    pub fn said(&mut self, said: &[u32]) {
        let guess = &self.tokens[self.guess.clone()];
        let right = guess.iter().zip(said).take_while(|(guessed, said)| guessed == said).count();
        let all_right = right == guess.len().min(said.len());
        if !guess.is_empty() {
            let trusted = if all_right { self.trusted.max(2 * right) } else { right };
            self.trusted = trusted.min(self.lookup.num_tokens);
        }
        // What was wrong has been replaced, or stands further on.
        let from = self.guess.start + right + usize::from(!all_right);
        self.tokens.extend_from_slice(said);
        let start = find_continuation(&self.tokens, self.lookup.max_ngram_size, from);
        // One more than is ever fed, for the token that follows a draft.
        let guess = self.tokens[start.unwrap_or(self.tokens.len())..].iter().take(self.lookup.num_tokens + 1);
        let length = guess.take_while(|&&token| (token as usize) < self.vocab_size).count();
        let start = start.unwrap_or(from);
        self.guess = start..start + length;
    }
}

/// Where that begins which may follow `tokens`: behind the longest earlier match of its last tokens, `max_ngram_size`
/// at most. Of equal ones it is the first from `from` on, then the first of all: who copies goes on in order.
///
/// The time is that of reading `tokens` once, which is little beside the attention over them.
fn find_continuation(tokens: &[u32], max_ngram_size: usize, from: usize) -> Option<usize> {
    let (last, earlier) = tokens.split_last()?;
    let (before, after) = earlier.split_at(from.saturating_sub(1).min(earlier.len()));
    let mut longest = 0;
    let mut found = None;
    for (part, offset) in [(after, before.len()), (before, 0)] {
        for (index, _) in part.iter().enumerate().filter(|(_, token)| *token == last) {
            let place = offset + index;
            let pairs = earlier[..place].iter().rev().zip(earlier.iter().rev());
            let length = 1 + pairs.take(max_ngram_size - 1).take_while(|(a, b)| a == b).count();
            if length > longest {
                (longest, found) = (length, Some(place + 1));
            }
            if length == max_ngram_size {
                return found;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VOCAB: usize = 100;

    fn drafter(num_tokens: usize, max_ngram_size: usize, prompt: &[u32]) -> Drafter {
        Drafter::new(PromptLookup { num_tokens, max_ngram_size }, VOCAB, prompt.to_vec())
    }

    #[test]
    fn the_longest_match_counts_and_of_equal_ones_the_next() {
        let tokens = [1, 2, 3, 10, 9, 2, 3, 11, 8, 3, 12, 1, 2, 3];
        assert_eq!(find_continuation(&tokens, 3, 0), Some(3));
        assert_eq!(find_continuation(&tokens, 2, 0), Some(3));
        assert_eq!(find_continuation(&tokens, 2, 4), Some(7));
        assert_eq!(find_continuation(&tokens, 1, 8), Some(10));
        // After the last one it begins anew, and a longer one goes before a nearer one.
        assert_eq!(find_continuation(&tokens, 1, 11), Some(3));
        assert_eq!(find_continuation(&tokens, 3, 7), Some(3));
        // The place itself is the first to be looked at.
        assert_eq!(find_continuation(&tokens, 1, 7), Some(7));
    }

    #[test]
    fn what_is_new_has_no_continuation() {
        assert_eq!(find_continuation(&[], 3, 0), None);
        assert_eq!(find_continuation(&[1], 3, 0), None);
        assert_eq!(find_continuation(&[1, 2, 3], 3, 2), None);
        assert_eq!(find_continuation(&[1, 1], 3, 2), Some(1));
    }

    #[test]
    fn drafts_grow_while_they_are_right_and_shrink_to_what_was() {
        let prompt: Vec<u32> = (0..60).collect();
        let mut drafter = drafter(5, 3, &prompt);
        assert_eq!(drafter.draft(9), [0; 0], "nothing has been said");
        drafter.said(&[10]);
        assert_eq!(drafter.draft(9), [0; 0], "the first guess has to prove itself");
        drafter.said(&[11]);
        assert_eq!(drafter.draft(9), [12, 13]);
        assert_eq!(drafter.draft(1), [12]);
        drafter.said(&[12, 13, 14]);
        assert_eq!(drafter.draft(9), [15, 16, 17, 18, 19]);
        drafter.said(&[15, 16, 70]);
        assert_eq!(drafter.draft(9), [0; 0], "nothing like it");
        drafter.said(&[18]);
        assert_eq!(drafter.draft(9), [19, 20], "as many as were right when there was one");
        drafter.said(&[71]);
        drafter.said(&[20]);
        assert_eq!(drafter.draft(9), [0; 0], "none was");
    }

    #[test]
    fn a_copy_with_a_change_goes_on_behind_it() {
        // "a b a c a d …": after each change, the token that follows stands in many places.
        let prompt: Vec<u32> = (0..20).flat_map(|index| [1, 20 + index]).collect();
        let mut drafter = drafter(4, 3, &prompt);
        drafter.said(&[1, 20, 1, 21, 1]);
        assert_eq!(drafter.tokens[drafter.guess.clone()][..2], [22, 1]);
        drafter.said(&[90]);
        drafter.said(&[1]);
        assert_eq!(drafter.tokens[drafter.guess.clone()][..2], [23, 1]);
    }

    #[test]
    fn a_token_that_cannot_be_said_ends_a_draft() {
        let mut drafter = drafter(4, 3, &[1, 2, 3, VOCAB as u32, 4]);
        drafter.said(&[1]);
        drafter.said(&[2]);
        assert_eq!(drafter.draft(9), [3]);
        drafter.said(&[3, 5]);
        assert_eq!(drafter.draft(9), [0; 0]);
    }

    /// The definition: every place, by the length of its match, then by its order.
    fn reference(tokens: &[u32], max_ngram_size: usize, from: usize) -> Option<usize> {
        let length = |place: usize| {
            (1..=max_ngram_size.min(place))
                .rev()
                .find(|n| tokens[..place].ends_with(&tokens[tokens.len() - n..]))
        };
        let order = |place: usize| (place < from, place);
        (1..tokens.len())
            .filter_map(|place| Some((length(place)?, place)))
            .min_by_key(|&(length, place)| (std::cmp::Reverse(length), order(place)))
            .map(|(_, place)| place)
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            tokens in prop::collection::vec(0_u32..4, 0..40),
            max_ngram_size in 1_usize..6,
            from in 0_usize..45,
        ) {
            let from = from.min(tokens.len());
            prop_assert_eq!(
                find_continuation(&tokens, max_ngram_size, from),
                reference(&tokens, max_ngram_size, from)
            );
        }

        #[test]
        fn whatever_is_said_a_draft_is_said_already_and_keeps_to_its_bounds(
            prompt in prop::collection::vec(0_u32..6, 0..30),
            said in prop::collection::vec(prop::collection::vec(0_u32..5, 1..8), 0..30),
            num_tokens in 1_usize..8,
            at_most in 0_usize..8,
        ) {
            let lookup = PromptLookup { num_tokens, max_ngram_size: 3 };
            let mut drafter = Drafter::new(lookup, 5, prompt.clone());
            let mut history = prompt;
            for said in said {
                let draft = drafter.draft(at_most).to_vec();
                prop_assert!(draft.len() <= num_tokens.min(at_most));
                prop_assert!(draft.iter().all(|&token| token < 5));
                prop_assert!(draft.is_empty() || history.windows(draft.len()).any(|part| part == draft));
                drafter.said(&said);
                history.extend(said);
            }
        }
    }
}
