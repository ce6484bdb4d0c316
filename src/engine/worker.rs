//! The engine's thread: admit, plan, execute, sample, emit, retire, over and over.
//!
//! A prompt has rows: its samples, which are told to the client, and one for each choice whose probability is asked
//! for. All read the same encoded source, or start from the same cached prompt.
//!
//! A step changes state only after the executor has succeeded. When a run fails, the batch is halved until the
//! rows that fail stand alone, so that the others go on.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use slab::Slab;

use super::{
    CrossView, DecodeBatch, EncodeBatch, EngineLoad, EngineOptions, EventSink, Executor, ExecutorLimits,
    Finished, GenerateRequest, Observer, Outcome, Phase, Prompt, SequenceUpdate, StepStats,
    TextDecoderFactory,
    pace::PrefillPace,
    prefix::{PrefixSlots, Taken},
    sequence::{Answer, AnswerStart, PromptScore, Purpose, Sequence, SequenceStart},
    slots::SharedSlotPool,
    step_plan::{PlannedRow, PrefillBudget, plan_step},
};
use crate::{
    decoding::{ChoiceScore, SamplerScratch, SamplingParams, StopMatcher, TokenSampler, normalize},
    error::{Error, ErrorKind, Result},
};

/// How often the requests that wait are asked whether they have been given up; those that run are in each step.
const WAITING_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// What the handle sends.
pub enum Message {
    /// Boxed: the channel moves it about.
    Request(Box<GenerateRequest>),
    /// Finish what is there, take nothing more.
    Shutdown,
}

/// A request that has not ended.
struct ActiveRequest {
    params: Arc<SamplingParams>,
    /// At the start of a text; each sequence has a copy.
    stop: StopMatcher,
    /// Seed of sequence 0.
    seed: u64,
    arrival: Instant,
    deadline: Option<Instant>,
    sink: Box<dyn EventSink>,
    /// Rows that have not finished, waiting ones included.
    unfinished: usize,
    /// What has been found of the choices of each prompt; none when nobody asks for it.
    scores: Vec<PromptScores>,
    started: bool,
    has_token: bool,
}

/// The scores of one prompt.
struct PromptScores {
    /// Log-probability of each choice, as far as it is known.
    logprobs: Vec<f64>,
    /// Choices that have not been scored.
    missing: usize,
}

impl ActiveRequest {
    /// Takes in a score that is complete; tells the client when it was the last one of its prompt.
    fn scored(&mut self, scored: &PromptScore) -> Result<()> {
        let Some(scores) = self.scores.get_mut(scored.prompt) else { return Ok(()) };
        scores.logprobs[scored.score.choice()] = scored.score.logprob();
        scores.missing -= 1;
        if scores.missing == 0 {
            normalize(&mut scores.logprobs)?;
            self.sink.choice_probabilities(scored.prompt, &scores.logprobs);
        }
        Ok(())
    }

    /// How and why it ends before it is complete; none while it may go on.
    fn early_end(&self, now: Instant, drained: bool) -> Option<(Outcome, Error)> {
        if let Some(error) = self.sink.given_up() {
            let outcome = match error.kind {
                ErrorKind::Cancelled => Outcome::Cancelled,
                ErrorKind::Unavailable => Outcome::Rejected,
                _ => Outcome::Failed,
            };
            return Some((outcome, error));
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let error = Error::unavailable(format!(
                "the deadline passed after {} ms, {}; allow more time or ask for less",
                self.arrival.elapsed().as_millis(),
                if self.started { "while the text was generated" } else { "still in the queue" }
            ));
            return Some((Outcome::TimedOut, error));
        }
        drained
            .then(|| (Outcome::Rejected, Error::unavailable("the model is being unloaded; try again later")))
    }
}

/// A prompt whose source is not encoded yet, or, in a decoder-only model, that no slot was free for.
struct WaitingPrompt {
    request: usize,
    /// Index within the request.
    index: usize,
    prompt: Prompt,
    /// Rows that it will have.
    rows: usize,
}

/// A prompt with rows that wait for a slot; its source is encoded.
struct ReadyPrompt {
    request: usize,
    /// Index within the request.
    index: usize,
    /// The next row to start: its samples come first, then the choices to score.
    next_row: usize,
    rows_left: usize,
    /// None in a decoder-only model.
    cross: Option<CrossView>,
    /// Tokens of the source or prompt.
    input_tokens: usize,
    /// What each target starts from.
    first_tokens: Vec<u32>,
    max_new_tokens: usize,
}

/// See the module.
pub struct Worker {
    executor: Box<dyn Executor>,
    limits: ExecutorLimits,
    text: Arc<dyn TextDecoderFactory>,
    observer: Arc<dyn Observer>,
    options: EngineOptions,
    inbox: Receiver<Message>,
    /// Shared with the handle: requests that have not started.
    waiting_requests: Arc<AtomicUsize>,
    requests: Slab<ActiveRequest>,
    waiting: VecDeque<WaitingPrompt>,
    /// Rows of `waiting` and `ready`.
    waiting_sequences: usize,
    ready: VecDeque<ReadyPrompt>,
    running: Vec<Sequence>,
    slots: PrefixSlots,
    cross_slots: SharedSlotPool,
    /// When all requests are asked next whether they have been given up.
    next_check: Instant,
    /// When set, nothing new comes, and what is left at this time is failed.
    drain_until: Option<Instant>,
    encode_batch: EncodeBatch,
    plan: Vec<PlannedRow>,
    pace: PrefillPace,
    decode_batch: DecodeBatch,
    scratch: SamplerScratch,
    text_piece: String,
    /// Rows of `running` that ended in this step, in rising order.
    finished: Vec<usize>,
    /// Requests that failed in this step.
    failed: Vec<(usize, Error)>,
}

impl Worker {
    pub fn new(
        executor: Box<dyn Executor>,
        text: Arc<dyn TextDecoderFactory>,
        observer: Arc<dyn Observer>,
        waiting_requests: Arc<AtomicUsize>,
        inbox: Receiver<Message>,
        options: EngineOptions,
    ) -> Self {
        let limits = executor.limits();
        // With an encoder, what a slot holds depends on the source as well.
        let reuse = options.prefix_reuse && limits.encoder.is_none();
        let cross_slots = limits.encoder.map_or(0, |encoder| encoder.cross_slots);
        let pace = PrefillPace::new(options.max_prefill_tokens);
        Self {
            executor,
            limits,
            text,
            observer,
            options,
            inbox,
            waiting_requests,
            requests: Slab::new(),
            waiting: VecDeque::new(),
            waiting_sequences: 0,
            ready: VecDeque::new(),
            running: Vec::with_capacity(limits.slots),
            slots: PrefixSlots::new(limits.slots, reuse),
            cross_slots: SharedSlotPool::new(cross_slots),
            next_check: Instant::now(),
            drain_until: None,
            encode_batch: EncodeBatch::default(),
            plan: Vec::new(),
            pace,
            decode_batch: DecodeBatch::default(),
            scratch: SamplerScratch::default(),
            text_piece: String::new(),
            finished: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Works until the handle is dropped and everything is answered.
    pub fn run(&mut self) {
        loop {
            self.receive();
            if self.requests.is_empty() {
                if self.drain_until.is_some() {
                    return;
                }
                continue;
            }
            self.end_given_up();
            self.admit();
            self.decode_step();
            self.report_load();
        }
    }

    /// Answers everything that is still here with `error`.
    pub fn fail_all(&mut self, error: &Error) {
        let all = self.requests.iter().map(|(key, _)| (key, Outcome::Failed, error.clone())).collect();
        self.end_requests(all);
        while let Ok(message) = self.inbox.try_recv() {
            if let Message::Request(request) = message {
                self.waiting_requests.fetch_sub(1, Ordering::Relaxed);
                self.observer.request_ended(Outcome::Failed, request.arrival.elapsed());
                request.sink.fail(error.clone());
            }
        }
    }

    /// Takes in what has arrived; waits for it when there is nothing to do.
    fn receive(&mut self) {
        while self.drain_until.is_none() {
            let message = if self.requests.is_empty() {
                self.inbox.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                self.inbox.try_recv()
            };
            match message {
                Ok(Message::Request(request)) => self.accept(*request),
                Ok(Message::Shutdown) | Err(TryRecvError::Disconnected) => {
                    self.drain_until = Some(Instant::now() + self.options.drain_timeout);
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    fn accept(&mut self, request: GenerateRequest) {
        let choices = request.params.scored_choices();
        let rows = request.params.num_return_sequences + choices;
        let unfinished = request.prompts.len() * rows;
        let scores = || PromptScores { logprobs: vec![0.0; choices], missing: choices };
        let key = self.requests.insert(ActiveRequest {
            seed: request.params.seed.unwrap_or_else(rand::random),
            stop: StopMatcher::new(&request.params.stop_words),
            params: request.params,
            arrival: request.arrival,
            deadline: request.deadline,
            sink: request.sink,
            unfinished,
            scores: match choices {
                0 => Vec::new(),
                _ => request.prompts.iter().map(|_| scores()).collect(),
            },
            started: false,
            has_token: false,
        });
        self.waiting_sequences += unfinished;
        self.waiting.extend(request.prompts.into_iter().enumerate().map(|(index, prompt)| WaitingPrompt {
            request: key,
            index,
            prompt,
            rows,
        }));
        self.report_load();
    }

    /// Ends requests that have been given up, whose deadline has passed, or for which the drain is over.
    fn end_given_up(&mut self) {
        let now = Instant::now();
        let drained = self.drain_until.is_some_and(|until| now >= until);
        let mut ended = Vec::new();
        if drained || now >= self.next_check {
            self.next_check = now + WAITING_CHECK_INTERVAL;
            for (key, request) in &self.requests {
                ended.extend(request.early_end(now, drained).map(|(outcome, error)| (key, outcome, error)));
            }
        } else {
            for key in self.running.iter().map(|sequence| sequence.request) {
                let end = self.requests.get(key).and_then(|request| request.early_end(now, drained));
                ended.extend(end.map(|(outcome, error)| (key, outcome, error)));
            }
        }
        self.end_requests(ended);
    }

    /// Starts rows of prompts that are ready, then makes as many waiting prompts ready as fit, and starts
    /// theirs.
    fn admit(&mut self) {
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
        let mut first_tokens = match self.limits.encoder {
            Some(encoder) => vec![encoder.decoder_start_token_id],
            None => prompt.source,
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
            max_new_tokens: max_new_tokens.max(1),
        });
    }

    /// Gives free slots to rows of prompts that are ready.
    fn start_rows(&mut self) {
        let mut place = 0;
        while let Some(prompt) = self.ready.get_mut(place) {
            let Some(request) = self.requests.get(prompt.request) else {
                debug_assert!(false, "a failed request takes its prompts with it");
                break;
            };
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
            let purpose = purpose_of(request, prompt, &*self.text);
            self.running.push(Sequence::new(start, purpose));
            self.waiting_sequences -= 1;
            prompt.next_row += 1;
            prompt.rows_left -= 1;
            if prompt.rows_left == 0 {
                self.ready.remove(place);
            }
        }
    }

    /// One step of all running sequences.
    fn decode_step(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let budget =
            PrefillBudget { beside_streams: self.pace.tokens(), alone: self.options.max_encode_tokens };
        let mut plan = std::mem::take(&mut self.plan);
        plan_step(self.running.iter().map(|sequence| sequence.pending().len()), budget, &mut plan);
        self.decode_rows(&plan);
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
    fn decode_rows(&mut self, plan: &[PlannedRow]) {
        if plan.is_empty() {
            return;
        }
        self.decode_batch.clear();
        for planned in plan {
            let sequence = &self.running[planned.row];
            let tokens = &sequence.pending()[..planned.tokens];
            self.decode_batch.push(tokens, sequence.slot, sequence.position, sequence.cross);
            if planned.completes {
                self.decode_batch.want_logits();
            }
        }
        let began = Instant::now();
        match self.executor.decode(&self.decode_batch) {
            Ok(()) => {
                let duration = began.elapsed();
                let tokens = self.decode_batch.tokens.len();
                self.observer.step(StepStats { phase: Phase::Decode, rows: plan.len(), tokens, duration });
                let streams = plan.iter().filter(|planned| planned.is_stream()).count();
                if streams > 0 {
                    self.pace.measured(tokens - streams, duration);
                }
                let (mut completed, mut generated) = (0, 0);
                for planned in plan {
                    let sequence = &mut self.running[planned.row];
                    sequence.feed(planned.tokens);
                    self.slots.fed(sequence.slot, planned.tokens);
                    if planned.completes {
                        generated += usize::from(matches!(sequence.purpose, Purpose::Answer(_)));
                        self.commit_row(planned.row, completed);
                        completed += 1;
                    }
                }
                self.observer.generated_tokens(generated);
            }
            Err(error) => match plan {
                [planned] => self.failed.push((self.running[planned.row].request, error)),
                _ => {
                    let (first, rest) = plan.split_at(plan.len() / 2);
                    self.decode_rows(first);
                    self.decode_rows(rest);
                }
            },
        }
    }

    /// Lets row `output` of the logits say what follows in `running[row]`.
    fn commit_row(&mut self, row: usize, output: usize) {
        let sequence = &mut self.running[row];
        let Some(request) = self.requests.get_mut(sequence.request) else {
            debug_assert!(false, "a running sequence belongs to a request");
            return;
        };
        let logits = self.executor.logits_mut(output);
        let answer = match &mut sequence.purpose {
            Purpose::Answer(answer) => answer,
            Purpose::Score(scored) => {
                let next = match scored.score.count(logits) {
                    Ok(None) => request.scored(scored).map(|()| None),
                    next => next,
                };
                match next {
                    Ok(Some(token)) => {
                        self.slots.follows(sequence.slot, token);
                        sequence.follow(token);
                    }
                    Ok(None) => self.finished.push(row),
                    Err(error) => self.failed.push((sequence.request, error)),
                }
                return;
            }
        };
        let choice = match answer.sampler.sample(logits, &mut self.scratch) {
            Ok(choice) => choice,
            Err(error) => {
                self.failed.push((sequence.request, error));
                return;
            }
        };
        let now = Instant::now();
        if let Some(last) = answer.last_token.replace(now) {
            self.observer.inter_token(now - last);
        }
        if !request.has_token {
            request.has_token = true;
            self.observer.first_token(now - request.arrival);
        }
        self.text_piece.clear();
        self.slots.follows(sequence.slot, choice.token);
        let reason = answer.advance(choice, &request.params, &mut self.text_piece);
        let logprobs = [choice.logprob];
        request.sink.update(&SequenceUpdate {
            sequence_index: answer.index,
            text: &self.text_piece,
            token_ids: &[choice.token],
            logprobs: if request.params.logprobs { &logprobs } else { &[] },
            finished: reason.map(|reason| Finished {
                reason,
                cumulative_logprob: answer.cumulative_logprob(),
                num_input_tokens: answer.input_tokens,
                num_output_tokens: answer.generated,
            }),
        });
        sequence.follow(choice.token);
        if reason.is_some() {
            self.finished.push(row);
        }
    }

    /// Frees what the finished sequence in `row` held, and completes its request when it was the last.
    fn retire(&mut self, row: usize) {
        let sequence = self.running.swap_remove(row);
        self.slots.give(sequence.slot);
        if let Some(cross) = sequence.cross {
            self.cross_slots.release(cross.slot, 1);
        }
        let Some(request) = self.requests.get_mut(sequence.request) else { return };
        request.unfinished -= 1;
        if request.unfinished == 0 {
            let request = self.requests.remove(sequence.request);
            self.observer.request_ended(Outcome::Completed, request.arrival.elapsed());
            request.sink.complete();
        }
    }

    /// Ends requests with their errors and frees all that they hold. A request that is named twice, as when two
    /// of its rows fail in one step, ends once.
    fn end_requests(&mut self, ended: Vec<(usize, Outcome, Error)>) {
        if ended.is_empty() {
            return;
        }
        let ended: Vec<(ActiveRequest, Outcome, Error)> = ended
            .into_iter()
            .filter_map(|(key, outcome, error)| Some((self.requests.try_remove(key)?, outcome, error)))
            .collect();
        self.free_orphans();
        for (request, outcome, error) in ended {
            if !request.started {
                self.waiting_requests.fetch_sub(1, Ordering::Relaxed);
            }
            self.observer.request_ended(outcome, request.arrival.elapsed());
            request.sink.fail(error);
        }
    }

    /// Frees what belongs to no request any more: one pass, however many have ended. To be called before the next
    /// request comes in, which may get the key of one that has gone.
    fn free_orphans(&mut self) {
        let requests = &self.requests;
        self.running.retain(|sequence| {
            let keep = requests.contains(sequence.request);
            if !keep {
                self.slots.give(sequence.slot);
                if let Some(cross) = sequence.cross {
                    self.cross_slots.release(cross.slot, 1);
                }
            }
            keep
        });
        self.ready.retain(|prompt| {
            let keep = requests.contains(prompt.request);
            if !keep {
                self.waiting_sequences -= prompt.rows_left;
                if let Some(cross) = prompt.cross {
                    self.cross_slots.release(cross.slot, prompt.rows_left);
                }
            }
            keep
        });
        self.waiting.retain(|waiting| {
            let keep = requests.contains(waiting.request);
            if !keep {
                self.waiting_sequences -= waiting.rows;
            }
            keep
        });
    }

    fn report_load(&self) {
        self.observer.load(EngineLoad {
            running: self.running.len(),
            waiting: self.waiting_sequences,
            slots: self.slots.capacity(),
        });
    }
}

/// What the next row of `prompt` is for.
fn purpose_of(request: &ActiveRequest, prompt: &ReadyPrompt, text: &dyn TextDecoderFactory) -> Purpose {
    let samples = request.params.num_return_sequences;
    if let Some(choice) = prompt.next_row.checked_sub(samples)
        && let Some(guide) = &request.params.guide
    {
        let score = ChoiceScore::new(guide.clone(), choice);
        return Purpose::Score(PromptScore { prompt: prompt.index, score });
    }
    let index = prompt.index * samples + prompt.next_row;
    let seed = request.seed.wrapping_add(index as u64);
    let sampler = TokenSampler::new(request.params.clone(), seed, &prompt.first_tokens);
    let start =
        AnswerStart { index, input_tokens: prompt.input_tokens, max_new_tokens: prompt.max_new_tokens };
    Purpose::Answer(Box::new(Answer::new(start, sampler, text.text_decoder(), request.stop.clone())))
}
