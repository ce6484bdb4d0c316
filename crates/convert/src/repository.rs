//! An entry of a Triton model repository.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    checkpoint::Plan,
    error::{ConvertError, Result},
};

pub const CONFIG_FILE: &str = "config.pbtxt";
/// Folder of the artifact within the entry: version 1 of the model.
pub const VERSION_DIR: &str = "1";

/// All that the server needs but the instances; the backend completes inputs, outputs and the transaction policy.
const CONFIG: &str = r#"# The backend completes the rest: inputs, outputs, transaction policy.
backend: "textgen"

# Let clients send several texts in one request, with a batch dimension:
# max_batch_size: 8

# One response for each request, never a stream:
# model_transaction_policy { decoupled: false }

# Engines of this model; each holds its own caches:
"#;

/// The configuration of a new entry. A model is on the CPU unless its configuration says otherwise.
fn config(plan: Plan) -> String {
    let instances = match plan {
        Plan::Cpu(_) => "# instance_group [ { count: 1, kind: KIND_CPU } ]",
        Plan::Cuda(_) => "instance_group [ { count: 1, kind: KIND_GPU } ]",
    };
    format!("{CONFIG}{instances}\n")
}

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

/// True for an entry that has a configuration: it is the user's, and only the artifact beside it is ours to write.
pub fn is_configured(entry: &Path) -> Result<bool> {
    let file = entry.join(CONFIG_FILE);
    let config = match fs::read_to_string(&file) {
        Ok(config) => config,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(ConvertError::io(&file)(error)),
    };
    if config.lines().any(names_our_backend) {
        return Ok(true);
    }
    Err(ConvertError::OutputUnusable {
        path: entry.display().to_string(),
        reason: format!("its {CONFIG_FILE} is for something else: no line says backend: \"textgen\""),
    })
}

fn names_our_backend(line: &str) -> bool {
    let line: String = line.chars().filter(|c| !c.is_whitespace()).collect();
    ["backend:\"textgen\"", "backend:'textgen'"].iter().any(|wanted| line.starts_with(wanted))
}

/// Writes the configuration into the entry's folder and makes that of the artifact.
pub fn prepare(entry: &Path, plan: Plan) -> Result<PathBuf> {
    let file = entry.join(CONFIG_FILE);
    fs::write(&file, config(plan)).map_err(ConvertError::io(&file))?;
    let version = entry.join(VERSION_DIR);
    fs::create_dir(&version).map_err(ConvertError::io(&version))?;
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_something_else_is_left_alone() {
        let entry = tempfile::tempdir().unwrap();
        assert!(!is_configured(entry.path()).unwrap());
        let write = |config: &str| fs::write(entry.path().join(CONFIG_FILE), config).unwrap();
        for config in [CONFIG, "  backend : \"textgen\" # ours", "max_batch_size: 8\nbackend: 'textgen'"] {
            write(config);
            assert!(is_configured(entry.path()).unwrap(), "{config}");
        }
        for config in ["", "platform: \"ensemble\"", "backend: \"python\"", "# backend: \"textgen\""] {
            write(config);
            assert!(
                matches!(is_configured(entry.path()), Err(ConvertError::OutputUnusable { .. })),
                "{config}"
            );
        }
    }

    #[test]
    fn a_name_stays_within_the_repository() {
        let repository = Path::new("repository");
        assert_eq!(entry(repository, "translate-en-pt").unwrap(), repository.join("translate-en-pt"));
        for name in ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a b", "a\n"] {
            assert!(matches!(entry(repository, name), Err(ConvertError::ModelName { .. })), "{name:?}");
        }
    }
}
