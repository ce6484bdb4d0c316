//! Where the engine leaves a request's events until they are sent.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use super::{drain::DrainWatch, sender::ReadyQueue};
use crate::{
    engine::{EventSink, SequenceUpdate},
    error::{Error, ErrorKind, Result},
    protocol::Reply,
    triton::{CancelProbe, OutputTensor, ResponseStream},
};

/// Holds what has not been sent of one request. The engine writes, the sender reads; the lock is held for a few
/// copies, never while something is sent.
pub struct Mailbox {
    id: String,
    /// FINAL has been sent; whatever the engine still says is for nobody.
    is_answered: AtomicBool,
    content: Mutex<Content>,
}

struct Content {
    reply: Reply,
    end: Option<End>,
    /// None while the sender has it, and after the end.
    responses: Option<ResponseStream>,
    /// In the ready queue, or about to be looked at by the sender.
    is_queued: bool,
}

enum End {
    Complete,
    Failed(Error),
}

/// What the sender is to do with a mailbox.
enum Task {
    Send(Result<Vec<OutputTensor>>),
    Finish(Result<Vec<OutputTensor>>),
    FinishEmpty,
    Fail(Error),
}

impl Mailbox {
    fn new(id: String, reply: Reply, responses: ResponseStream) -> Self {
        let content = Content { reply, end: None, responses: Some(responses), is_queued: false };
        Self { id, is_answered: AtomicBool::new(false), content: Mutex::new(content) }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends at most one response. True when there is more, and the mailbox stays in the queue.
    pub(super) fn deliver(&self) -> bool {
        let (task, mut responses) = {
            let mut content = self.lock();
            content.is_queued = false;
            // The last piece may have come since the mailbox was queued: its end queues it again.
            if !content.is_due() {
                return false;
            }
            let Some(task) = content.next_task() else { return false };
            let Some(responses) = content.responses.take() else { return false };
            (task, responses)
        };
        let failed = match task {
            Task::Send(Ok(outputs)) => match responses.send(&outputs) {
                Ok(()) => return self.put_back(responses),
                Err(error) => error,
            },
            Task::Finish(Ok(outputs)) => {
                responses.finish(&outputs);
                return self.answered();
            }
            Task::FinishEmpty => {
                responses.finish_empty();
                return self.answered();
            }
            Task::Send(Err(error)) | Task::Finish(Err(error)) | Task::Fail(error) => error,
        };
        log_failure(&self.id, &failed);
        responses.fail(&failed);
        self.answered()
    }

    /// Nothing more will be sent.
    fn answered(&self) -> bool {
        self.is_answered.store(true, Ordering::Relaxed);
        false
    }

    fn put_back(&self, responses: ResponseStream) -> bool {
        let mut content = self.lock();
        content.responses = Some(responses);
        // An event that came meanwhile has queued the mailbox itself.
        let again = !content.is_queued && content.is_due();
        content.is_queued |= again;
        again
    }

    /// Changes the content; true when the mailbox has to be queued.
    fn write(&self, change: impl FnOnce(&mut Content)) -> bool {
        let mut content = self.lock();
        change(&mut content);
        let queue = !content.is_queued && content.is_due();
        content.is_queued |= queue;
        queue
    }
}

impl Content {
    /// Whether there is something to send. The last piece of all waits for the end, which follows at once, so
    /// that both leave in one response.
    fn is_due(&self) -> bool {
        self.end.is_some() || (self.reply.has_piece() && self.reply.is_unfinished())
    }

    fn next_task(&mut self) -> Option<Task> {
        if let Some(piece) = self.reply.next_piece() {
            let is_last = !self.reply.has_piece() && matches!(self.end, Some(End::Complete));
            return Some(if is_last { Task::Finish(piece) } else { Task::Send(piece) });
        }
        Some(match self.end.take()? {
            End::Failed(error) => Task::Fail(error),
            End::Complete if self.reply.is_stream() => Task::FinishEmpty,
            End::Complete => Task::Finish(self.reply.whole()),
        })
    }
}

/// The engine's side of a mailbox.
pub struct MailboxSink {
    mailbox: Arc<Mailbox>,
    queue: Arc<ReadyQueue>,
    cancel: CancelProbe,
    drain: Arc<DrainWatch>,
    is_open: bool,
}

impl MailboxSink {
    /// A sink for one request.
    pub fn new(
        id: String,
        reply: Reply,
        responses: ResponseStream,
        queue: Arc<ReadyQueue>,
        drain: Arc<DrainWatch>,
    ) -> Self {
        let cancel = responses.cancel_probe();
        queue.opened();
        let mailbox = Arc::new(Mailbox::new(id, reply, responses));
        Self { mailbox, queue, cancel, drain, is_open: true }
    }

    fn write(&self, change: impl FnOnce(&mut Content)) {
        if self.mailbox.write(change) {
            self.queue.push(self.mailbox.clone());
        }
    }

    fn end(&mut self, end: End) {
        self.is_open = false;
        self.write(|content| {
            if matches!(&end, End::Failed(error) if error.kind == ErrorKind::Cancelled) {
                content.reply.discard();
            }
            content.end = Some(end);
        });
        self.queue.closed();
    }
}

impl EventSink for MailboxSink {
    fn update(&mut self, update: &SequenceUpdate<'_>) {
        self.write(|content| content.reply.update(update));
    }

    fn choice_probabilities(&mut self, prompt: usize, probabilities: &[f64]) {
        self.write(|content| content.reply.choice_probabilities(prompt, probabilities));
    }

    fn complete(mut self: Box<Self>) {
        self.end(End::Complete);
    }

    fn fail(mut self: Box<Self>, error: Error) {
        self.end(End::Failed(error));
    }

    fn given_up(&self) -> Option<Error> {
        if self.cancel.is_cancelled() {
            Some(Error::cancelled("the client cancelled the request"))
        } else if self.drain.is_expired() {
            Some(self.drain.error())
        } else if self.mailbox.is_answered.load(Ordering::Relaxed) {
            Some(Error::internal("the server refused a response, and the client has heard why"))
        } else {
            None
        }
    }
}

impl Drop for MailboxSink {
    fn drop(&mut self) {
        if self.is_open {
            self.end(End::Failed(Error::internal(
                "the engine gave the request up without an answer; this is a defect of the textgen backend",
            )));
        }
    }
}

/// Says in the log why a request failed, as loudly as it concerns the operator.
pub(super) fn log_failure(id: &str, error: &Error) {
    let level = match error.kind {
        ErrorKind::Internal => log::Level::Error,
        ErrorKind::Unavailable => log::Level::Warn,
        _ => log::Level::Debug,
    };
    log::log!(level, "request {id:?}: {error}");
}
