//! The engine's thread: admit, plan, execute, sample, emit, retire, over and over.
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
    sequence::{Sequence, SequenceStart},
    slots::{SharedSlotPool, SlotPool},
};
use crate::{
    decoding::{SamplerScratch, SamplingParams, StopMatcher, TokenSampler},
    error::{Error, ErrorKind},
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
    /// Sequences that have not finished, waiting ones included.
    unfinished: usize,
    started: bool,
    has_token: bool,
}

impl ActiveRequest {
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

/// A prompt whose source is not encoded yet.
struct WaitingPrompt {
    request: usize,
    /// Index within the request.
    index: usize,
    prompt: Prompt,
    /// Sequences that will be decoded from it.
    samples: usize,
}

/// An encoded prompt with samples that wait for a slot.
struct EncodedPrompt {
    request: usize,
    /// Index in the request of the next sample to start.
    next_index: usize,
    samples_left: usize,
    cross: CrossView,
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
    /// Sequences of `waiting` and `encoded`.
    waiting_sequences: usize,
    encoded: VecDeque<EncodedPrompt>,
    running: Vec<Sequence>,
    slots: SlotPool,
    cross_slots: SharedSlotPool,
    /// When all requests are asked next whether they have been given up.
    next_check: Instant,
    /// When set, nothing new comes, and what is left at this time is failed.
    drain_until: Option<Instant>,
    encode_batch: EncodeBatch,
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
            encoded: VecDeque::new(),
            running: Vec::with_capacity(limits.slots),
            slots: SlotPool::new(limits.slots),
            cross_slots: SharedSlotPool::new(limits.cross_slots),
            next_check: Instant::now(),
            drain_until: None,
            encode_batch: EncodeBatch::default(),
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
        let samples = request.params.num_return_sequences;
        let sequences = request.prompts.len() * samples;
        let key = self.requests.insert(ActiveRequest {
            seed: request.params.seed.unwrap_or_else(rand::random),
            stop: StopMatcher::new(&request.params.stop_words),
            params: request.params,
            arrival: request.arrival,
            deadline: request.deadline,
            sink: request.sink,
            unfinished: sequences,
            started: false,
            has_token: false,
        });
        self.waiting_sequences += sequences;
        self.waiting.extend(request.prompts.into_iter().enumerate().map(|(index, prompt)| WaitingPrompt {
            request: key,
            index,
            prompt,
            samples,
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

    /// Starts samples of encoded prompts, then encodes as many waiting prompts as fit, and starts theirs.
    fn admit(&mut self) {
        self.start_samples();
        if !self.encoded.is_empty() {
            return;
        }
        let mut planned = self.plan_encode();
        if planned.is_empty() {
            return;
        }
        self.encode(&mut planned);
        self.start_samples();
    }

    /// Takes prompts off the queue, in order, while there are slots for them and tokens in the budget.
    /// A prompt whose samples do not all fit is taken too, as the last one: they start as slots come free.
    fn plan_encode(&mut self) -> Vec<(WaitingPrompt, usize)> {
        let mut planned = Vec::new();
        let (mut tokens, mut free) = (0, self.slots.free());
        while let Some(next) = self.waiting.front() {
            let fits =
                tokens + next.prompt.source.len() <= self.options.max_encode_tokens || planned.is_empty();
            if free == 0 || !fits {
                break;
            }
            let Some(cross_slot) = self.cross_slots.take(next.samples) else { break };
            tokens += next.prompt.source.len();
            free = free.saturating_sub(next.samples);
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
                    self.commit_encoded(waiting, cross_slot);
                }
            }
            Err(error) if planned.len() == 1 => {
                if let Some((waiting, cross_slot)) = planned.pop() {
                    self.drop_planned(&waiting, cross_slot);
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
    fn drop_planned(&mut self, waiting: &WaitingPrompt, cross_slot: usize) {
        self.cross_slots.release(cross_slot, waiting.samples);
        self.waiting_sequences -= waiting.samples;
    }

    fn commit_encoded(&mut self, waiting: WaitingPrompt, cross_slot: usize) {
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
        let WaitingPrompt { request: key, index, prompt, samples } = waiting;
        let room = self.limits.max_target_tokens - prompt.decoder_prefix.len();
        let max_new_tokens =
            request.params.max_new_tokens.min(prompt.max_new_tokens.unwrap_or(usize::MAX)).min(room);
        let mut first_tokens = prompt.decoder_prefix;
        first_tokens.insert(0, self.limits.decoder_start_token_id);
        self.encoded.push_back(EncodedPrompt {
            request: key,
            next_index: index * samples,
            samples_left: samples,
            cross: CrossView { slot: cross_slot, tokens: prompt.source.len() },
            first_tokens,
            max_new_tokens: max_new_tokens.max(1),
        });
    }

    /// Gives free slots to samples of encoded prompts.
    fn start_samples(&mut self) {
        while let Some(prompt) = self.encoded.front_mut() {
            let Some(request) = self.requests.get(prompt.request) else {
                debug_assert!(false, "a failed request takes its encoded prompts with it");
                break;
            };
            let Some(slot) = self.slots.take() else { break };
            let seed = request.seed.wrapping_add(prompt.next_index as u64);
            let (start_token, prefix) = (prompt.first_tokens[0], &prompt.first_tokens[1..]);
            let sampler = TokenSampler::new(request.params.clone(), seed, start_token, prefix);
            let start = SequenceStart {
                request: prompt.request,
                index: prompt.next_index,
                slot,
                cross: prompt.cross,
                first_tokens: prompt.first_tokens.clone(),
                max_new_tokens: prompt.max_new_tokens,
            };
            let decoder = self.text.text_decoder();
            self.running.push(Sequence::new(start, sampler, decoder, request.stop.clone()));
            self.waiting_sequences -= 1;
            prompt.next_index += 1;
            prompt.samples_left -= 1;
            if prompt.samples_left == 0 {
                self.encoded.pop_front();
            }
        }
    }

    /// One step of all running sequences.
    fn decode_step(&mut self) {
        if self.running.is_empty() {
            return;
        }
        self.decode_rows(0, self.running.len());
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

    fn decode_rows(&mut self, start: usize, end: usize) {
        self.decode_batch.clear();
        for sequence in &self.running[start..end] {
            self.decode_batch.push(&sequence.next, sequence.slot, sequence.position, sequence.cross);
        }
        let began = Instant::now();
        match self.executor.decode(&self.decode_batch) {
            Ok(()) => {
                self.observer.step(StepStats {
                    phase: Phase::Decode,
                    rows: end - start,
                    tokens: self.decode_batch.tokens.len(),
                    duration: began.elapsed(),
                });
                for row in start..end {
                    self.commit_row(row, row - start);
                }
                self.observer.generated_tokens(end - start);
            }
            Err(error) if end - start == 1 => self.failed.push((self.running[start].request, error)),
            Err(_) => {
                let middle = start + (end - start) / 2;
                self.decode_rows(start, middle);
                self.decode_rows(middle, end);
            }
        }
    }

    /// Chooses the token of `running[row]` from row `output` of the logits and tells the client.
    fn commit_row(&mut self, row: usize, output: usize) {
        let sequence = &mut self.running[row];
        let Some(request) = self.requests.get_mut(sequence.request) else {
            debug_assert!(false, "a running sequence belongs to a request");
            return;
        };
        let choice = match sequence.sampler.sample(self.executor.logits_mut(output), &mut self.scratch) {
            Ok(choice) => choice,
            Err(error) => {
                self.failed.push((sequence.request, error));
                return;
            }
        };
        let now = Instant::now();
        if let Some(last) = sequence.last_token.replace(now) {
            self.observer.inter_token(now - last);
        }
        if !request.has_token {
            request.has_token = true;
            self.observer.first_token(now - request.arrival);
        }
        self.text_piece.clear();
        let reason = sequence.advance(choice, &request.params, &mut self.text_piece);
        let logprobs = [choice.logprob];
        request.sink.update(&SequenceUpdate {
            sequence_index: sequence.index,
            text: &self.text_piece,
            token_ids: &[choice.token],
            logprobs: if request.params.logprobs { &logprobs } else { &[] },
            finished: reason.map(|reason| Finished {
                reason,
                cumulative_logprob: sequence.cumulative_logprob(),
                num_input_tokens: sequence.cross.tokens,
                num_output_tokens: sequence.generated,
            }),
        });
        if reason.is_some() {
            self.finished.push(row);
        }
    }

    /// Frees what the finished sequence in `row` held, and completes its request when it was the last.
    fn retire(&mut self, row: usize) {
        let sequence = self.running.swap_remove(row);
        self.slots.give(sequence.slot);
        self.cross_slots.release(sequence.cross.slot, 1);
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
                self.cross_slots.release(sequence.cross.slot, 1);
            }
            keep
        });
        self.encoded.retain(|prompt| {
            let keep = requests.contains(prompt.request);
            if !keep {
                self.waiting_sequences -= prompt.samples_left;
                self.cross_slots.release(prompt.cross.slot, prompt.samples_left);
            }
            keep
        });
        self.waiting.retain(|waiting| {
            let keep = requests.contains(waiting.request);
            if !keep {
                self.waiting_sequences -= waiting.samples;
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
