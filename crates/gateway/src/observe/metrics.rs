//! The metrics, in the words of Prometheus.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Name of a metric.
pub mod name {
    pub const REQUESTS: &str = "textgen_gateway_http_requests_total";
    pub const REQUEST_SECONDS: &str = "textgen_gateway_http_request_duration_seconds";
    pub const WORK: &str = "textgen_gateway_work_total";
    pub const FIRST_PIECE_SECONDS: &str = "textgen_gateway_time_to_first_piece_seconds";
    pub const OUTPUT_TOKENS: &str = "textgen_gateway_output_tokens_total";
    pub const ACTIVE: &str = "textgen_gateway_active";
    pub const QUEUED: &str = "textgen_gateway_queued";
    pub const SOCKETS: &str = "textgen_gateway_websockets";
    pub const CACHE: &str = "textgen_gateway_cache_lookups_total";
}

/// Bounds of the histograms, in seconds.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Everything that was counted.
#[derive(Debug, Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Begins to count; once in a process.
    pub fn start() -> Result<Self, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("metrics: {error}");
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
            .map_err(|error| wrong(&error))?;
        let handle = builder.install_recorder().map_err(|error| wrong(&error))?;
        describe_counter!(name::REQUESTS, "answers by route, method and status");
        describe_histogram!(name::REQUEST_SECONDS, Unit::Seconds, "time to the head of an answer, by route");
        describe_counter!(name::WORK, "ended work by service, model and outcome");
        describe_histogram!(
            name::FIRST_PIECE_SECONDS,
            Unit::Seconds,
            "time to the first text, waiting included"
        );
        describe_counter!(name::OUTPUT_TOKENS, "tokens generated, by service");
        describe_gauge!(name::ACTIVE, "requests at work");
        describe_gauge!(name::QUEUED, "requests that wait");
        describe_gauge!(name::SOCKETS, "open WebSockets");
        describe_counter!(name::CACHE, "deterministic questions by result: hit, miss");
        Ok(Self(handle))
    }

    /// As Prometheus reads them.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}
