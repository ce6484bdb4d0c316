//! The doors: what a path takes and answers. Each reads a request, lets a service work, and writes the answer.

mod augment;
mod body;
mod openai;
mod page;
mod socket;
mod status;
mod translate;
mod work;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};

use crate::{
    access::{self, Access},
    error::{ApiError, Result},
    observe::{self, Metrics},
    services::{Answers, Augmenter, Deadline, Gate, Translator},
    settings::{Operation, Settings},
    triton::Triton,
};

/// Everything the doors need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    operation: Operation,
    access: Access,
    answers: Answers,
    augmenter: Option<Augmenter>,
    translator: Option<Translator>,
    /// Models of the OpenAI-compatible API.
    chat: Vec<String>,
    gate: Gate,
    sockets: Arc<Semaphore>,
    metrics: Metrics,
    draining: watch::Sender<bool>,
}

impl Gateway {
    /// Puts the services together, and says which server they ask.
    pub fn new(settings: Settings, metrics: Metrics) -> std::result::Result<(Self, Triton), String> {
        let Settings { operation, tables } = settings;
        let triton = Triton::new(&operation.triton, tables.models())?;
        let ttl = Duration::from_secs(operation.cache_ttl_s);
        let answers = Answers::new(triton.clone(), operation.cache_entries, ttl);
        let augmenter =
            tables.augment.map(|table| Augmenter::new(answers.clone(), table, &operation)).transpose()?;
        let max_chars = operation.max_translation_chars;
        let translator = tables.translate.as_ref();
        let translator =
            translator.map(|table| Translator::new(answers.clone(), table, max_chars)).transpose()?;
        let inside = Inside {
            access: Access::new(&operation)?,
            answers,
            augmenter,
            translator,
            chat: tables.chat.models,
            gate: Gate::new(operation.max_active, operation.max_queue),
            sockets: Arc::new(Semaphore::new(operation.max_sockets)),
            metrics,
            draining: watch::Sender::new(false),
            operation,
        };
        Ok((Self(Arc::new(inside)), triton))
    }

    /// Every path.
    pub fn router(&self) -> Router {
        let max_body = self.0.operation.max_body_bytes;
        let mut api = Router::new()
            .route("/augment", post(augment::one))
            .route("/augment_batch", post(augment::batch))
            .route("/translate", post(translate::post))
            .route("/ws/translate", get(socket::upgrade))
            .route("/v1/models", get(openai::models))
            .route("/v1/models/{id}", get(openai::model))
            .route("/v1/chat/completions", post(openai::chat))
            .route("/v1/completions", post(openai::completions))
            .layer(DefaultBodyLimit::max(max_body))
            .layer(from_fn_with_state(self.clone(), access::admit));
        let mut open = Router::new().route("/services", get(status::services));
        if let Some(cors) = self.0.access.cors() {
            api = api.layer(cors.clone());
            open = open.layer(cors);
        }
        open.merge(api)
            .route("/", get(page::index))
            .route("/assets/{name}", get(page::asset))
            .route("/health/live", get(status::live))
            .route("/health/ready", get(status::ready))
            .route("/metrics", get(status::metrics))
            .fallback(status::no_such_path)
            .layer(from_fn(observe::observe))
            .with_state(self.clone())
    }

    /// From here on nothing new is taken.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// Waits until nothing is at work and no WebSocket is open.
    pub async fn idle(&self) {
        let Inside { gate, sockets, operation, .. } = &*self.0;
        while gate.load() != (0, 0) || sockets.available_permits() < operation.max_sockets {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// True once nothing new is taken.
    pub fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Who may ask.
    pub fn access(&self) -> &Access {
        &self.0.access
    }

    fn draining(&self) -> watch::Receiver<bool> {
        self.0.draining.subscribe()
    }

    fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// That of a request which comes now.
    fn deadline(&self) -> Deadline {
        Deadline::after(Duration::from_secs(self.0.operation.request_timeout_s))
    }

    fn augmenter(&self) -> Result<&Augmenter> {
        self.0.augmenter.as_ref().ok_or_else(|| not_configured("augment"))
    }

    fn translator(&self) -> Result<&Translator> {
        self.0.translator.as_ref().ok_or_else(|| not_configured("translate"))
    }
}

fn not_configured(service: &str) -> ApiError {
    ApiError::not_found(format!(
        "this gateway has no such service; give its configuration a table `{service}`"
    ))
}
