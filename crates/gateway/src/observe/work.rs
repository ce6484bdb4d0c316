//! One piece of work that a service does for a request: counted and logged when it ends, whichever way.

use std::time::Instant;

use super::{RequestId, metrics::name};
use crate::error::ApiError;

/// Work that goes on. Dropped before its end, it was cancelled.
#[derive(Debug)]
pub struct Work {
    service: &'static str,
    model: String,
    id: RequestId,
    begin: Instant,
    first_piece_ms: Option<f64>,
    output_tokens: u32,
    ended: bool,
}

impl Work {
    /// From here on the time counts.
    pub fn begin(service: &'static str, model: &str, id: &RequestId) -> Self {
        Self {
            service,
            model: model.to_owned(),
            id: id.clone(),
            begin: Instant::now(),
            first_piece_ms: None,
            output_tokens: 0,
            ended: false,
        }
    }

    /// Text has come; so many tokens were generated so far.
    pub fn piece(&mut self, output_tokens: u32) {
        self.output_tokens = output_tokens;
        if self.first_piece_ms.is_none() {
            let elapsed = self.begin.elapsed().as_secs_f64();
            metrics::histogram!(name::FIRST_PIECE_SECONDS, "service" => self.service).record(elapsed);
            self.first_piece_ms = Some(elapsed * 1e3);
        }
    }

    /// It is complete.
    pub fn done(&mut self, output_tokens: u32) {
        self.output_tokens = output_tokens;
        self.end("completed", None);
    }

    /// It has failed; the error comes back.
    pub fn fail(&mut self, error: ApiError) -> ApiError {
        self.end("failed", Some(&error));
        error
    }

    fn end(&mut self, outcome: &'static str, error: Option<&ApiError>) {
        self.ended = true;
        let Self { service, model, output_tokens, first_piece_ms, .. } = self;
        metrics::counter!(name::WORK, "service" => *service, "model" => model.clone(), "outcome" => outcome)
            .increment(1);
        metrics::counter!(name::OUTPUT_TOKENS, "service" => *service).increment(u64::from(*output_tokens));
        let error_type = error.map(|error| error.code.name());
        // What is wrong with a request, its error says in the client's words.
        let ours = error.filter(|error| error.code.status().is_server_error());
        let reason = ours.map(|error| error.message.as_str());
        let elapsed_ms = self.begin.elapsed().as_secs_f64() * 1e3;
        let request_id = self.id.as_str();
        tracing::info!(
            request_id,
            service,
            model,
            outcome,
            elapsed_ms,
            first_piece_ms,
            output_tokens,
            error_type,
            reason,
            "work"
        );
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.ended {
            self.end("cancelled", None);
        }
    }
}
