//! The outermost layer: gives a request its id, writes the body of an error, logs and counts the answer.

use std::time::Instant;

use axum::{
    Json,
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::metrics::name;
use crate::error::ApiError;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: its client's, if that is one, else a new one.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct RequestId(String);

impl RequestId {
    /// As it stands in answers and log.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(request: &Request) -> Self {
        let usable = |id: &&str| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let given = request.headers().get(HEADER).and_then(|id| id.to_str().ok()).filter(usable);
        Self(given.map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned))
    }
}

/// See the module.
pub async fn observe(mut request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let id = RequestId::of(&request);
    request.extensions_mut().insert(id.clone());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // Metrics know the routes: what clients make up would make as many time series.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();

    let mut response = next.run(request).await;
    // The router has refused these itself.
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let error = ApiError::method_not_allowed(format!(
            "{path} does not take {method}; the header Allow says what"
        ));
        response.extensions_mut().insert(error);
    }
    let error = response.extensions_mut().remove::<ApiError>();
    if let Some(error) = &error {
        response = with_body(response, error, &id);
    }
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(HEADER, value);
    }

    let status = response.status().as_u16();
    let elapsed = begin.elapsed();
    // A method, too, can be made up.
    let known = [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS];
    let counted = known.iter().find(|known| **known == method).map_or("other", Method::as_str).to_owned();
    metrics::counter!(
        name::REQUESTS, "route" => route.clone(), "method" => counted, "status" => status.to_string()
    )
    .increment(1);
    metrics::histogram!(name::REQUEST_SECONDS, "route" => route).record(elapsed.as_secs_f64());
    let (error_type, reason) =
        error.as_ref().map(|error| (error.code.name(), error.message.as_str())).unzip();
    let elapsed_ms = elapsed.as_secs_f64() * 1e3;
    match status {
        500.. => {
            tracing::error!(request_id = id.as_str(), %method, ?path, status, elapsed_ms, error_type, reason, "request");
        }
        _ => {
            tracing::info!(request_id = id.as_str(), %method, ?path, status, elapsed_ms, error_type, "request")
        }
    }
    response
}

fn with_body(response: Response, error: &ApiError, id: &RequestId) -> Response {
    let (head, _) = response.into_parts();
    let mut response = Json(json!({"error": error.body(id.as_str())})).into_response();
    *response.status_mut() = head.status;
    for (name, value) in &head.headers {
        if *name != header::CONTENT_LENGTH && *name != header::CONTENT_TYPE {
            response.headers_mut().append(name, value.clone());
        }
    }
    if let Some(seconds) = error.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
