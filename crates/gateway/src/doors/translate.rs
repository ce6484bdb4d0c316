//! `/translate`: an answer at once, or server-sent events. The WebSocket speaks the same messages.

use std::convert::Infallible;

use async_stream::stream;
use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, header::ACCEPT},
    response::{
        IntoResponse, Response,
        sse::{self, Sse},
    },
};
use futures_util::{Stream, StreamExt, pin_mut};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Gateway,
    body::{self, Body},
    work,
};
use crate::{
    error::{ApiError, ErrorBody, Result},
    observe::RequestId,
    services::{Prepared, Translation, Usage, Waiting},
};

/// What a client is told, a message each.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Message<'a> {
    Queued { position: usize },
    Started { model: &'a str, src_lang: Option<&'a str>, tgt_lang: &'a str },
    Delta { text: &'a str },
    Done { finish_reason: &'a str, usage: Usage },
    Stopped { usage: Usage },
    Error { error: ErrorBody<'a> },
    Pong,
    Closing { reason: &'a str },
}

/// The body of `POST /translate`.
#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default)]
    stream: bool,
    #[serde(flatten)]
    translation: Map<String, Value>,
}

/// `POST /translate`
pub async fn post(
    State(gateway): State<Gateway>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    Body(asked): Body<Asked>,
) -> Result<Response> {
    let translation: Translation = body::of_value(Value::Object(asked.translation))?;
    let prepared = gateway.translator()?.prepare(&translation)?;
    let wants_events = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    if asked.stream || wants_events.is_some_and(|accept| accept.contains("text/event-stream")) {
        // Who is refused for want of room shall see it in the status.
        let waiting = gateway.gate().queue()?;
        let events = events(gateway.clone(), prepared, waiting, id);
        return Ok(Sse::new(events).keep_alive(sse::KeepAlive::default()).into_response());
    }
    let Prepared { model, src_lang, tgt_lang, .. } = prepared.clone();
    let work = work::translation(gateway.clone(), prepared, gateway.gate().queue()?, id.clone());
    pin_mut!(work);
    let mut text = String::new();
    while let Some(progress) = work.next().await {
        match progress? {
            work::Progress::Delta(piece, _) => text.push_str(&piece),
            work::Progress::Done(finish_reason, usage) => {
                return Ok(Json(json!({
                    "translated_text": text, "src_lang": src_lang, "tgt_lang": tgt_lang, "model": model,
                    "finish_reason": finish_reason, "usage": usage, "request_id": id,
                }))
                .into_response());
            }
            _ => {}
        }
    }
    Err(ApiError::internal("the translation ended without a reason"))
}

fn events(
    gateway: Gateway,
    prepared: Prepared,
    waiting: Waiting,
    id: RequestId,
) -> impl Stream<Item = std::result::Result<sse::Event, Infallible>> {
    stream! {
        let work = work::translation(gateway, prepared, waiting, id.clone());
        pin_mut!(work);
        while let Some(progress) = work.next().await {
            let message = match &progress {
                Ok(progress) => progress.message(),
                Err(error) => Message::Error { error: error.body(id.as_str()) },
            };
            let data = serde_json::to_string(&message).unwrap_or_default();
            yield Ok(sse::Event::default().data(data));
        }
    }
}
