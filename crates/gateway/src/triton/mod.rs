//! The way to Triton, over gRPC: one request a stream, so that its answer comes as it is generated, and so that dropping
//! the stream cancels the work in the server. Knows nothing of the services.

mod excess;
mod health;
mod models;
mod reply;
mod request;

use std::{sync::Arc, time::Duration};

use async_stream::try_stream;
use axum::http::uri::Authority;
use futures_util::{
    Stream, StreamExt,
    future::{Either, ready},
};
use tokio::sync::mpsc::unbounded_channel;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

pub use excess::Excess;
pub use health::Health;
pub use models::ModelFacts;
pub use reply::Reply;
pub use request::{Generate, Input};

use crate::error::{ApiError, Result};
use health::Watched;

/// Messages and client, generated from `proto/inference.proto`.
mod wire {
    #![allow(clippy::all, missing_docs, reason = "the names are the protocol's")]
    tonic::include_proto!("inference");
}

type Client = wire::grpc_inference_service_client::GrpcInferenceServiceClient<Channel>;

/// Largest answer that is taken, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A server and what is known of its models. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Triton {
    client: Client,
    watched: Arc<Watched>,
}

impl Triton {
    /// The server at `address`, `host:port`, and the models that will be asked for. Nothing is connected yet; the
    /// connection is made again whenever it breaks.
    pub fn new(address: &str, models: Vec<String>) -> std::result::Result<Self, String> {
        let wrong = || format!("triton: got {address:?}, expected host:port such as 127.0.0.1:8001");
        let authority = address.parse::<Authority>().ok().filter(|authority| authority.port_u16().is_some());
        let authority = authority.ok_or_else(wrong)?;
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| wrong())?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(3))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(false)
            .connect_lazy();
        let client = Client::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self { client, watched: Arc::new(Watched::new(models)) })
    }

    /// What is ready.
    pub fn health(&self) -> Arc<Health> {
        self.watched.health()
    }

    /// What is known of a model; an error when it is not ready.
    pub fn model(&self, name: &str) -> Result<ModelFacts> {
        let health = self.watched.health();
        if !health.triton {
            return Err(unreachable());
        }
        let not_ready = || ApiError::unavailable(format!("the model `{name}` is not ready; try again later"));
        health
            .models
            .get(name)
            .and_then(Option::as_ref)
            .cloned()
            .ok_or_else(not_ready)
            .map_err(|e| e.retry_after(5))
    }

    /// Looks after server and models for as long as the gateway runs.
    pub async fn watch(self) {
        self.watched.run(self.client.clone()).await;
    }

    /// Sends a request and gives its replies as they come. Dropping the stream cancels the request, whichever state it
    /// is in; one to an ensemble goes on, since Triton does not tell the members, and may never let go of the ensemble.
    pub fn generate(&self, request: Generate) -> impl Stream<Item = Result<Reply>> + Send + use<> {
        let facts = self.model(&request.model);
        let goes_on = facts.as_ref().is_ok_and(|facts| facts.ensemble);
        let replies = exchange(self.client.clone(), facts, request);
        if goes_on { Either::Left(in_background(replies)) } else { Either::Right(replies) }
    }
}

fn exchange(
    mut client: Client,
    facts: Result<ModelFacts>,
    request: Generate,
) -> impl Stream<Item = Result<Reply>> + Send {
    try_stream! {
        let message = request.message(&facts?);
        let answer = client.model_stream_infer(tokio_stream::once(message)).await.map_err(status)?;
        let mut replies = answer.into_inner();
        let (mut ended, mut refused) = (false, None);
        while let Some(reply) = replies.next().await {
            let reply = reply.map_err(status)?;
            if !reply.error_message.is_empty() {
                // Triton never lets go of a model if the stream is dropped between a refusal and its end.
                refused.get_or_insert_with(|| refusal(&reply.error_message));
                continue;
            }
            if let Some(response) = reply.infer_response {
                ended |= reply::is_final(&response);
                yield Reply::of(response)?;
            }
        }
        if let Some(error) = refused {
            Err(error)?;
        }
        if !ended {
            Err(ApiError::unavailable("Triton ended the stream before the answer was whole").retry_after(1))?;
        }
    }
}

/// The same replies, which come to their end whether somebody waits for them or not.
fn in_background(
    replies: impl Stream<Item = Result<Reply>> + Send + 'static,
) -> UnboundedReceiverStream<Result<Reply>> {
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(replies.for_each(move |reply| {
        let _ = sender.send(reply);
        ready(())
    }));
    UnboundedReceiverStream::new(receiver)
}

fn unreachable() -> ApiError {
    ApiError::unavailable("Triton cannot be reached; the service comes back when it does").retry_after(2)
}

/// What a failed call means for a client.
fn status(status: tonic::Status) -> ApiError {
    use tonic::Code;
    let message = status.message();
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => ApiError::invalid_argument(message),
        Code::NotFound => ApiError::unavailable(message).retry_after(5),
        Code::Unimplemented => ApiError::invalid_argument(message),
        Code::DeadlineExceeded => ApiError::deadline_exceeded(message),
        // A broken connection comes as one of these, according to where it broke.
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal if is_transport(&status) => {
            unreachable()
        }
        Code::Unavailable | Code::ResourceExhausted => ApiError::unavailable(message).retry_after(1),
        _ => ApiError::internal(message),
    }
}

fn is_transport(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
        || status.code() == tonic::Code::Unavailable && status.message().contains("connect")
}

/// A stream's errors have no code of their own, so what is not the request's fault is told by the words that Triton and
/// the backend say it in; tests hold these against the real server's.
const REFUSALS: [(&str, Refusal); 9] = [
    ("the deadline passed", ApiError::deadline_exceeded),
    ("the queue is full", ApiError::overloaded),
    ("is being unloaded", ApiError::unavailable),
    ("unknown model", ApiError::unavailable),
    ("is not ready", ApiError::unavailable),
    ("no available versions", ApiError::unavailable),
    ("an internal error", ApiError::internal),
    ("panicked", ApiError::internal),
    ("step: ", ApiError::internal),
];

type Refusal = fn(String) -> ApiError;

fn refusal(message: &str) -> ApiError {
    // That we put the options there is nothing to a client.
    let message = message.strip_prefix("sampling_parameters: ").unwrap_or(message);
    let known = REFUSALS.iter().find(|(words, _)| message.contains(words));
    let error = known.map_or(ApiError::invalid_argument as Refusal, |(_, error)| *error);
    match error(message.to_owned()) {
        error if error.code.status().is_server_error() => error.retry_after(1),
        error => error,
    }
}
