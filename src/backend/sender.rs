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
    is_closed: bool,
}

/// What the sender is to do next.
enum Turn {
    Deliver(Arc<Mailbox>),
    /// Nothing to send for a while, with requests running.
    Idle,
    /// Nothing to send, and nothing will come.
    Closed,
}

impl ReadyQueue {
    fn new() -> Self {
        let state = QueueState { mailboxes: VecDeque::new(), open: 0, is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a mailbox that is not in the queue.
    pub(super) fn push(&self, mailbox: Arc<Mailbox>) {
        self.lock().mailboxes.push_back(mailbox);
        self.changed.notify_one();
    }

    /// A request was handed to the engine.
    pub(super) fn opened(&self) {
        self.lock().open += 1;
        self.changed.notify_one();
    }

    /// The engine has ended a request.
    pub(super) fn closed(&self) {
        self.lock().open -= 1;
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    fn next(&self) -> Turn {
        let mut state = self.lock();
        loop {
            if let Some(mailbox) = state.mailboxes.pop_front() {
                return Turn::Deliver(mailbox);
            }
            if state.is_closed {
                return Turn::Closed;
            }
            if state.open == 0 {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (guard, waited) =
                self.changed.wait_timeout(state, POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner);
            state = guard;
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
        if polled.elapsed() >= POLL_INTERVAL {
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
            Turn::Idle => {}
            Turn::Closed => return,
        }
    }
}
