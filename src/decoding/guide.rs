//! Choice guides: the token sequences of which a target must be one, as a trie.
//!
//! Made of a request's options, walked by the sampler and, where probabilities are asked for, by the engine. What a
//! guide allows is found by its edges, never by a pass over the vocabulary.

use std::{collections::BTreeMap, sync::Arc};

use super::sampler::log_probability_of_any;
use crate::error::{Error, Result};

/// Targets that a request allows. Each ends with any one of the end-of-sequence tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceGuide {
    /// As given, without an end-of-sequence token.
    choices: Vec<Vec<u32>>,
    /// Texts of the choices, where they are not simply what the tokens decode to.
    spellings: Option<Arc<[String]>>,
    eos_token_ids: Vec<u32>,
    /// `[nodes + 1]`; node `n` owns `edges[offsets[n] .. offsets[n + 1]]`. Node 0 is the start of the target.
    offsets: Vec<usize>,
    /// Of one node ordered by token, so that the lowest token is the first among equals.
    edges: Vec<Edge>,
}

/// A token that may come next, and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    pub token: u32,
    node: usize,
}

const START: usize = 0;
/// Nothing follows an end-of-sequence token.
const END: usize = 1;

impl ChoiceGuide {
    /// Refuses what cannot be told apart or never ends: no choices, no end-of-sequence token, an empty choice, a
    /// choice that holds an end-of-sequence token, the same one twice.
    pub fn new(choices: Vec<Vec<u32>>, eos_token_ids: &[u32]) -> Result<Self> {
        if choices.is_empty() || eos_token_ids.is_empty() {
            return Err(Error::invalid_argument(format!(
                "got {} choices and {} end-of-sequence tokens, expected at least one of each",
                choices.len(),
                eos_token_ids.len()
            )));
        }
        let mut nodes = vec![BTreeMap::new(), BTreeMap::new()];
        for (index, choice) in choices.iter().enumerate() {
            if choice.is_empty() {
                return Err(Error::invalid_argument(format!(
                    "choice {index} has no tokens; give it some text"
                )));
            }
            let mut node = START;
            for &token in choice {
                if eos_token_ids.contains(&token) {
                    return Err(Error::invalid_argument(format!(
                        "choice {index} holds the token {token}, which ends a target; leave it out of the choice"
                    )));
                }
                let next = nodes.len();
                node = *nodes[node].entry(token).or_insert(next);
                if node == next {
                    nodes.push(BTreeMap::new());
                }
            }
            for &token in eos_token_ids {
                if nodes[node].insert(token, END).is_some() {
                    let why = "has the tokens of an earlier one; leave it out";
                    return Err(Error::invalid_argument(format!("choice {index} {why}")));
                }
            }
        }
        let mut guide = Self {
            choices,
            spellings: None,
            eos_token_ids: eos_token_ids.to_vec(),
            offsets: vec![0],
            edges: Vec::with_capacity(nodes.iter().map(BTreeMap::len).sum()),
        };
        for node in nodes {
            guide.edges.extend(node.into_iter().map(|(token, node)| Edge { token, node }));
            guide.offsets.push(guide.edges.len());
        }
        Ok(guide)
    }

    /// Has each choice told by its text in `spellings`, which has their order, rather than by the text of its tokens.
    pub fn spelled(self, spellings: Arc<[String]>) -> Self {
        Self { spellings: Some(spellings), ..self }
    }

    /// True when the choices have texts of their own.
    pub fn is_spelled(&self) -> bool {
        self.spellings.is_some()
    }

    /// The text of the choice of these tokens; none when it has no text of its own, or the tokens are no whole choice.
    pub fn spelling(&self, tokens: &[u32]) -> Option<&str> {
        let choice = self.choices.iter().position(|choice| choice == tokens)?;
        self.spellings.as_ref()?.get(choice).map(String::as_str)
    }

    /// Number of choices.
    pub fn choices(&self) -> usize {
        self.choices.len()
    }

    /// Tokens of the longest target, its end-of-sequence token included.
    pub fn max_tokens(&self) -> usize {
        self.choices.iter().map(Vec::len).max().unwrap_or(0) + 1
    }
}

/// A place in the trie: what a target holds so far.
#[derive(Debug, Clone)]
pub(super) struct GuideCursor {
    guide: Arc<ChoiceGuide>,
    node: usize,
}

impl GuideCursor {
    pub fn new(guide: Arc<ChoiceGuide>) -> Self {
        Self { guide, node: START }
    }

    /// What may come next, in the order of the tokens; nothing after an end-of-sequence token.
    pub fn edges(&self) -> &[Edge] {
        &self.guide.edges[self.guide.offsets[self.node]..self.guide.offsets[self.node + 1]]
    }

    /// Follows `edges()[index]` and returns its token.
    pub fn follow(&mut self, index: usize) -> u32 {
        let edge = self.edges()[index];
        self.node = edge.node;
        edge.token
    }
}

/// Sums up how probable one choice of a guide is, token by token as they are fed.
#[derive(Debug)]
pub struct ChoiceScore {
    guide: Arc<ChoiceGuide>,
    choice: usize,
    /// Number of its tokens that have been counted.
    counted: usize,
    logprob: f64,
}

impl ChoiceScore {
    /// Nothing of choice `choice` has been fed.
    pub fn new(guide: Arc<ChoiceGuide>, choice: usize) -> Self {
        Self { guide, choice, counted: 0, logprob: 0.0 }
    }

    /// Index of the choice.
    pub fn choice(&self) -> usize {
        self.choice
    }

    /// Counts what `logits`, as the model gave them, say of the next token: the token to feed for those after it;
    /// none at the end.
    pub fn count(&mut self, logits: &[f32]) -> Result<Option<u32>> {
        let token = self.guide.choices[self.choice].get(self.counted).copied();
        let expected = token.as_slice();
        let expected = if expected.is_empty() { &self.guide.eos_token_ids } else { expected };
        self.logprob += f64::from(log_probability_of_any(logits, expected)?);
        self.counted += 1;
        Ok(token)
    }

    /// Natural logarithm of the probability that the model says this choice and ends, once that is counted.
    pub fn logprob(&self) -> f64 {
        self.logprob
    }
}

/// Turns log-probabilities into probabilities that sum to 1, `p_i = exp(l_i) / Σ_j exp(l_j)`.
pub fn normalize(logprobs: &mut [f64]) -> Result<()> {
    let max = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !max.is_finite() {
        return Err(Error::internal(
            "the model gives every choice the probability 0, expected at least one that it can say; its conversion \
             is damaged, or its precision too low for this input",
        ));
    }
    for logprob in logprobs.iter_mut() {
        *logprob = (*logprob - max).exp();
    }
    let total: f64 = logprobs.iter().sum();
    for probability in logprobs {
        *probability /= total;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOS: [u32; 2] = [1, 99];

    fn guide(choices: &[&[u32]]) -> Arc<ChoiceGuide> {
        Arc::new(ChoiceGuide::new(choices.iter().map(|choice| choice.to_vec()).collect(), &EOS).unwrap())
    }

    fn tokens(cursor: &GuideCursor) -> Vec<u32> {
        cursor.edges().iter().map(|edge| edge.token).collect()
    }

    /// Every target that can be walked to its end.
    fn targets(cursor: &GuideCursor, so_far: &[u32], ended: &mut Vec<Vec<u32>>) {
        if cursor.edges().is_empty() {
            ended.push(so_far.to_vec());
        }
        for index in 0..cursor.edges().len() {
            let mut next = cursor.clone();
            let token = next.follow(index);
            targets(&next, &[so_far, &[token]].concat(), ended);
        }
    }

    #[test]
    fn exactly_the_choices_can_be_walked() {
        let guide = guide(&[&[5, 6, 7], &[5, 6], &[5, 8], &[2]]);
        let mut ended = Vec::new();
        targets(&GuideCursor::new(guide.clone()), &[], &mut ended);
        let expected: [&[u32]; 8] = [
            &[2, 1],
            &[2, 99],
            &[5, 6, 1],
            &[5, 6, 7, 1],
            &[5, 6, 7, 99],
            &[5, 6, 99],
            &[5, 8, 1],
            &[5, 8, 99],
        ];
        assert_eq!(ended, expected);
        assert_eq!((guide.choices(), guide.max_tokens()), (4, 4));
    }

    #[test]
    fn a_choice_that_begins_another_may_end_or_go_on() {
        let mut cursor = GuideCursor::new(guide(&[&[5], &[5, 100, 3], &[5, 0]]));
        assert_eq!(tokens(&cursor), [5]);
        cursor.follow(0);
        assert_eq!(tokens(&cursor), [0, 1, 99, 100]);
        assert_eq!(cursor.follow(3), 100);
        assert_eq!(tokens(&cursor), [3]);
    }

    #[test]
    fn a_whole_choice_has_its_spelling() {
        let choices = ChoiceGuide::new(vec![vec![5], vec![5, 6]], &EOS).unwrap();
        assert_eq!((choices.is_spelled(), choices.spelling(&[5])), (false, None));
        let spelled = choices.spelled(["Ｆ".to_owned(), "Ｆ！".to_owned()].into());
        assert!(spelled.is_spelled());
        assert_eq!([&[5][..], &[5, 6]].map(|tokens| spelled.spelling(tokens)), [Some("Ｆ"), Some("Ｆ！")]);
        assert_eq!([&[][..], &[6], &[5, 6, 7]].map(|tokens| spelled.spelling(tokens)), [None; 3]);
    }

    #[test]
    fn what_cannot_be_told_apart_or_never_ends_is_refused() {
        for (choices, eos, part) in [
            (vec![], vec![1], "0 choices"),
            (vec![vec![5]], vec![], "0 end-of-sequence tokens"),
            (vec![vec![5], vec![]], vec![1], "choice 1 has no tokens"),
            (vec![vec![5, 1]], vec![1], "token 1"),
            (vec![vec![5], vec![6], vec![5]], vec![1], "choice 2"),
        ] {
            let error = ChoiceGuide::new(choices, &eos).unwrap_err();
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn a_score_is_the_sum_over_the_tokens_and_over_the_ends() {
        let mut score = ChoiceScore::new(guide(&[&[3], &[2, 0]]), 1);
        let mut logits = vec![0.0_f32; 100];
        assert_eq!(score.count(&logits).unwrap(), Some(2));
        assert_eq!(score.count(&logits).unwrap(), Some(0));
        logits.fill(f32::NEG_INFINITY);
        logits[1] = 2.0;
        logits[99] = 2.0;
        logits[50] = 2.0 + 2.0_f32.ln();
        assert_eq!(score.count(&logits).unwrap(), None);
        let expected = 2.0 * 0.01_f64.ln() + 0.5_f64.ln();
        assert!((score.logprob() - expected).abs() < 1e-5, "{}", score.logprob());
    }

    #[test]
    fn probabilities_sum_to_one_however_small() {
        let mut values = [-1000.0, -1000.0 + 3.0_f64.ln(), f64::NEG_INFINITY];
        normalize(&mut values).unwrap();
        assert!((values[0] - 0.25).abs() < 1e-12 && (values[1] - 0.75).abs() < 1e-12 && values[2] == 0.0);
        assert!(normalize(&mut [f64::NEG_INFINITY; 2]).is_err());
    }
}
