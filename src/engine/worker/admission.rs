//! From the queue to the running rows.

use std::{sync::atomic::Ordering, time::Instant};

use super::Worker;
use crate::{
    decoding::{ChoiceScore, TokenSampler},
    engine::{
        CrossView, Outcome, Phase, StepStats, TextDecoderFactory,
        active::ActiveRequest,
        draft::Drafter,
        prefix::Taken,
        sequence::{Answer, AnswerStart, PromptScore, Purpose, Sequence, SequenceStart},
        spelling::SpelledChoice,
        waiting::{ReadyPrompt, WaitingPrompt},
    },
};

impl Worker {
    /// Starts rows of prompts that are ready, then makes as many waiting prompts ready as fit, and starts
    /// theirs.
    pub(super) fn admit(&mut self) {
        self.start_rows();
        if self.limits.encoder.is_none() {
            // A prompt that waits for its twin does not hold up the others.
            while self.ready.len() < self.slots.capacity()
                && self.slots.free() > 0
                && let Some(waiting) = self.waiting.pop_front()
            {
                self.observer.prompt_tokens(waiting.prompt.source.len());
                self.commit_ready(waiting, None);
                self.start_rows();
            }
            return;
        }
        if !self.ready.is_empty() {
            return;
        }
        let mut planned = self.plan_encode();
        if planned.is_empty() {
            return;
        }
        self.encode(&mut planned);
        self.start_rows();
    }

    /// Takes prompts off the queue, in order, while there are slots for them and tokens in the budget.
    /// A prompt whose rows do not all fit is taken too, as the last one: they start as slots come free.
    fn plan_encode(&mut self) -> Vec<(WaitingPrompt, usize)> {
        let mut planned = Vec::new();
        let (mut tokens, mut free) = (0, self.slots.free());
        while let Some(next) = self.waiting.front() {
            let fits =
                tokens + next.prompt.source.len() <= self.options.max_encode_tokens || planned.is_empty();
            if free == 0 || !fits {
                break;
            }
            let Some(cross_slot) = self.cross_slots.take(next.rows) else { break };
            tokens += next.prompt.source.len();
            free = free.saturating_sub(next.rows);
            if let Some(next) = self.waiting.pop_front() {
                planned.push((next, cross_slot));
            }
        }
        planned
    }

    /// Encodes the planned prompts; halves the batch where it fails, until the prompts that fail stand alone.
    fn encode(&mut self, planned: &mut Vec<(WaitingPrompt, usize)>) {
        self.encode_batch.clear();
        for (waiting, cross_slot) in planned.iter() {
            self.encode_batch.push(&waiting.prompt.source, *cross_slot);
        }
        let start = Instant::now();
        match self.executor.encode(&self.encode_batch) {
            Ok(()) => {
                self.observer.step(StepStats {
                    phase: Phase::Encode,
                    rows: self.encode_batch.rows(),
                    tokens: self.encode_batch.tokens.len(),
                    duration: start.elapsed(),
                });
                self.observer.prompt_tokens(self.encode_batch.tokens.len());
                for (waiting, cross_slot) in planned.drain(..) {
                    self.commit_ready(waiting, Some(cross_slot));
                }
            }
            Err(error) if planned.len() == 1 => {
                if let Some((waiting, cross_slot)) = planned.pop() {
                    self.drop_planned(&waiting, Some(cross_slot));
                    self.end_requests(vec![(waiting.request, Outcome::Failed, error)]);
                }
            }
            Err(_) => {
                let mut rest = planned.split_off(planned.len() / 2);
                self.encode(planned);
                self.encode(&mut rest);
            }
        }
    }

    /// Frees what a planned prompt holds that will not be decoded.
    fn drop_planned(&mut self, waiting: &WaitingPrompt, cross_slot: Option<usize>) {
        if let Some(cross_slot) = cross_slot {
            self.cross_slots.release(cross_slot, waiting.rows);
        }
        self.waiting_sequences -= waiting.rows;
    }

    fn commit_ready(&mut self, waiting: WaitingPrompt, cross_slot: Option<usize>) {
        let Some(request) = self.requests.get_mut(waiting.request) else {
            // The request failed through another prompt of the same batch.
            self.drop_planned(&waiting, cross_slot);
            return;
        };
        if !request.started {
            request.started = true;
            self.waiting_requests.fetch_sub(1, Ordering::Relaxed);
            self.observer.request_started(request.arrival.elapsed());
        }
        let WaitingPrompt { request: key, index, prompt, rows } = waiting;
        let input_tokens = prompt.source.len();
        let (mut first_tokens, repeatable) = match self.limits.encoder {
            Some(encoder) if encoder.shares_vocabulary => {
                (vec![encoder.decoder_start_token_id], prompt.source)
            }
            Some(encoder) => (vec![encoder.decoder_start_token_id], Vec::new()),
            None => (prompt.source, Vec::new()),
        };
        // The start token is no text: it does not count against the length of a target.
        let given = if cross_slot.is_some() { 0 } else { first_tokens.len() } + prompt.decoder_prefix.len();
        first_tokens.extend(prompt.decoder_prefix);
        let room = self.limits.max_target_tokens - given;
        let max_new_tokens =
            request.params.max_new_tokens.min(prompt.max_new_tokens.unwrap_or(usize::MAX)).min(room);
        self.ready.push_back(ReadyPrompt {
            request: key,
            index,
            next_row: 0,
            rows_left: rows,
            cross: cross_slot.map(|slot| CrossView { slot, tokens: input_tokens }),
            input_tokens,
            first_tokens,
            repeatable,
            max_new_tokens: max_new_tokens.max(1),
        });
    }

    /// Gives free slots to rows of prompts that are ready.
    fn start_rows(&mut self) {
        let mut place = 0;
        // They go on while a source is encoded; when nobody runs, the step may as well wait for it.
        let others_run = !self.running.is_empty();
        while let Some(prompt) = self.ready.get_mut(place) {
            let Some(request) = self.requests.get(prompt.request) else {
                debug_assert!(false, "a failed request takes its prompts with it");
                break;
            };
            if let Some(cross) = prompt.cross
                && others_run
                && !self.executor.is_encoded(cross.slot)
            {
                place += 1;
                continue;
            }
            let mut placement = match self.slots.take(&prompt.first_tokens) {
                Taken::Placed(placement) => placement,
                Taken::Full => break,
                Taken::Later => {
                    place += 1;
                    continue;
                }
            };
            if let Some(source) = placement.copy_from
                && let Err(error) = self.executor.copy_prefix(source, placement.slot, placement.reused)
            {
                // Nothing is lost but time.
                log::warn!("a cached beginning could not be copied, the prompt is computed anew: {error}");
                self.slots.forget(placement.slot);
                placement.reused = 0;
            }
            if self.limits.encoder.is_none() {
                self.observer.prefix_reuse(prompt.first_tokens.len(), placement.reused);
            }
            let start = SequenceStart {
                request: prompt.request,
                slot: placement.slot,
                cross: prompt.cross,
                first_tokens: prompt.first_tokens.clone(),
                reused: placement.reused,
            };
            let drafter = || prompt.drafter(self.options.prompt_lookup, self.limits.vocab_size);
            let purpose = purpose_of(request, prompt, &*self.text, drafter);
            self.running.push(Sequence::new(start, purpose));
            self.waiting_sequences -= 1;
            prompt.next_row += 1;
            prompt.rows_left -= 1;
            if prompt.rows_left == 0 {
                self.ready.remove(place);
            }
        }
    }
}

/// What the next row of `prompt` is for; `drafter` makes what an answer drafts with.
fn purpose_of(
    request: &ActiveRequest,
    prompt: &ReadyPrompt,
    text: &dyn TextDecoderFactory,
    drafter: impl FnOnce() -> Option<Drafter>,
) -> Purpose {
    let samples = request.params.num_return_sequences;
    if let Some(choice) = prompt.next_row.checked_sub(samples)
        && let Some(guide) = &request.params.guide
    {
        let score = ChoiceScore::new(guide.clone(), choice);
        return Purpose::Score(PromptScore { prompt: prompt.index, score });
    }
    let index = prompt.index * samples + prompt.next_row;
    let seed = request.seed.wrapping_add(index as u64);
    let start = AnswerStart {
        index,
        input_tokens: prompt.input_tokens,
        max_new_tokens: prompt.max_new_tokens,
        sampler: TokenSampler::new(request.params.clone(), seed, &prompt.first_tokens),
        drafter: drafter(),
        decoder: match &request.params.guide {
            Some(guide) if guide.is_spelled() => Box::new(SpelledChoice::new(guide.clone())),
            _ => text.text_decoder(),
        },
        stop: request.stop.clone(),
    };
    Purpose::Answer(Box::new(Answer::new(start)))
}
