//! A translation from its place in the queue to its end, for every door that streams it.

use std::pin::pin;

use async_stream::stream;
use futures_util::{Stream, StreamExt};

use super::{Gateway, translate::Message};
use crate::{
    error::Result,
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
    let deadline = gateway.deadline();
    stream! {
        let mut work = Work::begin("translate", &prepared.model, &id);
        while waiting.place() > 0 {
            yield Ok(Progress::Queued(waiting.place()));
            if deadline.reach(waiting.moved()).await.is_none() {
                yield Err(work.fail(deadline.late("still in the queue")));
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
            match deadline.reach(events.next()).await {
                Some(Some(Ok(Event::Delta(text, usage)))) => {
                    work.piece(usage.output_tokens);
                    yield Ok(Progress::Delta(text, usage));
                }
                Some(Some(Ok(Event::Done(reason, usage)))) => {
                    work.done(usage.output_tokens);
                    yield Ok(Progress::Done(reason, usage));
                    return;
                }
                Some(Some(Err(error))) => {
                    yield Err(work.fail(error));
                    return;
                }
                Some(None) => return,
                None => {
                    yield Err(work.fail(deadline.late("while the text was translated")));
                    return;
                }
            }
        }
    }
}
