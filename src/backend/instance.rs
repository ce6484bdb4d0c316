//! One instance of a model: a running engine and the thread that sends its responses.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ModelState,
    mailbox::{MailboxSink, log_failure},
    sender::Sender,
};
use crate::{
    decoding::SamplingParams,
    engine::{EngineLoad, GenerateRequest, Observer, Prompt},
    error::{Error, Result},
    metrics::InstanceMetrics,
    model::Placement,
    prompt::PromptInput,
    protocol::{ClientRequest, Reply, ReplyPlan},
    text_model::{TextModel, TextSide},
    triton::{HoldsState, Instance, InstanceKind, Request, ResponseStream, Timings, guard, monotonic_ns},
};

/// What one instance owns. Dropped in the order of the fields: the engine drains, then what it said is sent.
pub struct InstanceState {
    text_model: TextModel,
    sender: Sender,
    model: Arc<ModelState>,
}

/// A request that has been checked, without the stream that answers it.
struct Prepared {
    prompts: Vec<Prompt>,
    params: SamplingParams,
    plan: ReplyPlan,
    deadline: Option<Instant>,
}

impl InstanceState {
    /// Loads the model and starts its engine.
    pub fn new(instance: &Instance) -> Result<Self> {
        let name = instance.name()?;
        let model: Arc<ModelState> = instance.model()?.state()?;
        let sender = Sender::start(&name, model.backend.pacer.clone(), model.drain.clone())?;
        let observer = Arc::new(InstanceMetrics::new(model.metrics.clone()));
        let mut options = model.config.options.clone();
        options.executor.placement = match instance.kind()? {
            InstanceKind::Cpu => Placement::Cpu,
            InstanceKind::Gpu { device } => Placement::Gpu { device },
            InstanceKind::Any => Placement::AsConverted,
        };
        let text_model = TextModel::load(&model.artifact, &name, &options, observer.clone())
            .and_then(|text_model| model.config.check_texts(&text_model.text).map(|()| text_model))
            .and_then(|text_model| model.config.check_limits(text_model.engine.limits()).map(|()| text_model))
            .map_err(|error| error.context(&name))?;
        // The engine speaks of its load when it changes; until then its slots are all free.
        let slots = text_model.engine.limits().slots;
        observer.load(EngineLoad { slots, ..EngineLoad::default() });
        observer.hold(text_model.engine.memory());
        log::info!(
            "{name}: {} from {}, {slots} sequences at once, {} threads",
            text_model.text.manifest.family,
            model.artifact.display(),
            model.config.options.executor.intra_op_threads
        );
        Ok(Self { text_model, sender, model })
    }

    /// Takes the requests of one Execute call. Each is read and released here; its answers come later, from
    /// the sender's thread.
    pub fn execute(&self, instance: &Instance, requests: Vec<(Request, ResponseStream)>) {
        let count = requests.len();
        let start = monotonic_ns();
        for (request, responses) in requests {
            // A panic ends one request: its stream answers while it is dropped, and the others go on.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.accept(instance, request, responses))) {
                log::error!("{}", guard::panicked("reading a request", &*panic));
            }
        }
        instance.report_batch(count, Timings { start, read: monotonic_ns() });
    }

    fn accept(&self, instance: &Instance, request: Request, responses: ResponseStream) {
        let arrival = Instant::now();
        let start = monotonic_ns();
        let id = request.id().unwrap_or_default();
        let prepared = self.prepare(&request, arrival);
        let timings = Timings { start, read: monotonic_ns() };
        instance.report_and_release(request, prepared.is_ok(), timings);
        match prepared {
            Ok(prepared) => self.submit(id, prepared, responses, arrival),
            Err(error) => {
                log_failure(&id, &error);
                self.model.metrics.refused(arrival.elapsed());
                self.model.backend.pacer.acquire();
                responses.fail(&error);
            }
        }
    }

    fn prepare(&self, request: &Request, arrival: Instant) -> Result<Prepared> {
        let config = &self.model.config;
        let content = request.read(config.max_input_bytes)?;
        let client = ClientRequest::parse(&content, &self.model.interface)?;
        let TextSide { manifest, tokenizer, .. } = &self.text_model.text;
        let mut defaults = config.option_defaults.clone();
        if client.inputs.iter().any(|input| matches!(input, PromptInput::Conversation(_))) {
            defaults = defaults.of_conversations();
        }
        let given = client.options.clone().over(defaults);
        let mut options = given.resolve(&manifest.generation, tokenizer)?;

        let plan = ReplyPlan::new(&client, &options, &self.model.interface)?;
        options.params.logprobs |= plan.needs_logprobs();
        options.params.choice_probabilities = plan.needs_choice_probabilities();
        let samples = options.params.num_return_sequences;
        let scored = options.params.scored_choices();
        let sequences = client.inputs.len().saturating_mul(samples + scored);
        if sequences > config.max_request_sequences {
            let choices = if scored > 0 { format!(" and {scored} choices to score") } else { String::new() };
            return Err(Error::invalid_argument(format!(
                "the request asks for {sequences} sequences ({} inputs × {samples}{choices}), at most {} are allowed; \
                 send several requests, or raise the configuration key `max_request_sequences`",
                client.inputs.len(),
                config.max_request_sequences
            )));
        }
        let prompts = client
            .inputs
            .iter()
            .map(|input| self.text_model.prompt(input, &options))
            .collect::<Result<_>>()?;
        let timeout: Option<Duration> = config.request_timeout.into_iter().chain(client.timeout).min();
        Ok(Prepared {
            prompts,
            params: options.params,
            plan,
            deadline: timeout.and_then(|timeout| arrival.checked_add(timeout)),
        })
    }

    fn submit(&self, id: String, prepared: Prepared, responses: ResponseStream, arrival: Instant) {
        let sink = MailboxSink::new(
            id,
            Reply::new(prepared.plan),
            responses,
            self.sender.queue(),
            self.model.drain.clone(),
        );
        self.text_model.engine.submit(GenerateRequest {
            prompts: prepared.prompts,
            params: Arc::new(prepared.params),
            arrival,
            deadline: prepared.deadline,
            sink: Box::new(sink),
        });
    }
}
