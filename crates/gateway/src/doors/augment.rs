//! `/augment` and `/augment_batch`.

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};

use super::{Gateway, body::Body};
use crate::{
    error::{ApiError, Result},
    observe::{RequestId, Work},
    services::{Augmentation, Augmented, Variant, Warning},
};

/// What the services gave.
struct Answer {
    /// For each text.
    texts: Vec<Result<Augmented>>,
    warnings: Vec<Warning>,
}

/// `POST /augment`
pub async fn one(
    State(gateway): State<Gateway>,
    Extension(id): Extension<RequestId>,
    Body(asked): Body<Augmentation>,
) -> Result<Json<Value>> {
    let of_batch = [("texts", asked.texts.is_some()), ("grouped", asked.grouped), ("partial", asked.partial)];
    if let Some((key, _)) = of_batch.iter().find(|(_, given)| *given) {
        return Err(ApiError::invalid_argument("belongs to /augment_batch; here the key is `text`").at(key));
    }
    let text = asked.text.clone().ok_or_else(|| ApiError::invalid_argument("is missing").at("text"))?;
    let Answer { mut texts, warnings } = augment(&gateway, &[text], &asked, &id).await?;
    let answer = texts.pop().unwrap_or_else(|| Ok(Augmented::default()))?;
    let mut body = json!({
        "augmented_texts": column(&answer, |variant| json!(variant.text)),
        "finish_reasons": column(&answer, |variant| json!(variant.finish_reason)),
        "request_id": id,
    });
    if answer.exhausted {
        body["exhausted"] = json!(true);
    }
    if let Some(probabilities) = answer.probabilities {
        body["probabilities"] = json!(probabilities);
    }
    if !warnings.is_empty() {
        body["warnings"] = json!(warnings);
    }
    Ok(Json(body))
}

/// `POST /augment_batch`
pub async fn batch(
    State(gateway): State<Gateway>,
    Extension(id): Extension<RequestId>,
    Body(asked): Body<Augmentation>,
) -> Result<Json<Value>> {
    if asked.text.is_some() {
        return Err(ApiError::invalid_argument("belongs to /augment; here the key is `texts`").at("text"));
    }
    let texts = asked.texts.as_deref().ok_or_else(|| ApiError::invalid_argument("is missing").at("texts"))?;
    let Answer { texts, warnings } = augment(&gateway, texts, &asked, &id).await?;
    let mut errors = Vec::new();
    let mut answers = Vec::with_capacity(texts.len());
    for (index, answer) in texts.into_iter().enumerate() {
        answers.push(answer.unwrap_or_else(|error| {
            errors.push(json!({"index": index, "error": error.body(id.as_str())}));
            Augmented::default()
        }));
    }
    let of_each = |value: fn(&Variant) -> Value| -> Vec<Vec<Value>> {
        answers.iter().map(|answer| column(answer, value)).collect()
    };
    let texts = of_each(|variant| json!(variant.text));
    let reasons = of_each(|variant| json!(variant.finish_reason));
    let mut body = match asked.grouped {
        true => json!({"augmented_texts": texts, "finish_reasons": reasons, "request_id": id}),
        false => json!({
            "augmented_texts": texts.concat(),
            "finish_reasons": reasons.concat(),
            "counts": texts.iter().map(Vec::len).collect::<Vec<_>>(),
            "request_id": id,
        }),
    };
    if answers.iter().any(|answer| answer.exhausted) {
        body["exhausted"] = answers.iter().map(|answer| answer.exhausted).collect();
    }
    if answers.iter().any(|answer| answer.probabilities.is_some()) {
        body["probabilities"] = answers.iter().map(|answer| json!(answer.probabilities)).collect();
    }
    if !warnings.is_empty() {
        body["warnings"] = json!(warnings);
    }
    if asked.partial {
        body["errors"] = json!(errors);
    }
    Ok(Json(body))
}

fn column(answer: &Augmented, value: fn(&Variant) -> Value) -> Vec<Value> {
    answer.variants.iter().map(value).collect()
}

async fn augment(
    gateway: &Gateway,
    texts: &[String],
    asked: &Augmentation,
    id: &RequestId,
) -> Result<Answer> {
    let augmenter = gateway.augmenter()?;
    let deadline = gateway.deadline();
    let plan = augmenter.plan(texts, asked, id.as_str())?;
    let mut work = Work::begin("augment", plan.model, id);
    let texts = async {
        let _pass = deadline.within("still in the queue", gateway.gate().enter()).await?;
        augmenter.augment(&plan, &deadline).await
    };
    let texts = texts.await.map_err(|error| work.fail(error))?;
    if let Some(error) = failed_altogether(&texts) {
        return Err(work.fail(error));
    }
    let output_tokens = texts.iter().flatten().map(|answer| answer.output_tokens).sum();
    work.piece(output_tokens);
    work.done(output_tokens);
    Ok(Answer { texts, warnings: augmenter.warnings(&plan) })
}

/// The error of the whole, where none of the texts is at fault and none was served.
fn failed_altogether(texts: &[Result<Augmented>]) -> Option<ApiError> {
    let of_server =
        |text: &Result<Augmented>| text.as_ref().is_err_and(|error| error.code.status().is_server_error());
    if texts.iter().all(of_server) { texts.first()?.as_ref().err().cloned() } else { None }
}
