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

use self::step::Said;
use super::{
    DecodeBatch, EncodeBatch, EngineLoad, EngineOptions, Executor, ExecutorLimits, GenerateRequest, Observer,
    Outcome, TextDecoderFactory,
    active::ActiveRequest,
    pace::PrefillPace,
    prefix::PrefixSlots,
    sequence::Sequence,
    slots::SharedSlotPool,
    step_plan::PlannedRow,
    waiting::{ReadyPrompt, WaitingPrompt},
};
use crate::{decoding::SamplerScratch, error::Error};

mod admission;
mod step;

/// How often the requests that wait are asked whether they have been given up; those that run are in each step.
const WAITING_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// What the handle sends.
pub enum Message {
    /// Boxed: the channel moves it about.
    Request(Box<GenerateRequest>),
    /// Finish what is there, take nothing more.
    Shutdown,
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
    said: Said,
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
            said: Said::default(),
            finished: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Works until the handle is dropped and everything is answered. The microbenchmarks count its instructions by its
    /// name, which inlining would take away.
    #[inline(never)]
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
        let (request, prompts) = ActiveRequest::new(request);
        let rows = request.rows_per_prompt();
        self.waiting_sequences += request.unfinished;
        let key = self.requests.insert(request);
        let waiting = |(index, prompt)| WaitingPrompt { request: key, index, prompt, rows };
        self.waiting.extend(prompts.into_iter().enumerate().map(waiting));
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

    /// Frees what the finished sequence in `row` held, and completes its request when it was the last.
    fn retire(&mut self, row: usize) {
        let mut sequence = self.running.swap_remove(row);
        self.slots.give(sequence.slot);
        if let Some(source) = sequence.let_source_go() {
            self.cross_slots.release(source, 1);
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
        self.running.retain_mut(|sequence| {
            let keep = requests.contains(sequence.request);
            if !keep {
                self.slots.give(sequence.slot);
                if let Some(source) = sequence.let_source_go() {
                    self.cross_slots.release(source, 1);
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
