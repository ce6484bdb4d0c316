//! The tokenizer of a checkpoint: `tokenizer.json`, or a SentencePiece model made into one.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;
use textgen_artifact::{GenerationSpec, TOKENIZER_FILE, TokenizerSpec};
use tokenizers::Tokenizer;

use super::read_json;
use crate::{
    error::{ConvertError, Result},
    sentencepiece::{SentencePiece, TokenizerOptions},
    tokenizer_files::TokenizerFiles,
    vocabulary::{Keep, trim},
    weights::RowSelection,
};

const SENTENCEPIECE_FILES: [&str; 2] = ["spiece.model", "sentencepiece.model"];
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const ADDED_TOKENS_FILE: &str = "added_tokens.json";
/// Sentinels of a SentencePiece model that says nothing of them and has room for them.
const DEFAULT_SENTINELS: usize = 100;

/// What the model knows of its tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenizerFacts {
    pub eos_token_id: u32,
    /// Rows of the embedding.
    pub vocab_size: usize,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    extra_ids: Option<usize>,
    #[serde(default)]
    additional_special_tokens: Vec<Value>,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<usize, Value>,
}

/// The tokenizer of a checkpoint, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointTokenizer {
    /// The file it comes from.
    path: String,
    pub files: TokenizerFiles,
    pub spec: TokenizerSpec,
}

impl CheckpointTokenizer {
    /// Reads the tokenizer of the checkpoint `source`.
    pub fn read(source: &Path, facts: TokenizerFacts) -> Result<Self> {
        let (path, files) = read(source, facts)?;
        let unusable = |reason: String| ConvertError::Tokenizer { path: path.clone(), reason };
        let tokenizer = Tokenizer::from_bytes(&files.json).map_err(|error| unusable(error.to_string()))?;
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if largest as usize >= facts.vocab_size {
            return Err(unusable(format!(
                "it has the id {largest}, the model's embedding has {} rows; they are of different models",
                facts.vocab_size
            )));
        }
        let empty = tokenizer.encode("", true).map_err(|error| unusable(error.to_string()))?;
        let appends = empty.get_ids().last() == Some(&facts.eos_token_id);
        let spec = TokenizerSpec {
            add_special_tokens: true,
            source_suffix: if appends { Vec::new() } else { vec![facts.eos_token_id] },
            normalizer: files.normalizer.is_some(),
        };
        Ok(Self { path, files, spec })
    }

    /// Keeps a part of the vocabulary, with every token that `generation` names, and gives all ids their new
    /// numbers. The result is the rows of the embedding that stay.
    pub fn trim(&mut self, keep: &Keep, generation: &mut GenerationSpec) -> Result<RowSelection> {
        let mut named: Vec<&mut u32> =
            generation.token_ids_mut().chain(&mut self.spec.source_suffix).collect();
        let ids: Vec<u32> = named.iter().map(|id| **id).collect();
        let (files, kept) = trim(&self.path, &self.files, &ids, keep)?;
        for id in &mut named {
            if let Some(place) = kept.place(**id) {
                **id = place;
            }
        }
        self.files = files;
        Ok(kept)
    }
}

/// The checkpoint's own `tokenizer.json`; none when it has none.
pub fn ready_tokenizer(source: &Path) -> Result<Option<TokenizerFiles>> {
    let Some(mut json) = read_json::<Value>(&source.join(TOKENIZER_FILE))? else { return Ok(None) };
    // Left from training: with these it would cut or fill texts.
    for key in ["truncation", "padding"] {
        if let Some(setting) = json.get_mut(key) {
            *setting = Value::Null;
        }
    }
    Ok(Some(TokenizerFiles { json: json.to_string(), normalizer: None }))
}

/// The tokenizer, and the file it comes from. One that is ready keeps its own normalizer.
fn read(source: &Path, facts: TokenizerFacts) -> Result<(String, TokenizerFiles)> {
    if let Some(files) = ready_tokenizer(source)? {
        return Ok((source.join(TOKENIZER_FILE).display().to_string(), files));
    }
    let Some(file) = SENTENCEPIECE_FILES.iter().map(|name| source.join(name)).find(|file| file.exists())
    else {
        return Err(ConvertError::MissingFile {
            path: source.display().to_string(),
            what: format!("`{TOKENIZER_FILE}` or `{}`", SENTENCEPIECE_FILES[0]),
            remedy: "fetch the whole checkpoint".to_owned(),
        });
    };
    let model = SentencePiece::read(&file)?;
    let sentinels = sentinels(source, &model, facts)?;
    let options = TokenizerOptions { eos_token_id: facts.eos_token_id, sentinels };
    Ok((file.display().to_string(), model.tokenizer_files(options)?))
}

/// Number of sentinels after the pieces. Any other token there would need a `tokenizer.json`.
fn sentinels(source: &Path, model: &SentencePiece, facts: TokenizerFacts) -> Result<usize> {
    let config_file = source.join(TOKENIZER_CONFIG_FILE);
    let config: TokenizerConfig = read_json(&config_file)?.unwrap_or_default();
    let listed = config.additional_special_tokens.iter().filter(|token| is_sentinel(content(token))).count();
    let count = match config.extra_ids {
        Some(count) => count,
        None if model.has_sentinels() => 0,
        None if listed > 0 => listed,
        None if model.len() + DEFAULT_SENTINELS <= facts.vocab_size => DEFAULT_SENTINELS,
        None => 0,
    };
    if model.len().saturating_add(count) > facts.vocab_size {
        return Err(ConvertError::Tokenizer {
            path: config_file.display().to_string(),
            reason: format!(
                "{} pieces and {count} sentinels are more than the {} rows of the model's embedding",
                model.len(),
                facts.vocab_size
            ),
        });
    }
    let added_file = source.join(ADDED_TOKENS_FILE);
    let added: BTreeMap<String, usize> = read_json(&added_file)?.unwrap_or_default();
    let named = added.iter().map(|(content, &id)| (id, content.as_str(), &added_file));
    let listed = config.added_tokens_decoder.iter().map(|(&id, token)| (id, content(token), &config_file));
    for (id, content, file) in named.chain(listed) {
        let sentinel = is_sentinel(content) && id < model.len() + count;
        if id >= model.len() && !sentinel {
            return Err(ConvertError::Tokenizer {
                path: file.display().to_string(),
                reason: format!(
                    "`{content}` ({id}) was added to the SentencePiece model; save the tokenizer as {TOKENIZER_FILE}"
                ),
            });
        }
    }
    Ok(count)
}

/// An added token is its text, or an object with it.
fn content(token: &Value) -> &str {
    token.as_str().or_else(|| token.get("content")?.as_str()).unwrap_or("")
}

fn is_sentinel(content: &str) -> bool {
    let number = content.strip_prefix("<extra_id_").and_then(|rest| rest.strip_suffix('>'));
    number.is_some_and(|number| number.parse::<usize>().is_ok())
}
