//! What can go wrong in a conversion: the file, what was found, what was expected, and what to do.

use std::{io, path::Path};

use textgen_artifact::ManifestError;

pub type Result<T, E = ConvertError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path}: not a checkpoint this program reads: {reason}; give a folder with {expected}")]
    UnknownCheckpoint { path: String, reason: String, expected: &'static str },
    #[error("{path}: {what} is missing; {remedy}")]
    MissingFile { path: String, what: String, remedy: String },
    #[error(
        "{path}: the tensor `{tensor}` is missing; the checkpoint is incomplete or of another architecture"
    )]
    MissingTensor { path: String, tensor: String },
    #[error(
        "{path}: the tensor `{tensor}` has shape {got:?}, expected {expected:?}; the checkpoint and its configuration disagree"
    )]
    Shape { path: String, tensor: String, got: Vec<usize>, expected: Vec<usize> },
    #[error(
        "{path}: the tensor `{tensor}` has type {got}, expected {expected}; convert the checkpoint to one of these first"
    )]
    ElementType { path: String, tensor: String, got: String, expected: &'static str },
    #[error("{path}: the tensor `{tensor}` holds a value that is not finite; the checkpoint is damaged")]
    NotFinite { path: String, tensor: String },
    #[error("{path}: damaged: {what} is {got}, expected {expected}; fetch the file again")]
    Damaged { path: String, what: String, got: String, expected: String },
    #[error("{path}: cannot be parsed: {reason}; fetch the file again")]
    Syntax { path: String, reason: String },
    #[error("{path}: {what} is {got}, supported is {expected}")]
    Unsupported { path: String, what: String, got: String, expected: String },
    #[error("{path}: the tokenizer cannot be used: {reason}")]
    Tokenizer { path: String, reason: String },
    #[error("{path}: exists and is not empty; choose another folder, or have it replaced with --force")]
    OutputExists { path: String },
    #[error("{path}: is not a folder that can be replaced: {reason}; choose another place")]
    OutputUnusable { path: String, reason: String },
    #[error("model name `{name}`: {reason}; choose another name")]
    ModelName { name: String, reason: &'static str },
    #[error("{node}: {what} is {got}, expected {expected}; the format `{format}` cannot hold this matrix")]
    Format { node: String, what: &'static str, got: String, expected: String, format: &'static str },
    #[error("models of the family `{family}` have no int4 form; choose {choice}")]
    NoInt4 { family: &'static str, choice: &'static str },
    #[error(
        "the vocabulary of a model of the family `{family}` cannot be trimmed, expected the T5 family; convert it with its whole vocabulary"
    )]
    NotTrimmable { family: &'static str },
    /// The vocabulary cannot be trimmed as asked.
    #[error("{path}: cannot trim the vocabulary: {what} is {got}, expected {expected}; {remedy}")]
    Trim { path: String, what: String, got: String, expected: String, remedy: &'static str },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl ConvertError {
    /// For `map_err` on file operations.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { path, source }
    }
}
