//! What the next step feeds: one token of every running stream, as much of the waiting prompts as the streams can
//! bear, and drafts where there is room.

/// Drafts fill a step up to so many tokens. One of fewer mostly waits for the weights to be read, and drafts cost it
/// little; one of more is busy with arithmetic, of which wrong drafts would take a share.
const DRAFTING_STEP_TOKENS: usize = 16;

/// Tokens that prompts may take in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefillBudget {
    /// While a stream waits for its next token.
    pub beside_streams: usize,
    /// When none does.
    pub alone: usize,
}

/// A sequence's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedRow {
    /// Index of the sequence among the running ones.
    pub row: usize,
    /// Tokens that it feeds, at least one.
    pub tokens: usize,
    /// Whether they are the last of those it has to feed, so that its next token is chosen.
    pub completes: bool,
    /// Drafted tokens that it feeds behind those, each with its logits.
    pub draft: usize,
}

impl PlannedRow {
    /// True for a sequence that feeds the token it has last said, with a draft or without.
    pub fn is_stream(&self) -> bool {
        self.tokens == 1 && self.completes
    }
}

/// Plans a step into `plan`. `pending` gives the number of tokens that each running sequence has to feed.
///
/// Prompts share the budget evenly, and what a short one leaves goes to those after it: a long prompt delays a
/// short one by no more than its share, and itself always gets on: by one token where the budget has less for each.
pub fn plan_step(
    pending: impl Iterator<Item = usize> + Clone,
    budget: PrefillBudget,
    plan: &mut Vec<PlannedRow>,
) {
    plan.clear();
    let mut prompts = pending.clone().filter(|&tokens| tokens > 1).count();
    let streams = pending.clone().count() - prompts;
    let mut left = if streams > 0 { budget.beside_streams } else { budget.alone };
    if left > 0 {
        left = left.max(prompts);
    }
    for (row, pending) in pending.enumerate() {
        let mut tokens = pending;
        if pending > 1 {
            tokens = pending.min(left.div_ceil(prompts));
            left -= tokens;
            prompts -= 1;
        }
        if tokens > 0 {
            plan.push(PlannedRow { row, tokens, completes: tokens == pending, draft: 0 });
        }
    }
}

/// Lets the streams of `plan` feed drafts, of which `drafted` gives the tokens that a running sequence has, as long as
/// the step stays a small one. They share the room evenly, and what one leaves goes to those after it.
pub fn add_drafts(plan: &mut [PlannedRow], drafted: impl Fn(usize) -> usize) {
    let fed: usize = plan.iter().map(|planned| planned.tokens).sum();
    let mut left = DRAFTING_STEP_TOKENS.saturating_sub(fed);
    let mut streams = plan.iter().filter(|planned| planned.is_stream()).count();
    if left == 0 {
        return;
    }
    for planned in plan.iter_mut().filter(|planned| planned.is_stream()) {
        planned.draft = drafted(planned.row).min(left.div_ceil(streams));
        left -= planned.draft;
        streams -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: PrefillBudget = PrefillBudget { beside_streams: 8, alone: 100 };

    fn feeds(pending: &[usize]) -> Vec<(usize, usize, bool)> {
        let mut plan = Vec::new();
        plan_step(pending.iter().copied(), BUDGET, &mut plan);
        plan.iter().map(|planned| (planned.row, planned.tokens, planned.completes)).collect()
    }

    #[test]
    fn streams_always_feed_their_token() {
        assert_eq!(feeds(&[1, 50, 1]), [(0, 1, true), (1, 8, false), (2, 1, true)]);
    }

    #[test]
    fn a_prompt_alone_has_the_larger_budget() {
        assert_eq!(feeds(&[50]), [(0, 50, true)]);
        assert_eq!(feeds(&[500]), [(0, 100, false)]);
    }

    #[test]
    fn prompts_share_and_a_short_one_leaves_its_rest() {
        assert_eq!(feeds(&[1, 2, 50]), [(0, 1, true), (1, 2, true), (2, 6, false)]);
        assert_eq!(feeds(&[1, 50, 50]), [(0, 1, true), (1, 4, false), (2, 4, false)]);
    }

    #[test]
    fn more_prompts_than_tokens_feed_one_each() {
        let pending = [[1].as_slice(), &[50; 20]].concat();
        assert_eq!(feeds(&pending).iter().map(|row| row.1).collect::<Vec<_>>(), [1; 21]);
    }

    #[test]
    fn without_a_budget_only_streams_go_on() {
        let mut plan = Vec::new();
        let budget = PrefillBudget { beside_streams: 0, ..BUDGET };
        plan_step([50, 1, 50].into_iter(), budget, &mut plan);
        assert_eq!(plan, [PlannedRow { row: 1, tokens: 1, completes: true, draft: 0 }]);
    }

    fn drafts(pending: &[usize], drafted: usize) -> Vec<usize> {
        let mut plan = Vec::new();
        plan_step(pending.iter().copied(), BUDGET, &mut plan);
        add_drafts(&mut plan, |row| drafted + row);
        plan.iter().map(|planned| planned.draft).collect()
    }

    #[test]
    fn streams_share_what_room_a_small_step_has_for_drafts() {
        assert_eq!(drafts(&[1], 10), [10]);
        assert_eq!(drafts(&[1], 99), [15]);
        assert_eq!(drafts(&[1, 1, 1, 1], 0), [0, 1, 2, 3]);
        assert_eq!(drafts(&[1, 1, 1, 1], 10), [3, 3, 3, 3]);
        assert_eq!(drafts(&[1; 14], 10), [vec![1; 2], vec![0; 12]].concat());
    }

    #[test]
    fn prompts_draft_nothing_and_take_the_room_of_those_who_would() {
        assert_eq!(drafts(&[1, 6, 1], 3), [3, 0, 5]);
        assert_eq!(drafts(&[1, 50, 1], 10), [3, 0, 3]);
        assert_eq!(drafts(&[50], 10), [0]);
        assert_eq!(drafts(&[1; 16], 10), [0; 16]);
    }
}
