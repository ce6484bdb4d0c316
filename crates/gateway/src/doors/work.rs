//! A translation from its place in the queue to its end, for every door that streams it.

use std::{pin::pin, time::Duration};

use async_stream::stream;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::{Gateway, translate::Message};
use crate::{
    error::{ApiError, Result},
    observe::{RequestId, Work},
    services::{Event, Prepared, Usage, Waiting},
};

/// What there is to tell.
#[derive(Debug)]
pub enum Progress {
    /// The place in the queue has changed.
    Queued(usize),
    /// The work begins: model, languages.
    Started(String, Option<String>, String),
    /// The next piece.
    Delta(String, Usage),
    /// The end.
    Done(&'static str, Usage),
}

impl Progress {
    /// As clients are told.
    pub fn message(&self) -> Message<'_> {
        match self {
            Self::Queued(position) => Message::Queued { position: *position },
            Self::Started(model, src_lang, tgt_lang) => {
                Message::Started { model, src_lang: src_lang.as_deref(), tgt_lang }
            }
            Self::Delta(text, _) => Message::Delta { text },
            Self::Done(finish_reason, usage) => Message::Done { finish_reason, usage: *usage },
        }
    }
}

/// Waits for the turn, then translates. Dropping it ends the work in the server. An error is the last item.
pub fn translation(
    gateway: Gateway,
    prepared: Prepared,
    mut waiting: Waiting,
    id: RequestId,
) -> impl Stream<Item = Result<Progress>> + Send {
    let limit = gateway.request_timeout();
    let end = Instant::now() + limit;
    stream! {
        let mut work = Work::begin("translate", &prepared.model, &id);
        // `timeout_at` would look at the clock only after the work: a place that is free is taken all the same.
        while waiting.place() > 0 {
            yield Ok(Progress::Queued(waiting.place()));
            if timeout_at(end, waiting.moved()).await.is_err() {
                yield Err(work.fail(late(limit, "still in the queue")));
                return;
            }
        }
        let _pass = waiting.enter();
        let translator = match gateway.translator() {
            Ok(translator) => translator,
            Err(error) => {
                yield Err(work.fail(error));
                return;
            }
        };
        let Prepared { model, src_lang, tgt_lang, .. } = prepared.clone();
        yield Ok(Progress::Started(model, src_lang, tgt_lang));
        let mut events = pin!(translator.translate(prepared, id.as_str()));
        loop {
            match timeout_at(end, events.next()).await {
                Ok(Some(Ok(Event::Delta(text, usage)))) => {
                    work.piece(usage.output_tokens);
                    yield Ok(Progress::Delta(text, usage));
                }
                Ok(Some(Ok(Event::Done(reason, usage)))) => {
                    work.done(usage.output_tokens);
                    yield Ok(Progress::Done(reason, usage));
                    return;
                }
                Ok(Some(Err(error))) => {
                    yield Err(work.fail(error));
                    return;
                }
                Ok(None) => return,
                Err(_) => {
                    yield Err(work.fail(late(limit, "while the text was translated")));
                    return;
                }
            }
        }
    }
}

/// The time for a request is over.
pub fn late(limit: Duration, where_it_was: &str) -> ApiError {
    ApiError::deadline_exceeded(format!(
        "the {} seconds for a request passed, {where_it_was}; ask for less, or raise `request_timeout_s`",
        limit.as_secs()
    ))
}
