//! A decoder-only checkpoint as a Hugging Face folder.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde_json::Value;
use textgen_artifact::{CHAT_TEMPLATE_FILE, TOKENIZER_FILE};

use super::{Chat, Package};
use crate::{
    error::{ConvertError, Result},
    huggingface::{
        CONFIG_FILE, GenerationConfig, TOKENIZER_CONFIG_FILE, open_tensors, read_json, ready_tokenizer,
        special_tokens,
    },
};

/// The template to take where a checkpoint has several.
const DEFAULT_TEMPLATE: &str = "default";

/// The configuration and its path; none when there is no such file.
pub fn config(source: &Path) -> Result<Option<(String, Value)>> {
    let path = source.join(CONFIG_FILE);
    let json = read_json::<Value>(&path)?;
    Ok(json.map(|json| (path.display().to_string(), json)))
}

/// Opens everything else.
pub fn package(source: &Path, path: String, config: Value) -> Result<Package> {
    let Some(tokenizer) = ready_tokenizer(source)? else {
        return Err(ConvertError::MissingFile {
            path: source.display().to_string(),
            what: format!("`{TOKENIZER_FILE}`"),
            remedy: "fetch the whole checkpoint, or save its tokenizer in this format".to_owned(),
        });
    };
    let mut special_tokens = special_tokens(source)?;
    Ok(Package {
        path,
        config,
        generation: GenerationConfig::read(source)?,
        tensors: open_tensors(source)?,
        tokenizer,
        chat: chat(source, &special_tokens)?,
        eos_token: special_tokens.remove("eos_token"),
    })
}

fn chat(source: &Path, special_tokens: &BTreeMap<String, String>) -> Result<Option<Chat>> {
    let tokenizer: Value = read_json(&source.join(TOKENIZER_CONFIG_FILE))?.unwrap_or_default();
    let file = source.join(CHAT_TEMPLATE_FILE);
    let template = match fs::read_to_string(&file) {
        Ok(template) => Some(template),
        Err(error) if error.kind() == io::ErrorKind::NotFound => template_of(&tokenizer),
        Err(error) => return Err(ConvertError::io(&file)(error)),
    };
    let Some(template) = template else { return Ok(None) };
    Ok(Some(Chat { template, special_tokens: special_tokens.clone() }))
}

/// A template is a string, or one of a list of named ones.
fn template_of(tokenizer: &Value) -> Option<String> {
    let template = match tokenizer.get("chat_template")? {
        Value::Array(named) => {
            named.iter().find(|entry| entry["name"] == DEFAULT_TEMPLATE)?.get("template")?
        }
        template => template,
    };
    template.as_str().map(str::to_owned)
}
