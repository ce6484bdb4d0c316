//! The time that a request has, from its arrival to its answer.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout_at};

use crate::error::{ApiError, Result};

/// When the time for a request is over.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// From now on, so much.
    pub fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    /// What the work gives, or none once the time is over; work that has not begun by then never begins.
    pub async fn reach<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        // `timeout_at` would look at the clock only after the work.
        if Instant::now() >= self.at { None } else { timeout_at(self.at, work).await.ok() }
    }

    /// The same, where it is an error to be late.
    pub async fn within<T>(&self, where_it_was: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.reach(work).await.unwrap_or_else(|| Err(self.late(where_it_was)))
    }

    /// The time for the request is over.
    pub fn late(&self, where_it_was: &str) -> ApiError {
        ApiError::deadline_exceeded(format!(
            "the {} seconds for a request passed, {where_it_was}; ask for less, or raise `request_timeout_s`",
            self.limit.as_secs()
        ))
    }
}
