//! `/augment` and `/augment_batch`.

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};

use super::{Gateway, body::Body};
use crate::{
    error::{ApiError, Result},
    observe::{RequestId, Work},
    services::{Augmentation, Augmented},
};

/// `POST /augment`
pub async fn one(
    State(gateway): State<Gateway>,
    Extension(id): Extension<RequestId>,
    Body(asked): Body<Augmentation>,
) -> Result<Json<Value>> {
    if asked.texts.is_some() || asked.grouped {
        let key = if asked.grouped { "grouped" } else { "texts" };
        return Err(ApiError::invalid_argument("belongs to /augment_batch; here the key is `text`").at(key));
    }
    let text = asked.text.clone().ok_or_else(|| ApiError::invalid_argument("is missing").at("text"))?;
    let mut answer = augment(&gateway, &[text], &asked, &id).await?;
    let Augmented { variants, probabilities, .. } = answer.pop().unwrap_or_default();
    let mut body = json!({"augmented_texts": variants, "request_id": id});
    if let Some(probabilities) = probabilities {
        body["probabilities"] = json!(probabilities);
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
    let answers = augment(&gateway, texts, &asked, &id).await?;
    let (variants, probabilities): (Vec<_>, Vec<_>) =
        answers.into_iter().map(|answer| (answer.variants, answer.probabilities)).unzip();
    let mut body = match asked.grouped {
        true => json!({"augmented_texts": variants, "request_id": id}),
        false => json!({"augmented_texts": variants.concat(), "request_id": id}),
    };
    if let Some(probabilities) = probabilities.into_iter().collect::<Option<Vec<_>>>() {
        body["probabilities"] = json!(probabilities);
    }
    Ok(Json(body))
}

async fn augment(
    gateway: &Gateway,
    texts: &[String],
    asked: &Augmentation,
    id: &RequestId,
) -> Result<Vec<Augmented>> {
    let augmenter = gateway.augmenter()?;
    let plan = augmenter.plan(texts, asked, id.as_str())?;
    let mut work = Work::begin("augment", plan.model(), id);
    let answers = gateway.in_time(async {
        let _pass = gateway.gate().enter().await?;
        augmenter.augment(&plan).await
    });
    let answers = answers.await.map_err(|error| work.fail(error))?;
    let output_tokens = answers.iter().map(|answer| answer.output_tokens).sum();
    work.piece(output_tokens);
    work.done(output_tokens);
    Ok(answers)
}
