//! Limits of requests and messages a minute, for each address and each token.

use std::{hash::Hash, net::IpAddr, num::NonZeroU32};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::DefaultKeyedStateStore,
};

use super::Client;
use crate::{
    error::{ApiError, Result},
    settings::Operation,
};

/// None where nothing is limited.
type Limit<K> = Option<RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock>>;

/// The three limits.
#[derive(Debug)]
pub struct Rates {
    requests: Limit<IpAddr>,
    messages: Limit<IpAddr>,
    tokens: Limit<String>,
}

impl Rates {
    pub fn new(operation: &Operation) -> Self {
        Self {
            requests: limit(operation.requests_per_minute),
            messages: limit(operation.messages_per_minute),
            tokens: limit(operation.token_requests_per_minute),
        }
    }

    /// A request of this address.
    pub fn request(&self, address: IpAddr) -> Result<()> {
        take(&self.requests, &address, "requests of this address")
    }

    /// A request of this token.
    pub fn token(&self, client: &Client) -> Result<()> {
        client
            .subject
            .as_ref()
            .map_or(Ok(()), |subject| take(&self.tokens, subject, "requests of this token"))
    }

    /// A message of this client.
    pub fn message(&self, client: &Client) -> Result<()> {
        take(&self.messages, &client.address, "messages of this address")?;
        self.token(client)
    }

    pub fn tidy(&self) {
        tidy(&self.requests);
        tidy(&self.messages);
        tidy(&self.tokens);
    }
}

fn limit<K: Hash + Eq + Clone>(per_minute: u32) -> Limit<K> {
    NonZeroU32::new(per_minute).map(|count| RateLimiter::keyed(Quota::per_minute(count)))
}

fn take<K: Hash + Eq + Clone>(limit: &Limit<K>, key: &K, what: &str) -> Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    limit.check_key(key).map_err(|early| {
        let seconds = early.wait_time_from(DefaultClock::default().now()).as_secs() + 1;
        let count = early.quota().burst_size();
        ApiError::rate_limited(format!("more than {count} {what} in a minute; try again in {seconds} s"))
            .retry_after(seconds)
    })
}

fn tidy<K: Hash + Eq + Clone>(limit: &Limit<K>) {
    if let Some(limit) = limit {
        limit.retain_recent();
        limit.shrink_to_fit();
    }
}
