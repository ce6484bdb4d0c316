//! The handle to an engine, and the thread behind it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{
    Executor, ExecutorLimits, GenerateRequest, MemoryUse, Observer, Outcome, PromptLookup,
    TextDecoderFactory,
    worker::{Message, Worker},
};
use crate::{
    decoding::SamplingParams,
    error::{Error, Result},
};

/// Bounds of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Requests that may wait; one more is answered UNAVAILABLE at once.
    pub max_queue_requests: usize,
    /// Source tokens that one run of the encoder may hold, so that running streams keep their pace. A single
    /// longer source still runs, alone.
    pub max_encode_tokens: usize,
    /// Prompt tokens that a step of a decoder-only model may hold beside streams that wait for their next token, at
    /// most: it holds as many as make the step about twice as long. When no stream waits,
    /// [`EngineOptions::max_encode_tokens`] is the bound.
    pub max_prefill_tokens: usize,
    /// Whether prompts that begin alike share what has been computed for their beginning; decoder-only models.
    pub prefix_reuse: bool,
    /// How drafts are looked for; nothing is drafted for an executor that cannot go back.
    pub prompt_lookup: PromptLookup,
    /// Time that running requests get to finish when the engine is dropped; then they are cancelled.
    pub drain_timeout: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_queue_requests: 1024,
            max_encode_tokens: 512,
            max_prefill_tokens: 256,
            prefix_reuse: true,
            prompt_lookup: PromptLookup::default(),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// Handle to a running engine. Dropping it drains: waiting and running requests get
/// [`EngineOptions::drain_timeout`] to finish, what is left is failed, and the thread is joined.
pub struct Engine {
    inbox: Sender<Message>,
    /// Requests handed over and not yet started.
    waiting: Arc<AtomicUsize>,
    max_queue_requests: usize,
    limits: ExecutorLimits,
    memory: MemoryUse,
    observer: Arc<dyn Observer>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the engine's thread, has it `load` its executor, and waits until it has: some devices want the thread
    /// that loads to be the one that decodes. `name` appears in the thread list and the log.
    pub fn start<E: Executor + 'static>(
        name: &str,
        load: impl FnOnce() -> Result<E> + Send + 'static,
        text: Arc<dyn TextDecoderFactory>,
        observer: Arc<dyn Observer>,
        options: EngineOptions,
    ) -> Result<Self> {
        let (sender, receiver) = channel();
        let (loaded, when_loaded) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let max_queue_requests = options.max_queue_requests;
        let (thread_name, thread_observer, thread_waiting) =
            (name.to_owned(), observer.clone(), waiting.clone());
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let executor = match load() {
                    Ok(executor) => Box::new(executor),
                    Err(error) => return drop(loaded.send(Err(error))),
                };
                let (limits, memory) = (executor.limits(), executor.memory());
                let options = without_vain_drafts(options, limits, &thread_name);
                let mut worker =
                    Worker::new(executor, text, thread_observer, thread_waiting, receiver, options);
                // Nobody is there to hear it when the one who started has gone.
                let _ = loaded.send(Ok((limits, memory)));
                // A panic must not leave clients waiting: they are answered, and the closed inbox turns new
                // ones away.
                if catch_unwind(AssertUnwindSafe(|| worker.run())).is_err() {
                    log::error!("{thread_name}: the engine panicked and has stopped; reload the model");
                    worker.fail_all(&Error::internal("the engine panicked; reload the model"));
                }
            })
            .map_err(|error| Error::internal(format!("{name}: the engine's thread cannot start: {error}")))?;
        // It hangs up without a word when it panics.
        let panicked = |_| Err(Error::internal("the model panicked while it was loaded"));
        let (limits, memory) = match when_loaded.recv().unwrap_or_else(panicked) {
            Ok(loaded) => loaded,
            Err(error) => {
                // What it has taken is given back before somebody tries again.
                let _ = thread.join();
                return Err(error);
            }
        };
        Ok(Self {
            inbox: sender,
            waiting,
            max_queue_requests,
            limits,
            memory,
            observer,
            thread: Some(thread),
        })
    }

    /// Memory that the model holds.
    pub fn memory(&self) -> MemoryUse {
        self.memory
    }

    /// Sizes that requests must keep to.
    pub fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    /// Hands a request over. A request that cannot be taken (full queue, draining, a prompt that is too long
    /// or empty) is answered through its sink; never blocks.
    pub fn submit(&self, request: GenerateRequest) {
        if let Err(error) = self.check(&request) {
            return self.reject(request, Outcome::Failed, error);
        }
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= self.max_queue_requests {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let error = Error::unavailable(format!(
                "the queue is full: {waiting} requests wait, at most {} may; try again later",
                self.max_queue_requests
            ));
            return self.reject(request, Outcome::Rejected, error);
        }
        if let Err(returned) = self.inbox.send(Message::Request(Box::new(request))) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            if let Message::Request(request) = returned.0 {
                let error =
                    Error::unavailable("the engine has stopped after an internal error; reload the model");
                self.reject(*request, Outcome::Rejected, error);
            }
        }
    }

    fn check(&self, request: &GenerateRequest) -> Result<()> {
        if request.prompts.is_empty()
            || request.params.num_return_sequences == 0
            || request.params.max_new_tokens == 0
        {
            return Err(Error::invalid_argument(
                "a request needs at least one text, one sequence for each, and one new token",
            ));
        }
        for (index, prompt) in request.prompts.iter().enumerate() {
            let (source, prefix) = (prompt.source.len(), prompt.decoder_prefix.len());
            let max_target_tokens = self.limits.max_target_tokens;
            if source == 0 {
                return Err(Error::invalid_argument(format!("text {index}: no tokens; give it some text")));
            }
            let Some(encoder) = self.limits.encoder else {
                self.check_guide(&request.params, index, source + prefix)?;
                if source + prefix >= max_target_tokens {
                    return Err(Error::invalid_argument(format!(
                        "text {index}: its prompt has {} tokens, the context holds {max_target_tokens}, at least one \
                         generated token among them; shorten the text, or raise max_context_tokens if the model \
                         allows more",
                        source + prefix
                    )));
                }
                continue;
            };
            if source > encoder.max_source_tokens {
                return Err(Error::invalid_argument(format!(
                    "text {index}: {source} tokens, at most {} are served; shorten or split the text, or raise \
                     max_source_tokens",
                    encoder.max_source_tokens
                )));
            }
            if prefix + 1 > max_target_tokens {
                return Err(Error::invalid_argument(format!(
                    "text {index}: a forced prefix of {} tokens, at most {} fit; shorten decoder_text_input, or \
                     raise max_target_tokens",
                    prefix,
                    max_target_tokens - 1
                )));
            }
            self.check_guide(&request.params, index, prefix)?;
        }
        Ok(())
    }

    /// Every choice has to fit after the `given` tokens of a text.
    fn check_guide(&self, params: &SamplingParams, index: usize, given: usize) -> Result<()> {
        let Some(guide) = &params.guide else { return Ok(()) };
        let (needed, max_target_tokens) = (guide.max_tokens(), self.limits.max_target_tokens);
        if given + needed <= max_target_tokens {
            return Ok(());
        }
        let (what, key) = match self.limits.encoder {
            Some(_) => ("forced prefix", "max_target_tokens"),
            None => ("prompt", "max_context_tokens"),
        };
        let after = if given > 0 { format!(" after a {what} of {given}") } else { String::new() };
        Err(Error::invalid_argument(format!(
            "text {index}: a choice of {needed} tokens, its end included{after}, together at most {max_target_tokens} \
             fit; shorten it, or raise {key} if the model allows more"
        )))
    }

    fn reject(&self, request: GenerateRequest, outcome: Outcome, error: Error) {
        self.observer.request_ended(outcome, request.arrival.elapsed());
        request.sink.fail(error);
    }
}

/// Nothing is drafted for an executor that could not take it back.
fn without_vain_drafts(mut options: EngineOptions, limits: ExecutorLimits, name: &str) -> EngineOptions {
    if options.prompt_lookup.num_tokens > 0 && !limits.can_rewind {
        log::warn!("{name}: nothing is drafted: the model has a recurrent state, which cannot go back");
        options.prompt_lookup.num_tokens = 0;
    }
    options
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The thread may be gone after a panic; then there is nothing to drain.
        let _ = self.inbox.send(Message::Shutdown);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the engine's thread panicked while it answered its last requests");
        }
    }
}
