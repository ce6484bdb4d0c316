//! The tokenizer of a checkpoint: `tokenizer.json`, or a SentencePiece model made into one.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;
use textgen_artifact::{GenerationSpec, TOKENIZER_FILE, TokenizerSpec};
use tokenizers::Tokenizer;

use super::{
    TOKENIZER_CONFIG_FILE, read_json,
    special_tokens::{content, special_tokens},
};
use crate::{
    error::{ConvertError, Result},
    sentencepiece::{SentencePiece, TokenizerOptions},
    tokenizer_files::TokenizerFiles,
    vocabulary::{Keep, trim},
    weights::RowSelection,
};

const SENTENCEPIECE_FILES: [&str; 2] = ["spiece.model", "sentencepiece.model"];
const ADDED_TOKENS_FILE: &str = "added_tokens.json";
/// Sentinels of a SentencePiece model that says nothing of them and has room for them.
const DEFAULT_SENTINELS: usize = 100;

/// Ends a text where a checkpoint names no other token.
const DEFAULT_EOS: &str = "</s>";
/// Any text that is not empty.
const PROBE: &str = "a";

/// What the model knows of its tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenizerFacts {
    /// Ends a source where the tokenizer knows no token for it.
    pub eos_token_id: u32,
    /// Rows of the embedding.
    pub vocab_size: usize,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    add_eos_token: Option<bool>,
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
    /// Its token for the end of a text.
    pub eos_token_id: Option<u32>,
}

impl CheckpointTokenizer {
    /// Reads the tokenizer of the checkpoint `source`.
    pub fn read(source: &Path, facts: TokenizerFacts) -> Result<Self> {
        let config: TokenizerConfig = read_json(&source.join(TOKENIZER_CONFIG_FILE))?.unwrap_or_default();
        let special_tokens = special_tokens(source)?;
        let names = [special_tokens.get("eos_token").map_or(DEFAULT_EOS, String::as_str), DEFAULT_EOS];
        let (path, files) = read(source, &config, names, facts)?;
        let unusable = |reason: String| ConvertError::Tokenizer { path: path.clone(), reason };
        let tokenizer = Tokenizer::from_bytes(&files.json).map_err(|error| unusable(error.to_string()))?;
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if largest as usize >= facts.vocab_size {
            return Err(unusable(format!(
                "it has the id {largest}, the model's embedding has {} rows; they are of different models",
                facts.vocab_size
            )));
        }
        let eos_token_id = names.iter().find_map(|name| tokenizer.token_to_id(name));
        let probe = tokenizer.encode(PROBE, true).map_err(|error| unusable(error.to_string()))?;
        let appends = probe.get_special_tokens_mask().last() == Some(&1);
        let source_suffix = match appends || config.add_eos_token == Some(false) {
            true => Vec::new(),
            false => vec![eos_token_id.unwrap_or(facts.eos_token_id)],
        };
        let spec =
            TokenizerSpec { add_special_tokens: true, source_suffix, normalizer: files.normalizer.is_some() };
        Ok(Self { path, files, spec, eos_token_id })
    }

    /// Keeps a part of the vocabulary, with every token that `generation` names, and gives all ids their new
    /// numbers. The result is the rows of the embedding that stay.
    pub fn trim(&mut self, keep: &Keep, generation: &mut GenerationSpec) -> Result<RowSelection> {
        let own = self.spec.source_suffix.iter_mut().chain(&mut self.eos_token_id);
        let mut named: Vec<&mut u32> = generation.token_ids_mut().chain(own).collect();
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
fn read(
    source: &Path,
    config: &TokenizerConfig,
    eos_names: [&str; 2],
    facts: TokenizerFacts,
) -> Result<(String, TokenizerFiles)> {
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
    let sentinels = sentinels(source, config, &model, facts)?;
    let eos = eos_names.into_iter().find_map(|name| model.id(name)).or(model.eos());
    let options = TokenizerOptions { eos_token_id: eos.unwrap_or(facts.eos_token_id), sentinels };
    Ok((file.display().to_string(), model.tokenizer_files(options)?))
}

/// Number of sentinels after the pieces. Any other token there would need a `tokenizer.json`.
fn sentinels(
    source: &Path,
    config: &TokenizerConfig,
    model: &SentencePiece,
    facts: TokenizerFacts,
) -> Result<usize> {
    let config_file = source.join(TOKENIZER_CONFIG_FILE);
    let listed = config
        .additional_special_tokens
        .iter()
        .filter(|token| content(token).is_some_and(is_sentinel))
        .count();
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
    let listed = config
        .added_tokens_decoder
        .iter()
        .map(|(&id, token)| (id, content(token).unwrap_or_default(), &config_file));
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

fn is_sentinel(content: &str) -> bool {
    let number = content.strip_prefix("<extra_id_").and_then(|rest| rest.strip_suffix('>'));
    number.is_some_and(|number| number.parse::<usize>().is_ok())
}
