//! What operators see on the server's metrics port: the engine's measurements under the prefix `textgen_`, with
//! the labels `model` and `version`. Names after the prefix are those that other text-generation servers use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{
    engine::{EngineLoad, MemoryUse, Observer, Outcome, Phase, StepStats},
    error::Result,
    triton::{Counter, CounterFamily, Gauge, GaugeFamily, Histogram, HistogramFamily},
};

/// Upper bounds in seconds of what a client waits for.
const REQUEST_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Upper bounds in seconds of a token or a step.
const STEP_SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// Upper bounds of the rows of a step.
const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The metric families; the backend registers them once.
pub struct MetricFamilies {
    requests: CounterFamily,
    prompt_tokens: CounterFamily,
    prefix_queries: CounterFamily,
    prefix_hits: CounterFamily,
    generation_tokens: CounterFamily,
    draft_tokens: CounterFamily,
    accepted_tokens: CounterFamily,
    time_to_first_token: HistogramFamily,
    time_per_output_token: HistogramFamily,
    queue_time: HistogramFamily,
    request_latency: HistogramFamily,
    step_duration: HistogramFamily,
    step_rows: HistogramFamily,
    running: GaugeFamily,
    waiting: GaugeFamily,
    slots: GaugeFamily,
    memory: GaugeFamily,
}

impl MetricFamilies {
    /// Registers every family.
    pub fn new() -> Result<Self> {
        Ok(Self {
            requests: CounterFamily::new(
                "textgen_requests_total",
                "Requests that ended, by outcome: completed, cancelled, timed_out, rejected, failed",
            )?,
            prompt_tokens: CounterFamily::new(
                "textgen_prompt_tokens_total",
                "Tokens of the sources or prompts that have been taken up",
            )?,
            prefix_queries: CounterFamily::new(
                "textgen_prefix_cache_queries_total",
                "Prompt tokens that were looked for in the caches",
            )?,
            prefix_hits: CounterFamily::new(
                "textgen_prefix_cache_hits_total",
                "Prompt tokens that were in a cache and need not be computed",
            )?,
            generation_tokens: CounterFamily::new("textgen_generation_tokens_total", "Tokens generated")?,
            draft_tokens: CounterFamily::new(
                "textgen_spec_decode_num_draft_tokens_total",
                "Tokens that were drafted by prompt lookup",
            )?,
            accepted_tokens: CounterFamily::new(
                "textgen_spec_decode_num_accepted_tokens_total",
                "Drafted tokens that were generated",
            )?,
            time_to_first_token: HistogramFamily::new(
                "textgen_time_to_first_token_seconds",
                "Time from a request's arrival to its first token",
                REQUEST_SECONDS,
            )?,
            time_per_output_token: HistogramFamily::new(
                "textgen_time_per_output_token_seconds",
                "Time between two tokens of one sequence",
                STEP_SECONDS,
            )?,
            queue_time: HistogramFamily::new(
                "textgen_request_queue_time_seconds",
                "Time that a request waited before its first prompt was encoded",
                REQUEST_SECONDS,
            )?,
            request_latency: HistogramFamily::new(
                "textgen_e2e_request_latency_seconds",
                "Time from a request's arrival to its end",
                REQUEST_SECONDS,
            )?,
            step_duration: HistogramFamily::new(
                "textgen_step_duration_seconds",
                "Time of one run of the model, by phase: encode, decode",
                STEP_SECONDS,
            )?,
            step_rows: HistogramFamily::new(
                "textgen_step_rows",
                "Sources or sequences in one run of the model, by phase: encode, decode",
                ROWS,
            )?,
            running: GaugeFamily::new("textgen_sequences_running", "Sequences being generated")?,
            waiting: GaugeFamily::new("textgen_sequences_waiting", "Sequences that wait for a slot")?,
            slots: GaugeFamily::new("textgen_sequence_slots", "Sequences that can be generated at once")?,
            memory: GaugeFamily::new(
                "textgen_memory_bytes",
                "Memory that the model holds, by use: weights, caches, workspace (counted on a GPU only)",
            )?,
        })
    }
}

/// The metrics of one model, shared by its instances.
pub struct ModelMetrics {
    requests: [(Outcome, Counter); Outcome::ALL.len()],
    prompt_tokens: Counter,
    prefix_queries: Counter,
    prefix_hits: Counter,
    generation_tokens: Counter,
    draft_tokens: Counter,
    accepted_tokens: Counter,
    time_to_first_token: Histogram,
    time_per_output_token: Histogram,
    queue_time: Histogram,
    request_latency: Histogram,
    encode: StepMetrics,
    decode: StepMetrics,
    running: Gauge,
    waiting: Gauge,
    slots: Gauge,
    memory: MemoryMetrics,
}

struct MemoryMetrics {
    weights: Gauge,
    caches: Gauge,
    workspace: Gauge,
}

struct StepMetrics {
    duration: Histogram,
    rows: Histogram,
}

impl ModelMetrics {
    /// The metrics of that model.
    pub fn new(families: &MetricFamilies, model: &str, version: &str) -> Result<Self> {
        let labels = [("model", model), ("version", version)];
        let with = |name, value| [labels[0], labels[1], (name, value)];
        let outcome = |outcome: Outcome| {
            families.requests.with(&with("outcome", outcome.as_str())).map(|counter| (outcome, counter))
        };
        let step = |phase| {
            let labels = with("phase", phase);
            Ok::<_, crate::error::Error>(StepMetrics {
                duration: families.step_duration.with(&labels)?,
                rows: families.step_rows.with(&labels)?,
            })
        };
        let [completed, cancelled, timed_out, rejected, failed] = Outcome::ALL.map(outcome);
        Ok(Self {
            requests: [completed?, cancelled?, timed_out?, rejected?, failed?],
            prompt_tokens: families.prompt_tokens.with(&labels)?,
            prefix_queries: families.prefix_queries.with(&labels)?,
            prefix_hits: families.prefix_hits.with(&labels)?,
            generation_tokens: families.generation_tokens.with(&labels)?,
            draft_tokens: families.draft_tokens.with(&labels)?,
            accepted_tokens: families.accepted_tokens.with(&labels)?,
            time_to_first_token: families.time_to_first_token.with(&labels)?,
            time_per_output_token: families.time_per_output_token.with(&labels)?,
            queue_time: families.queue_time.with(&labels)?,
            request_latency: families.request_latency.with(&labels)?,
            encode: step("encode")?,
            decode: step("decode")?,
            running: families.running.with(&labels)?,
            waiting: families.waiting.with(&labels)?,
            slots: families.slots.with(&labels)?,
            memory: MemoryMetrics {
                weights: families.memory.with(&with("use", "weights"))?,
                caches: families.memory.with(&with("use", "caches"))?,
                workspace: families.memory.with(&with("use", "workspace"))?,
            },
        })
    }

    /// Counts a request that ended before it came to the engine.
    pub fn refused(&self, total: Duration) {
        self.ended(Outcome::Failed, total);
    }

    fn ended(&self, outcome: Outcome, total: Duration) {
        if let Some((_, counter)) = self.requests.iter().find(|(known, _)| *known == outcome) {
            counter.add(1.0);
        }
        self.request_latency.observe(total.as_secs_f64());
    }

    fn shift(&self, from: EngineLoad, to: EngineLoad) {
        let pairs = [
            (&self.running, from.running, to.running),
            (&self.waiting, from.waiting, to.waiting),
            (&self.slots, from.slots, to.slots),
        ];
        for (gauge, from, to) in pairs {
            if from != to {
                gauge.add(to as f64 - from as f64);
            }
        }
    }

    fn hold(&self, memory: MemoryUse, sign: f64) {
        let MemoryMetrics { weights, caches, workspace } = &self.memory;
        weights.add(sign * memory.weights as f64);
        caches.add(sign * memory.caches as f64);
        workspace.add(sign * memory.workspace.unwrap_or(0) as f64);
    }
}

/// Observes the engine of one instance. The load of all instances of a model adds up, so each keeps what it
/// has added.
pub struct InstanceMetrics {
    model: Arc<ModelMetrics>,
    load: Mutex<EngineLoad>,
    memory: Mutex<MemoryUse>,
}

impl InstanceMetrics {
    /// An instance that holds nothing yet.
    pub fn new(model: Arc<ModelMetrics>) -> Self {
        Self { model, load: Mutex::default(), memory: Mutex::default() }
    }

    /// What it holds from now on.
    pub fn hold(&self, memory: MemoryUse) {
        let mut current = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        self.model.hold(*current, -1.0);
        self.model.hold(memory, 1.0);
        *current = memory;
    }

    fn replace_load(&self, load: EngineLoad) {
        let mut current = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        self.model.shift(*current, load);
        *current = load;
    }
}

impl Drop for InstanceMetrics {
    fn drop(&mut self) {
        self.replace_load(EngineLoad::default());
        self.hold(MemoryUse::default());
    }
}

impl Observer for InstanceMetrics {
    fn request_started(&self, queue_time: Duration) {
        self.model.queue_time.observe(queue_time.as_secs_f64());
    }

    fn request_ended(&self, outcome: Outcome, total: Duration) {
        self.model.ended(outcome, total);
    }

    fn first_token(&self, since_arrival: Duration) {
        self.model.time_to_first_token.observe(since_arrival.as_secs_f64());
    }

    fn inter_token(&self, gap: Duration) {
        self.model.time_per_output_token.observe(gap.as_secs_f64());
    }

    fn prefix_reuse(&self, prompt: usize, reused: usize) {
        self.model.prefix_queries.add(prompt as f64);
        self.model.prefix_hits.add(reused as f64);
    }

    fn prompt_tokens(&self, count: usize) {
        self.model.prompt_tokens.add(count as f64);
    }

    fn generated_tokens(&self, count: usize) {
        self.model.generation_tokens.add(count as f64);
    }

    fn drafted_tokens(&self, drafted: usize, accepted: usize) {
        self.model.draft_tokens.add(drafted as f64);
        self.model.accepted_tokens.add(accepted as f64);
    }

    fn step(&self, step: StepStats) {
        let metrics = match step.phase {
            Phase::Encode => &self.model.encode,
            Phase::Decode => &self.model.decode,
        };
        metrics.duration.observe(step.duration.as_secs_f64());
        metrics.rows.observe(step.rows as f64);
    }

    fn load(&self, load: EngineLoad) {
        self.replace_load(load);
    }
}
