//! What there is, and whether it works.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use textgen_languages::Language;

use super::Gateway;
use crate::{
    error::ApiError,
    observe::name,
    services::{AUGMENT_DEFAULTS, MAX_VARIANTS},
};

/// `GET /services`
pub async fn services(State(gateway): State<Gateway>) -> Json<Value> {
    let inside = &gateway.0;
    let health = inside.answers.health();
    let ready = |models: &[String]| {
        health.triton && models.iter().all(|model| health.models.get(model).is_some_and(Option::is_some))
    };
    let augment = inside.augmenter.as_ref().map(|augmenter| {
        let models = augmenter.models();
        let (max_text_chars, max_batch_texts) = augmenter.limits();
        json!({
            "model": models.first(),
            "ready": ready(&models),
            "defaults": AUGMENT_DEFAULTS,
            "limits": {
                "max_text_chars": max_text_chars, "max_batch_texts": max_batch_texts, "max_variants": MAX_VARIANTS,
            },
            "tasks": augmenter.tasks(),
            "languages": augmenter.languages().map(|languages| {
                languages.iter().map(with_scripts).collect::<Vec<_>>()
            }),
        })
    });
    let translate = inside.translator.as_ref().map(|translator| {
        json!({
            "ready": ready(&translator.models()),
            "limits": {"max_text_chars": translator.max_chars()},
            "languages": translator.languages(),
            "pairs": translator.pairs(),
        })
    });
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "auth": inside.access.wants_tokens(),
        "augment": augment,
        "translate": translate,
        "models": inside.chat,
    }))
}

/// A language, and how it is written.
fn with_scripts(language: &Language) -> Value {
    let mut value = json!(language);
    value["scripts"] = json!(language.scripts);
    value
}

/// `GET /health/live`
pub async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

/// `GET /health/ready`
pub async fn ready(State(gateway): State<Gateway>) -> Response {
    let health = gateway.0.answers.health();
    let ready = health.is_ready() && !gateway.is_draining();
    let models: BTreeMap<&str, bool> =
        health.models.iter().map(|(name, facts)| (name.as_str(), facts.is_some())).collect();
    let body = Json(json!({"ready": ready, "triton": health.triton, "models": models}));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, body).into_response()
}

/// `GET /metrics`
pub async fn metrics(State(gateway): State<Gateway>) -> Response {
    let inside = &gateway.0;
    let (active, queued) = inside.gate.load();
    let sockets = inside.operation.max_sockets - inside.sockets.available_permits();
    for (name, value) in [(name::ACTIVE, active), (name::QUEUED, queued), (name::SOCKETS, sockets)] {
        metrics::gauge!(name).set(value as f64);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], inside.metrics.render()).into_response()
}

/// Every other path.
pub async fn no_such_path() -> ApiError {
    ApiError::not_found("no such path; README.md lists them, and `/` is the web page")
}
