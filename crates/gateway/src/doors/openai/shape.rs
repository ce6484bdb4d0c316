//! The objects that an answer is made of.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::services::Usage;

/// Which of the two APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Chat,
    Text,
}

/// What all objects of one answer share.
pub struct Shape {
    kind: Kind,
    pub model: String,
    id: String,
    /// Seconds since 1970.
    created: u64,
}

/// `GET /v1/models/{id}`
pub fn model(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": 0, "owned_by": "textgen"})
}

impl Shape {
    pub fn new(kind: Kind, model: String) -> Self {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self { kind, model, id: format!("{prefix}-{}", Uuid::now_v7().simple()), created }
    }

    /// A whole answer.
    pub fn object(&self, choices: Vec<Value>, usage: Option<Usage>) -> Value {
        self.envelope(
            if self.kind == Kind::Chat { "chat.completion" } else { "text_completion" },
            choices,
            usage,
        )
    }

    /// One event of a stream.
    pub fn chunk(&self, choices: Vec<Value>, usage: Option<Usage>) -> Value {
        self.envelope(
            if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" },
            choices,
            usage,
        )
    }

    fn envelope(&self, object: &str, choices: Vec<Value>, usage: Option<Usage>) -> Value {
        let Self { id, created, model, .. } = self;
        let mut body =
            json!({"id": id, "object": object, "created": created, "model": model, "choices": choices});
        if let Some(Usage { input_tokens, output_tokens, .. }) = usage {
            body["usage"] = json!({
                "prompt_tokens": input_tokens,
                "completion_tokens": output_tokens,
                "total_tokens": input_tokens + output_tokens,
            });
        }
        body
    }

    /// One sequence of a whole answer.
    pub fn choice(&self, index: usize, text: &str, finish_reason: &str) -> Value {
        match self.kind {
            Kind::Chat => json!({
                "index": index, "message": {"role": "assistant", "content": text, "refusal": null},
                "logprobs": null, "finish_reason": finish_reason,
            }),
            Kind::Text => {
                json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish_reason})
            }
        }
    }

    /// The next piece of one sequence.
    pub fn delta(&self, index: usize, text: &str, first: bool, finish_reason: Option<&str>) -> Value {
        match self.kind {
            Kind::Chat => {
                let mut delta = json!({"content": text});
                if first {
                    delta["role"] = json!("assistant");
                }
                json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason})
            }
            Kind::Text => {
                json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish_reason})
            }
        }
    }
}
