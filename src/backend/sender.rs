//! The thread that sends the responses of one instance.
//!
//! Encoding JSON happens inside the server's send, so it must not happen on the engine's thread.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{drain::DrainWatch, mailbox::Mailbox, pace::Pacer};
use crate::{
    error::{Error, Result},
    triton::guard,
};

/// How often the server is asked whether it still sends requests, while requests run.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Mailboxes that have something to send, first come first served; one with more goes to the back.
pub struct ReadyQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

struct QueueState {
    mailboxes: VecDeque<Arc<Mailbox>>,
    /// Requests that the engine has not ended.
    open: usize,
    /// Requests have come since the sender last looked, after a time without any.
    awoken: bool,
    /// The sender waits and has not been woken.
    is_waiting: bool,
    is_closed: bool,
}

/// What the sender is to do next.
enum Turn {
    Deliver(Arc<Mailbox>),
    /// The first request after a time without any is there.
    Awoken,
    /// Nothing to send for a while, with requests running.
    Idle,
    /// Nothing to send, and nothing will come.
    Closed,
}

impl ReadyQueue {
    fn new() -> Self {
        let state = QueueState {
            mailboxes: VecDeque::new(),
            open: 0,
            awoken: false,
            is_waiting: false,
            is_closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the sender if it waits: a call into the kernel, of which a step needs one rather
    /// than one for each of its rows.
    fn change(&self, change: impl FnOnce(&mut QueueState)) {
        let mut state = self.lock();
        change(&mut state);
        let wake = std::mem::take(&mut state.is_waiting);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Adds a mailbox that is not in the queue.
    pub(super) fn push(&self, mailbox: Arc<Mailbox>) {
        self.change(|state| state.mailboxes.push_back(mailbox));
    }

    /// A request was handed to the engine.
    pub(super) fn opened(&self) {
        self.change(|state| {
            state.awoken |= state.open == 0;
            state.open += 1;
        });
    }

    /// The engine has ended a request.
    pub(super) fn closed(&self) {
        self.lock().open -= 1;
    }

    fn close(&self) {
        self.change(|state| state.is_closed = true);
    }

    fn next(&self) -> Turn {
        let mut state = self.lock();
        loop {
            if std::mem::take(&mut state.awoken) {
                return Turn::Awoken;
            }
            if let Some(mailbox) = state.mailboxes.pop_front() {
                return Turn::Deliver(mailbox);
            }
            if state.is_closed {
                return Turn::Closed;
            }
            state.is_waiting = true;
            if state.open == 0 {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (guard, waited) =
                self.changed.wait_timeout(state, POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.is_waiting = false;
            if waited.timed_out() && state.mailboxes.is_empty() {
                return Turn::Idle;
            }
        }
    }
}

/// The running thread. Dropping it sends what is left and joins.
pub struct Sender {
    queue: Arc<ReadyQueue>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Starts the thread; `name` appears in the thread list.
    pub fn start(name: &str, pacer: Arc<Pacer>, drain: Arc<DrainWatch>) -> Result<Self> {
        let queue = Arc::new(ReadyQueue::new());
        let thread = thread::Builder::new()
            .name(format!("send {name}"))
            .spawn({
                let queue = queue.clone();
                move || run(&queue, &pacer, &drain)
            })
            .map_err(|error| Error::unavailable(format!("{name}: no thread for responses: {error}")))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Where sinks announce what they hold.
    pub fn queue(&self) -> Arc<ReadyQueue> {
        self.queue.clone()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.queue.close();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread for responses panicked; this is a defect of the textgen backend");
        }
    }
}

fn run(queue: &ReadyQueue, pacer: &Pacer, drain: &DrainWatch) {
    let mut polled = Instant::now();
    loop {
        let turn = queue.next();
        // At once when work begins: an unload that comes soon after must have been seen ready before.
        if matches!(turn, Turn::Awoken) || polled.elapsed() >= POLL_INTERVAL {
            drain.poll();
            polled = Instant::now();
        }
        match turn {
            Turn::Deliver(mailbox) => {
                // First the turn, then the content: what comes while it waits is merged.
                pacer.acquire();
                // A panic ends one request, which is answered while its stream is dropped.
                match catch_unwind(AssertUnwindSafe(|| mailbox.deliver())) {
                    Ok(true) => queue.push(mailbox),
                    Ok(false) => {}
                    Err(panic) => log::error!("{}", guard::panicked("sending a response", &*panic)),
                }
            }
            Turn::Awoken | Turn::Idle => {}
            Turn::Closed => return,
        }
    }
}

#[cfg(test)]
mod tests {
    //! Contract: whatever the engine says and however late it is sent, the client gets all text in order and
    //! exactly one end.

    use std::sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    };

    use super::*;
    use crate::{
        backend::mailbox::MailboxSink,
        decoding::SamplingParams,
        engine::{EventSink, FinishReason, Finished, SequenceUpdate},
        options::{OutputOptions, RequestOptions, ResolvedOptions},
        prompt::{PromptInput, PromptOptions},
        protocol::{ClientRequest, ModelInterface, Reply, ReplyPlan, TextLayout, schema},
        triton::fake_host::{self, Event},
    };

    struct Desk {
        queue: Arc<ReadyQueue>,
        drain: Arc<DrainWatch>,
        ready: Arc<AtomicBool>,
    }

    impl Desk {
        fn new() -> Self {
            let queue = Arc::new(ReadyQueue::new());
            // A closed queue still hands out what it holds, and never waits.
            queue.close();
            let ready = Arc::new(AtomicBool::new(true));
            let answer = ready.clone();
            let drain = DrainWatch::new(move || answer.load(Ordering::Relaxed), Duration::ZERO);
            drain.poll();
            Self { queue, drain: Arc::new(drain), ready }
        }

        fn sink(&self, stream: bool, texts: usize) -> Box<MailboxSink> {
            let interface =
                ModelInterface { batched: false, decoupled: true, outputs: vec![schema::TEXT_OUTPUT] };
            let request = ClientRequest {
                inputs: vec![PromptInput::Text(String::new()); texts],
                cut_inputs: Vec::new(),
                layout: TextLayout::Flat,
                options: RequestOptions::default(),
                outputs: None,
                timeout: None,
            };
            let options = ResolvedOptions {
                params: SamplingParams::default(),
                choices: None,
                decoder_prefix: Vec::new(),
                prompt: PromptOptions::default(),
                stream,
                exclude_input_in_output: true,
                outputs: OutputOptions::default(),
            };
            let reply = Reply::new(ReplyPlan::new(&request, &options, &interface).unwrap());
            Box::new(MailboxSink::new(
                "id".into(),
                reply,
                fake_host::stream(),
                self.queue.clone(),
                self.drain.clone(),
            ))
        }

        /// Sends all that can be sent; each response as its text, `FINAL` after the last, errors as `!code`.
        fn deliver(&self) -> Vec<String> {
            loop {
                match self.queue.next() {
                    Turn::Deliver(mailbox) if mailbox.deliver() => self.queue.push(mailbox),
                    Turn::Deliver(_) | Turn::Awoken => {}
                    Turn::Idle | Turn::Closed => break,
                }
            }
            fake_host::events().iter().map(shown).collect()
        }
    }

    fn shown(event: &Event) -> String {
        match event {
            Event::Sent { error: Some((code, _)), is_final: true, .. } => format!("!{code} FINAL"),
            Event::Sent { outputs, is_final, .. } => {
                let data = &outputs[0].2;
                let text = String::from_utf8_lossy(&data[4..]).into_owned();
                if *is_final { text + " FINAL" } else { text }
            }
            other => format!("{other:?}"),
        }
    }

    fn update(index: usize, text: &str) -> SequenceUpdate<'_> {
        SequenceUpdate { sequence_index: index, text, token_ids: &[1], logprobs: &[], finished: None }
    }

    fn last(index: usize, text: &str) -> SequenceUpdate<'_> {
        let finished = Finished {
            reason: FinishReason::Stop,
            cumulative_logprob: 0.0,
            num_input_tokens: 1,
            num_output_tokens: 1,
        };
        SequenceUpdate { finished: Some(finished), ..update(index, text) }
    }

    #[test]
    fn a_sender_that_waits_is_woken_by_each_piece() {
        let desk = Desk::new();
        let queue = Arc::new(ReadyQueue::new());
        let (found, delivered) = channel();
        let sender = thread::spawn({
            let queue = queue.clone();
            move || {
                while let Turn::Deliver(mailbox) = queue.next() {
                    found.send(mailbox).unwrap();
                }
            }
        });
        // A request that is dropped says so to the host.
        let mut open = Vec::new();
        for _ in 0..3 {
            let mut sink = desk.sink(true, 1);
            sink.update(&update(0, "a"));
            let mailbox = loop {
                if let Turn::Deliver(mailbox) = desk.queue.next() {
                    break mailbox;
                }
            };
            queue.push(mailbox);
            open.push((sink, delivered.recv_timeout(Duration::from_secs(60)).expect("the sender sleeps")));
        }
        queue.close();
        sender.join().unwrap();
    }

    #[test]
    fn pieces_are_merged_while_they_wait_and_the_last_carries_final() {
        let desk = Desk::new();
        let mut sink = desk.sink(true, 1);
        sink.update(&update(0, "a"));
        sink.update(&update(0, "b"));
        assert_eq!(desk.deliver(), ["ab"]);
        assert_eq!(desk.deliver(), [""; 0]);
        sink.update(&update(0, "c"));
        sink.update(&last(0, "d"));
        sink.complete();
        assert_eq!(desk.deliver(), ["cd FINAL", "FactoryDeleted"]);
    }

    #[test]
    fn the_end_of_the_last_sequence_waits_for_the_end_of_the_request() {
        let desk = Desk::new();
        let mut sink = desk.sink(true, 2);
        sink.update(&last(0, "a"));
        assert_eq!(desk.deliver(), ["a"]);
        sink.update(&last(1, "b"));
        assert_eq!(desk.deliver(), [""; 0]);
        sink.complete();
        assert_eq!(desk.deliver(), ["b FINAL", "FactoryDeleted"]);
    }

    #[test]
    fn a_piece_that_waits_goes_with_the_end_that_overtakes_it() {
        let desk = Desk::new();
        let mut sink = desk.sink(true, 1);
        sink.update(&update(0, "a"));
        sink.update(&last(0, "b"));
        assert_eq!(desk.deliver(), [""; 0]);
        sink.complete();
        assert_eq!(desk.deliver(), ["ab FINAL", "FactoryDeleted"]);
    }

    #[test]
    fn without_streaming_nothing_leaves_before_the_end() {
        let desk = Desk::new();
        let mut sink = desk.sink(false, 1);
        sink.update(&update(0, "a"));
        assert_eq!(desk.deliver(), [""; 0]);
        sink.update(&last(0, "b"));
        sink.complete();
        assert_eq!(desk.deliver(), ["ab FINAL", "FactoryDeleted"]);
    }

    #[test]
    fn text_that_exists_leaves_before_an_error_unless_nobody_listens() {
        let desk = Desk::new();
        let mut sink = desk.sink(true, 2);
        sink.update(&update(0, "a"));
        sink.update(&update(1, "b"));
        sink.fail(Error::unavailable("late"));
        assert_eq!(desk.deliver(), ["a", "b", "!4 FINAL", "FactoryDeleted"]);

        let mut sink = desk.sink(true, 1);
        sink.update(&update(0, "a"));
        sink.fail(Error::cancelled("gone"));
        assert_eq!(desk.deliver(), ["!7 FINAL", "FactoryDeleted"]);
    }

    #[test]
    fn a_sink_that_the_engine_drops_is_answered() {
        let desk = Desk::new();
        drop(desk.sink(true, 1));
        assert_eq!(desk.deliver(), ["!1 FINAL", "FactoryDeleted"]);
    }

    #[test]
    fn a_drained_request_hears_unavailable_and_a_cancelled_one_cancelled() {
        let desk = Desk::new();
        let sink = desk.sink(true, 1);
        assert_eq!(sink.given_up(), None);
        desk.ready.store(false, Ordering::Relaxed);
        desk.drain.poll();
        let reason = sink.given_up().unwrap();
        sink.fail(reason);
        assert_eq!(desk.deliver(), ["!4 FINAL", "FactoryDeleted"]);

        let sink = desk.sink(true, 1);
        fake_host::cancel();
        let reason = sink.given_up().unwrap();
        sink.fail(reason);
        assert_eq!(desk.deliver(), ["!7 FINAL", "FactoryDeleted"]);
    }

    #[test]
    fn a_response_that_the_server_refuses_ends_the_request() {
        let desk = Desk::new();
        let mut sink = desk.sink(true, 1);
        fake_host::refuse_output(schema::TEXT_OUTPUT);
        sink.update(&update(0, "a"));
        assert_eq!(desk.deliver(), ["!3 FINAL"]);
        let reason = sink.given_up().unwrap();
        sink.fail(reason);
        assert_eq!(desk.deliver(), ["FactoryDeleted"]);
    }
}
