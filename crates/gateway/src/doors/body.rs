//! Bodies and answers in JSON.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::StatusCode,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Gateway;
use crate::error::{ApiError, Result};

/// A body in JSON, whatever its content type says: tools that send `text/plain` mean no harm. It has the time for a
/// request to arrive.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Gateway> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, gateway: &Gateway) -> Result<Self> {
        let deadline = gateway.deadline();
        let bytes = deadline.reach(Bytes::from_request(request, gateway)).await;
        let bytes = bytes.ok_or_else(|| deadline.late("before the body was there"))?;
        let max_bytes = gateway.0.operation.max_body_bytes;
        parse(&bytes.map_err(|rejection| refused(&rejection, max_bytes))?).map(Body)
    }
}

fn refused(rejection: &BytesRejection, max_bytes: usize) -> ApiError {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::too_large(format!("the body is longer than {max_bytes} bytes (`max_body_bytes`)"))
        }
        _ => ApiError::invalid_argument(format!("the body broke off: {}", rejection.body_text())),
    }
}

/// Reads an object; an error names the key.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        ApiError::invalid_argument(format!("the body is not UTF-8: byte {} is at fault", error.valid_up_to()))
    })?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| wrong(&error))?;
    reader.end().map_err(|error| ApiError::invalid_argument(format!("more than one JSON value: {error}")))?;
    Ok(value)
}

/// The same, of what has been read already.
pub fn of_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| wrong(&error))
}

/// A key that is not among those of its object.
pub fn unknown(key: &str) -> ApiError {
    let key: String = key.chars().take(64).collect();
    ApiError::invalid_argument("is unknown; leave it out").at(&key)
}

fn wrong(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = error.path().to_string();
    let missing = error.inner().to_string();
    if let Some((key, _)) = missing.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
        let key = if path == "." { key.to_owned() } else { format!("{path}.{key}") };
        return ApiError::invalid_argument("is missing").at(&key);
    }
    // What serde quotes of a client's text may be long.
    let reason = ApiError::invalid_argument(error.inner().to_string().chars().take(300).collect::<String>());
    if path == "." { reason } else { reason.at(&path) }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        #[expect(dead_code, reason = "only its errors matter")]
        texts: Vec<String>,
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (body, param, part) in [
            (&b"{\"texts\": [\"a\", 3]}"[..], Some("texts[1]"), "expected a string"),
            (b"{\"texts\": \"a\"}", Some("texts"), "expected a sequence"),
            (b"{}", Some("texts"), "is missing"),
            (b"{\"texts\": [], \"text\": 1}", Some("text"), "unknown field `text`"),
            (b"{\"texts\": []} {}", None, "more than one"),
            (b"{\"texts\": [", Some("texts"), "EOF"),
            (b"", None, "EOF"),
            (b"{\"texts\": [\"\xff\"]}", None, "byte 12"),
        ] {
            let error = parse::<Asked>(body).unwrap_err();
            assert!(error.message.contains(part), "{error}");
            assert_eq!(error.param.as_deref(), param, "{error}");
        }
    }
}
