//! The API that clients of OpenAI's speak: chat completions, completions and the list of models.

mod fields;
mod sequences;
mod shape;

use std::{convert::Infallible, pin::pin};

use axum::{
    Extension, Json,
    extract::{Path, State, rejection::PathRejection},
    response::{
        IntoResponse, Response,
        sse::{self, Sse},
    },
};
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Map, Value, json};

use super::{Gateway, body::Body};
use crate::{
    error::{ApiError, Result},
    observe::{RequestId, Work},
    services::Waiting,
    settings::Options,
    triton::{Generate, Input, ModelFacts, Reply},
};
use fields::Fields;
use sequences::Sequences;
use shape::{Kind, Shape};

/// `GET /v1/models`
pub async fn models(State(gateway): State<Gateway>) -> Json<Value> {
    let models: Vec<Value> = gateway.0.chat.iter().map(|name| shape::model(name)).collect();
    Json(json!({"object": "list", "data": models}))
}

/// `GET /v1/models/{id}`
pub async fn model(
    State(gateway): State<Gateway>,
    name: std::result::Result<Path<String>, PathRejection>,
) -> Result<Json<Value>> {
    let Path(name) = name.map_err(|rejection| ApiError::invalid_argument(rejection.body_text()))?;
    known(&gateway, &name)?;
    Ok(Json(shape::model(&name)))
}

/// `POST /v1/chat/completions`
pub async fn chat(
    State(gateway): State<Gateway>,
    Extension(id): Extension<RequestId>,
    Body(object): Body<Map<String, Value>>,
) -> Result<Response> {
    let mut fields = Fields::new(object);
    let (model, facts) = asked_model(&gateway, &mut fields)?;
    if !facts.takes_messages {
        let error = format!("`{model}` takes no conversations; ask /v1/completions");
        return Err(ApiError::invalid_argument(error).at("model"));
    }
    let messages: Vec<Value> = fields.need("messages")?;
    if messages.is_empty() {
        return Err(
            ApiError::invalid_argument("got an empty list, expected one message or more").at("messages")
        );
    }
    let options = fields.chat_template_kwargs()?;
    let input = Input::Messages(Value::Array(messages).to_string());
    answer(gateway, id, fields, Shape::new(Kind::Chat, model), input, options).await
}

/// `POST /v1/completions`
pub async fn completions(
    State(gateway): State<Gateway>,
    Extension(id): Extension<RequestId>,
    Body(object): Body<Map<String, Value>>,
) -> Result<Response> {
    let mut fields = Fields::new(object);
    let (model, facts) = asked_model(&gateway, &mut fields)?;
    let prompts = fields.texts("prompt")?;
    let most = gateway.0.operation.max_batch_texts;
    if prompts.is_empty() || prompts.len() > most {
        let error = match prompts.len() {
            0 => ApiError::invalid_argument("got an empty list, expected one prompt or more"),
            count => ApiError::too_large(format!("got {count} prompts, at most {most} are taken")),
        };
        return Err(error.at("prompt"));
    }
    let mut options = Options::new();
    if facts.takes_messages {
        // A completion goes on from the prompt as it is.
        options.insert("apply_chat_template".to_owned(), json!(false));
    }
    answer(gateway, id, fields, Shape::new(Kind::Text, model), Input::Texts(prompts), options).await
}

fn asked_model(gateway: &Gateway, fields: &mut Fields) -> Result<(String, ModelFacts)> {
    let model: String = fields.need("model")?;
    let facts = known(gateway, &model)?;
    Ok((model, facts))
}

fn known(gateway: &Gateway, name: &str) -> Result<ModelFacts> {
    if !gateway.0.chat.iter().any(|model| model == name) {
        let got: String = name.chars().take(64).collect();
        let models = gateway.0.chat.join(", ");
        return Err(ApiError::not_found(format!("got {got:?}, expected one of: {models}")).at("model"));
    }
    gateway.0.answers.model(name)
}

async fn answer(
    gateway: Gateway,
    id: RequestId,
    mut fields: Fields,
    shape: Shape,
    input: Input,
    mut options: Options,
) -> Result<Response> {
    options.extend(fields.options()?);
    let samples = options.get("num_return_sequences").and_then(Value::as_u64).unwrap_or(1) as usize;
    let stream = fields.take("stream")?.unwrap_or(false);
    let include_usage = fields.include_usage()?;
    let renamed = fields.end()?;
    let prompts = match &input {
        Input::Texts(texts) => texts.len(),
        Input::Messages(_) => 1,
    };
    let generate =
        Generate { model: shape.model.clone(), input, options, stream, id: id.as_str().to_owned() };
    let waiting = gateway.gate().queue()?;
    let replies = replies(gateway, generate, waiting, id.clone());
    let replies = replies.map(move |reply| reply.map_err(|error| renamed.told(error)));
    let sequences = Sequences::new(prompts, samples);
    if !stream {
        return whole(replies, sequences, &shape).await;
    }
    let mut events = Box::pin(events(replies, sequences, shape, include_usage));
    // What is refused before the first piece has a status of its own.
    let first = match events.next().await {
        Some(Err(error)) => return Err(error),
        first => first,
    };
    let told = stream::iter(first).chain(events).map(move |event| {
        let event = event.unwrap_or_else(|error| json!({"error": error.body(id.as_str())}).to_string());
        Ok::<_, Infallible>(sse::Event::default().data(event))
    });
    Ok(Sse::new(told).keep_alive(sse::KeepAlive::default()).into_response())
}

/// Waits for the turn, then asks. Dropping it ends the work in the server. An error is the last item.
fn replies(
    gateway: Gateway,
    generate: Generate,
    mut waiting: Waiting,
    id: RequestId,
) -> impl Stream<Item = Result<Reply>> + Send {
    let deadline = gateway.deadline();
    async_stream::stream! {
        let mut work = Work::begin("openai", &generate.model, &id);
        while waiting.place() > 0 {
            if deadline.reach(waiting.moved()).await.is_none() {
                yield Err(work.fail(deadline.late("still in the queue")));
                return;
            }
        }
        let _pass = waiting.enter();
        let mut answer = pin!(gateway.0.answers.generate(generate));
        let mut output_tokens = 0;
        loop {
            match deadline.reach(answer.next()).await {
                Some(Some(Ok(reply))) => {
                    output_tokens += reply.output_tokens.iter().sum::<u32>();
                    work.piece(output_tokens);
                    yield Ok(reply);
                }
                Some(Some(Err(error))) => {
                    yield Err(work.fail(error));
                    return;
                }
                Some(None) => {
                    work.done(output_tokens);
                    return;
                }
                None => {
                    yield Err(work.fail(deadline.late("while the text was generated")));
                    return;
                }
            }
        }
    }
}

async fn whole(
    replies: impl Stream<Item = Result<Reply>>,
    mut sequences: Sequences,
    shape: &Shape,
) -> Result<Response> {
    let mut replies = pin!(replies);
    let mut texts = vec![String::new(); sequences.len()];
    while let Some(reply) = replies.next().await {
        for piece in sequences.pieces(reply?) {
            if let Some(text) = texts.get_mut(piece.sequence) {
                text.push_str(&piece.text);
            }
        }
    }
    let choices = texts.iter().enumerate();
    let choices =
        choices.map(|(index, text)| shape.choice(index, text, sequences.finish_reason(index))).collect();
    Ok(Json(shape.object(choices, Some(sequences.usage()))).into_response())
}

fn events(
    replies: impl Stream<Item = Result<Reply>>,
    mut sequences: Sequences,
    shape: Shape,
    include_usage: bool,
) -> impl Stream<Item = Result<String>> {
    async_stream::try_stream! {
        let mut replies = pin!(replies);
        let mut told = vec![false; sequences.len()];
        while let Some(reply) = replies.next().await {
            for piece in sequences.pieces(reply?) {
                let first = told.get_mut(piece.sequence).is_some_and(|told| !std::mem::replace(told, true));
                let choice = shape.delta(piece.sequence, &piece.text, first, piece.finish_reason.as_deref());
                yield shape.chunk(vec![choice], None).to_string();
            }
        }
        if include_usage {
            yield shape.chunk(Vec::new(), Some(sequences.usage())).to_string();
        }
        yield "[DONE]".to_owned();
    }
}
