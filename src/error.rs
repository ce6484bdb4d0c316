//! The one error of the backend: a kind, which decides the code the client sees, and a message that says
//! what, got, expected and remedy.

use std::fmt;

/// What went wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Decides the Triton error code.
    pub kind: ErrorKind,
    /// What, got, expected, remedy; one line, without a trailing period.
    pub message: String,
}

/// Class of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request or the configuration is wrong; the same call will fail again.
    InvalidArgument,
    /// A file or a name does not exist.
    NotFound,
    /// A declared option that this build does not serve.
    Unsupported,
    /// The queue is full, the model is draining, or the deadline has passed: try again later.
    Unavailable,
    /// The client gave the request up.
    Cancelled,
    /// A fault of ours or of the runtime.
    Internal,
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),+ $(,)?) => {
        impl Error {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
                Self { kind: ErrorKind::$kind, message: message.into() }
            })+
        }
    };
}

constructors! {
    /// See [`ErrorKind::InvalidArgument`].
    invalid_argument => InvalidArgument,
    /// See [`ErrorKind::NotFound`].
    not_found => NotFound,
    /// See [`ErrorKind::Unsupported`].
    unsupported => Unsupported,
    /// See [`ErrorKind::Unavailable`].
    unavailable => Unavailable,
    /// See [`ErrorKind::Cancelled`].
    cancelled => Cancelled,
    /// See [`ErrorKind::Internal`].
    internal => Internal,
}

impl Error {
    /// The same error with `context: ` before its message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

/// Characters of a client's text that an error message repeats.
pub(crate) const SHOWN: usize = 40;

/// A client's text may be of any length, an error message may not.
pub(crate) fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
