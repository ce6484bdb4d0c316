//! An entry of a Triton model repository.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{ConvertError, Result};

pub const CONFIG_FILE: &str = "config.pbtxt";
/// Folder of the artifact within the entry: version 1 of the model.
pub const VERSION_DIR: &str = "1";

/// All that the server needs; the backend completes inputs, outputs and the transaction policy.
const CONFIG: &str = r#"# The backend completes the rest: inputs, outputs, transaction policy.
backend: "textgen"

# Let clients send several texts in one request, with a batch dimension:
# max_batch_size: 8

# One response for each request, never a stream:
# model_transaction_policy { decoupled: false }

# Engines of this model; each holds its own caches:
# instance_group [ { count: 1, kind: KIND_CPU } ]
"#;

/// Checks a model's name and gives the place of its entry.
pub fn entry(repository: &Path, name: &str) -> Result<PathBuf> {
    let refuse = |reason| Err(ConvertError::ModelName { name: name.to_owned(), reason });
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.starts_with('.') {
        return refuse("it starts with a dot");
    }
    if name.chars().any(|c| c == '/' || c == '\\' || c.is_control() || c.is_whitespace()) {
        return refuse("it has a slash, a space or a control character");
    }
    Ok(repository.join(name))
}

/// Writes the configuration into the entry's folder and makes that of the artifact.
pub fn prepare(entry: &Path) -> Result<PathBuf> {
    let config = entry.join(CONFIG_FILE);
    fs::write(&config, CONFIG).map_err(ConvertError::io(&config))?;
    let version = entry.join(VERSION_DIR);
    fs::create_dir(&version).map_err(ConvertError::io(&version))?;
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_the_repository() {
        let repository = Path::new("repository");
        assert_eq!(entry(repository, "translate-en-pt").unwrap(), repository.join("translate-en-pt"));
        for name in ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a b", "a\n"] {
            assert!(matches!(entry(repository, name), Err(ConvertError::ModelName { .. })), "{name:?}");
        }
    }
}
