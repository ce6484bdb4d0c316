//! The end of a model's service, seen from inside.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::error::Error;

/// Notices that the server has stopped to send requests, and gives the running ones `drain_timeout_ms` from then.
///
/// The host does not tell: it waits for the requests however long they take, and a server that shuts down may
/// crash when they outlast its own timeout. But from the start of an unload, and of a shutdown once the doors
/// are closed, it no longer calls the model ready, and that can be asked.
pub struct DrainWatch {
    is_ready: Box<dyn Fn() -> bool + Send + Sync>,
    timeout: Duration,
    state: Mutex<State>,
    expired: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not ready yet: the model is being loaded, and its warm-up requests run.
    Loading,
    /// The server sends requests.
    Serving,
    /// The server has stopped to.
    Draining { since: Instant },
}

impl DrainWatch {
    /// `is_ready` asks the server whether it sends requests to the model.
    pub fn new(is_ready: impl Fn() -> bool + Send + Sync + 'static, timeout: Duration) -> Self {
        Self {
            is_ready: Box::new(is_ready),
            timeout,
            state: Mutex::new(State::Loading),
            expired: AtomicBool::new(false),
        }
    }

    /// Asks the server; to be called a few times in a second while requests run.
    pub fn poll(&self) {
        let ready = (self.is_ready)();
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, expired) = state.next(ready, now, self.timeout);
        *state = next;
        self.expired.store(expired, Ordering::Relaxed);
    }

    /// True once running requests have had their time.
    pub fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }

    /// What a request is told that did not finish in time.
    pub fn error(&self) -> Error {
        Error::unavailable(format!(
            "the model is being unloaded or the server shuts down, and the request did not finish within {} ms; \
             send it again elsewhere, or raise the configuration key `drain_timeout_ms`",
            self.timeout.as_millis()
        ))
    }
}

impl State {
    fn next(self, ready: bool, now: Instant, timeout: Duration) -> (Self, bool) {
        match (self, ready) {
            (_, true) => (State::Serving, false),
            (State::Loading, false) => (State::Loading, false),
            (State::Serving, false) => (State::Draining { since: now }, timeout.is_zero()),
            (State::Draining { since }, false) => (self, now.duration_since(since) >= timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_runs_from_the_moment_the_server_stops_sending() {
        let timeout = Duration::from_secs(20);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(State::Loading.next(false, at(100), timeout), (State::Loading, false));
        let (serving, _) = State::Loading.next(true, at(100), timeout);
        let (draining, expired) = serving.next(false, at(110), timeout);
        assert!(!expired);
        assert!(!draining.next(false, at(129), timeout).1);
        assert!(draining.next(false, at(130), timeout).1);
        // Loaded again meanwhile: the same name and version serve.
        assert_eq!(draining.next(true, at(131), timeout), (State::Serving, false));
        assert!(serving.next(false, at(0), Duration::ZERO).1);
    }
}
