//! The pace of responses.

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Responses that may be sent at once after a pause. Each HTTP thread of the server holds about 277 that it has
/// not written, and drops what comes above that without a word; all models together must stay below.
const BURST: u32 = 100;

/// Bounds the responses that the whole process sends. While a response waits for its turn, the pieces of its
/// sequence are merged, so a slower pace costs responses, not text.
pub struct Pacer {
    /// Time for one response.
    interval: Duration,
    /// When everything sent so far would be through at exactly the allowed rate.
    paid_until: Mutex<Instant>,
}

impl Pacer {
    /// `per_second` is at least 1.
    pub fn new(per_second: u64) -> Self {
        let interval = Duration::from_nanos(1_000_000_000 / per_second.max(1));
        Self { interval, paid_until: Mutex::new(Instant::now()) }
    }

    /// Waits until one more response may be sent.
    pub fn acquire(&self) {
        let wait = self.reserve(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
    }

    /// Takes one turn, and tells how long after `now` it comes.
    fn reserve(&self, now: Instant) -> Duration {
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*paid_until).max(now);
        *paid_until = turn + self.interval;
        turn.saturating_duration_since(now).saturating_sub(self.interval * (BURST - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let pacer = Pacer::new(1000);
        let start = Instant::now();
        let waits: Vec<Duration> = (0..BURST + 3).map(|_| pacer.reserve(start)).collect();
        assert!(waits[..BURST as usize].iter().all(Duration::is_zero));
        let interval = Duration::from_millis(1);
        // The pacer was made a moment before `start`, so the first turn begins at `start` itself.
        assert_eq!(waits[BURST as usize..], [interval, interval * 2, interval * 3]);
    }

    #[test]
    fn a_pause_gives_back_one_burst_and_no_more() {
        let pacer = Pacer::new(1000);
        let start = Instant::now();
        for _ in 0..BURST * 2 {
            pacer.reserve(start);
        }
        let later = start + Duration::from_secs(10);
        let waits: Vec<Duration> = (0..=BURST).map(|_| pacer.reserve(later)).collect();
        assert!(waits[..BURST as usize].iter().all(Duration::is_zero));
        assert_eq!(waits[BURST as usize], Duration::from_millis(1));
    }
}
