//! One step of the running rows: plan, run, and let the logits say what follows.
//!
//! A drafted token changes nothing but the time: a sequence samples its tokens in order, each from the logits after
//! those before it, and the first that differs from the draft is the last of the step. What was fed beyond it is void.

use std::time::Instant;

use super::Worker;
use crate::{
    engine::{
        Finished, Outcome, Phase, SequenceUpdate, StepStats,
        executor::choose,
        sequence::Purpose,
        step_plan::{PlannedRow, PrefillBudget, add_drafts, plan_step},
    },
    error::Result,
};

/// What a step lets a sequence say; kept for its memory.
#[derive(Default)]
pub(super) struct Said {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    text: String,
}

impl Said {
    fn clear(&mut self) {
        self.tokens.clear();
        self.logprobs.clear();
        self.text.clear();
    }
}

impl Worker {
    /// One step of all running sequences.
    pub(super) fn decode_step(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let budget =
            PrefillBudget { beside_streams: self.pace.tokens(), alone: self.options.max_encode_tokens };
        let mut plan = std::mem::take(&mut self.plan);
        plan_step(self.running.iter().map(|sequence| sequence.pending().len()), budget, &mut plan);
        add_drafts(&mut plan, |row| self.running[row].draft().len());
        self.decode_rows(&mut plan);
        self.plan = plan;
        let mut finished = std::mem::take(&mut self.finished);
        // From the back, so that a removed row does not move one that is still to be removed.
        while let Some(row) = finished.pop() {
            self.retire(row);
        }
        self.finished = finished;
        let failed =
            self.failed.drain(..).map(|(request, error)| (request, Outcome::Failed, error)).collect();
        self.end_requests(failed);
    }

    /// Runs the planned rows; halves them where the run fails, until the rows that fail stand alone.
    fn decode_rows(&mut self, plan: &mut [PlannedRow]) {
        if plan.is_empty() {
            return;
        }
        self.decode_batch.clear();
        for planned in plan.iter() {
            let sequence = &self.running[planned.row];
            let tokens = &sequence.pending()[..planned.tokens];
            self.decode_batch.push(tokens, sequence.slot, sequence.position, sequence.cross);
            if planned.completes {
                self.decode_batch.want_logits();
                self.decode_batch.push_draft(&sequence.draft()[..planned.draft]);
            }
        }
        let began = Instant::now();
        let result = self.executor.decode(&self.decode_batch);
        let duration = began.elapsed();
        let Err(error) = result else {
            let tokens = self.decode_batch.tokens.len();
            self.observer.step(StepStats { phase: Phase::Decode, rows: plan.len(), tokens, duration });
            let prompts = plan.iter().filter(|planned| !planned.is_stream());
            if prompts.clone().count() < plan.len() {
                self.pace.measured(prompts.map(|planned| planned.tokens).sum(), duration);
            }
            self.commit(plan);
            return;
        };
        let drafted = plan.iter().any(|planned| planned.draft > 0);
        // A guess is no reason for a row to fail.
        plan.iter_mut().for_each(|planned| planned.draft = 0);
        match plan {
            [_] if drafted => self.decode_rows(plan),
            [planned] => self.failed.push((self.running[planned.row].request, error)),
            _ => {
                let (first, rest) = plan.split_at_mut(plan.len() / 2);
                self.decode_rows(first);
                self.decode_rows(rest);
            }
        }
    }

    /// Takes in what has run: `plan` is the batch, row for row.
    fn commit(&mut self, plan: &[PlannedRow]) {
        let (mut output, mut generated) = (0, 0);
        let slots_keep_sources = self.limits.encoder.is_some_and(|encoder| encoder.slots_keep_sources);
        for (batch_row, planned) in plan.iter().enumerate() {
            let sequence = &mut self.running[planned.row];
            sequence.feed(planned.tokens);
            self.slots.fed(sequence.slot, planned.tokens);
            if slots_keep_sources && let Some(source) = sequence.let_source_go() {
                self.cross_slots.release(source, 1);
            }
            if !planned.completes {
                continue;
            }
            let result = match sequence.purpose {
                Purpose::Answer(_) => {
                    let result = self.commit_answer(planned, batch_row, output);
                    generated += self.said.tokens.len();
                    result
                }
                Purpose::Score(_) => self.commit_score(planned.row, output),
            };
            if let Err(error) = result {
                self.failed.push((self.running[planned.row].request, error));
            }
            output += 1 + planned.draft;
        }
        self.observer.generated_tokens(generated);
    }

    /// Counts the token of a choice that `running[row]` scores by row `output` of the logits.
    fn commit_score(&mut self, row: usize, output: usize) -> Result<()> {
        let sequence = &mut self.running[row];
        let Some(request) = self.requests.get_mut(sequence.request) else {
            debug_assert!(false, "a running sequence belongs to a request");
            return Ok(());
        };
        let Purpose::Score(scored) = &mut sequence.purpose else { return Ok(()) };
        match scored.score.count(self.executor.logits_mut(output)?)? {
            Some(token) => {
                self.slots.follows(sequence.slot, token);
                sequence.follow(0, token);
            }
            None => {
                request.scored(scored)?;
                self.finished.push(row);
            }
        }
        Ok(())
    }

    /// Lets the logits from row `output` on say what follows in a sequence that answers; what it says is in `said`.
    /// After an error it cannot go on, but has said what it had to say before.
    fn commit_answer(&mut self, planned: &PlannedRow, batch_row: usize, output: usize) -> Result<()> {
        self.said.clear();
        let Said { tokens, logprobs, text } = &mut self.said;
        let sequence = &mut self.running[planned.row];
        let Some(request) = self.requests.get_mut(sequence.request) else {
            debug_assert!(false, "a running sequence belongs to a request");
            return Ok(());
        };
        let Purpose::Answer(answer) = &mut sequence.purpose else { return Ok(()) };
        let draft = &self.decode_batch.row(batch_row)[planned.tokens..];

        let mut reason = None;
        let mut result = Ok(());
        // One token more than the draft has: the last logits are those after all of it.
        for place in 0..=draft.len() {
            let choice =
                match choose(&mut *self.executor, output + place, &mut answer.sampler, &mut self.scratch) {
                    Ok(choice) => choice,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                };
            self.slots.follows(sequence.slot, choice.token);
            tokens.push(choice.token);
            logprobs.push(choice.logprob);
            reason = answer.advance(choice, &request.params, text);
            if reason.is_some() || draft.get(place) != Some(&choice.token) {
                break;
            }
        }
        let accepted = draft.iter().zip(&*tokens).take_while(|(drafted, said)| drafted == said).count();
        self.slots.fed(sequence.slot, accepted);
        if !draft.is_empty() {
            self.observer.drafted_tokens(draft.len(), accepted);
        }
        let Some(&last) = tokens.last() else { return result };

        let now = Instant::now();
        if let Some(before) = answer.last_token.replace(now) {
            let gap = (now - before) / tokens.len() as u32;
            tokens.iter().for_each(|_| self.observer.inter_token(gap));
        }
        if !request.has_token {
            request.has_token = true;
            self.observer.first_token(now - request.arrival);
        }
        request.sink.update(&SequenceUpdate {
            sequence_index: answer.index,
            text,
            token_ids: tokens,
            logprobs: if request.params.logprobs { logprobs } else { &[] },
            finished: reason.map(|reason| Finished {
                reason,
                cumulative_logprob: answer.cumulative_logprob(),
                num_input_tokens: answer.input_tokens,
                num_output_tokens: answer.generated,
            }),
        });
        if reason.is_some() {
            self.finished.push(planned.row);
        } else {
            answer.said(tokens);
            sequence.follow(accepted, last);
        }
        result
    }
}
