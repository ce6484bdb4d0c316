//! Triton's answers, those to deterministic questions kept for a while: greedy ones, and sampled ones with a seed, since
//! the backend answers these the same whoever else is served.

use std::{sync::Arc, time::Duration};

use async_stream::try_stream;
use futures_util::{Stream, StreamExt, TryStreamExt, pin_mut};
use moka::sync::Cache;

use crate::{
    error::Result,
    observe::name,
    settings::Options,
    triton::{Generate, Health, Input, ModelFacts, Reply, Triton},
};

/// Asks Triton, or remembers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Answers {
    triton: Triton,
    kept: Option<Cache<Question, Arc<[Reply]>>>,
}

/// What an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    model: String,
    epoch: u64,
    input: Input,
    options: String,
    stream: bool,
}

impl Answers {
    /// Keeps at most so many answers for so long; none keeps nothing.
    pub fn new(triton: Triton, entries: u64, ttl: Duration) -> Self {
        let kept = (entries > 0).then(|| Cache::builder().max_capacity(entries).time_to_live(ttl).build());
        Self { triton, kept }
    }

    /// See [`Triton::model`].
    pub fn model(&self, name: &str) -> Result<ModelFacts> {
        self.triton.model(name)
    }

    /// See [`Triton::health`].
    pub fn health(&self) -> Arc<Health> {
        self.triton.health()
    }

    /// The replies to a request as they come. Dropping the stream cancels it.
    pub fn generate(&self, request: Generate) -> impl Stream<Item = Result<Reply>> + Send + use<> {
        let question = self.question(&request);
        let Self { triton, kept } = self.clone();
        try_stream! {
            let known = question.as_ref().zip(kept.as_ref()).map(|(question, kept)| (kept.get(question), question, kept));
            if let Some((Some(replies), ..)) = &known {
                count("hit");
                for reply in replies.iter() {
                    yield reply.clone();
                }
                return;
            }
            let mut replies = Vec::new();
            let answer = triton.generate(request);
            pin_mut!(answer);
            while let Some(reply) = answer.next().await {
                let reply = reply?;
                if known.is_some() {
                    replies.push(reply.clone());
                }
                yield reply;
            }
            if let Some((_, question, kept)) = known {
                count("miss");
                kept.insert(question.clone(), replies.into());
            }
        }
    }

    /// All replies to a request.
    pub async fn whole(&self, request: Generate) -> Result<Vec<Reply>> {
        self.generate(request).try_collect().await
    }

    /// None where the same question may have another answer.
    fn question(&self, request: &Generate) -> Option<Question> {
        let epoch = self.triton.model(&request.model).ok()?.epoch;
        is_deterministic(&request.options).then(|| Question {
            model: request.model.clone(),
            epoch,
            input: request.input.clone(),
            options: serde_json::Value::Object(request.options.clone()).to_string(),
            stream: request.stream,
        })
    }
}

fn is_deterministic(options: &Options) -> bool {
    let number = |name| options.get(name).and_then(serde_json::Value::as_f64);
    number("temperature") == Some(0.0)
        || ["seed", "random_seed"].into_iter().any(|name| number(name).is_some())
}

fn count(result: &'static str) {
    metrics::counter!(name::CACHE, "result" => result).increment(1);
}
