//! The one error of the gateway: a code, which decides the HTTP status, and a message that says what, got, expected and
//! remedy. The outermost layer of the router writes it into the answer, since only that knows the request's id.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Class of the error.
    pub code: ErrorCode,
    /// One line, without a trailing period.
    pub message: String,
    /// The key that is at fault.
    pub param: Option<String>,
    /// Seconds after which another try makes sense.
    pub retry_after_s: Option<u64>,
}

/// Result with an [`ApiError`].
pub type Result<T> = std::result::Result<T, ApiError>;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $constructor:ident $name:literal $status:ident $kind:literal),+ $(,)?) => {
        /// Class of an [`ApiError`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant),+
        }

        impl ErrorCode {
            /// As clients, logs and metrics see it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The HTTP status it is answered with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }

            /// The class that clients of OpenAI's API look at.
            fn kind(self) -> &'static str {
                match self { $(Self::$variant => $kind),+ }
            }
        }

        impl ApiError {
            $($(#[$doc])* pub fn $constructor(message: impl Into<String>) -> Self {
                Self { code: ErrorCode::$variant, message: message.into(), param: None, retry_after_s: None }
            })+
        }
    };
}

codes! {
    /// The request is wrong; the same one will fail again.
    InvalidArgument invalid_argument "invalid_argument" BAD_REQUEST "invalid_request_error",
    /// The token is missing or not valid.
    Unauthenticated unauthenticated "unauthenticated" UNAUTHORIZED "authentication_error",
    /// A page of another origin.
    PermissionDenied permission_denied "permission_denied" FORBIDDEN "permission_error",
    /// No such path, model or service.
    NotFound not_found "not_found" NOT_FOUND "invalid_request_error",
    /// The path knows other methods.
    MethodNotAllowed method_not_allowed "method_not_allowed" METHOD_NOT_ALLOWED "invalid_request_error",
    /// A body, text or batch beyond its limit.
    TooLarge too_large "too_large" PAYLOAD_TOO_LARGE "invalid_request_error",
    /// Too many requests of this client.
    RateLimited rate_limited "rate_limited" TOO_MANY_REQUESTS "rate_limit_error",
    /// The queue is full, or the gateway is shutting down.
    Overloaded overloaded "overloaded" SERVICE_UNAVAILABLE "server_error",
    /// Triton or the model cannot be reached.
    Unavailable unavailable "unavailable" SERVICE_UNAVAILABLE "server_error",
    /// The time for a request is over.
    DeadlineExceeded deadline_exceeded "deadline_exceeded" GATEWAY_TIMEOUT "server_error",
    /// A fault of ours or of Triton's.
    Internal internal "internal" INTERNAL_SERVER_ERROR "server_error",
}

impl ApiError {
    /// The same error, at fault in `key`, which the message then begins with.
    pub fn at(mut self, key: &str) -> Self {
        self.message = format!("{key}: {}", self.message);
        self.param = Some(key.to_owned());
        self
    }

    /// The same error, worth another try after that time.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// As it is sent.
    pub fn body<'a>(&'a self, request_id: &'a str) -> ErrorBody<'a> {
        ErrorBody {
            code: self.code.name(),
            kind: self.code.kind(),
            param: self.param.as_deref(),
            message: &self.message,
            request_id,
        }
    }
}

/// The object under the key `error`.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    code: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    message: &'a str,
    request_id: &'a str,
}

/// Only the status: the outermost layer writes the body.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        if self.code == ErrorCode::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}
