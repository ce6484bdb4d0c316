//! `generation_config.json`.

use std::path::Path;

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;
use textgen_artifact::GenerationSpec;

use super::{CONFIG_FILE, GENERATION_FILE, read_json};
use crate::error::{ConvertError, Result};

/// Defaults of generation as the checkpoint gives them; an absent one is none.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct GenerationConfig {
    #[serde(default, deserialize_with = "token_id")]
    pub decoder_start_token_id: Option<u32>,
    #[serde(default, rename = "eos_token_id", deserialize_with = "token_ids")]
    eos_token_ids: Vec<u32>,
    #[serde(default, deserialize_with = "token_id")]
    pub pad_token_id: Option<u32>,
    #[serde(default, deserialize_with = "token_ids")]
    suppress_tokens: Vec<u32>,
    max_new_tokens: Option<usize>,
    max_length: Option<usize>,
    pub do_sample: Option<bool>,
    pub temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(i64),
    Many(Vec<i64>),
}

/// A negative id is how some configurations write that there is none.
fn token_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let id: Option<i64> = Option::deserialize(deserializer)?;
    id.filter(|id| *id >= 0).map(|id| u32::try_from(id).map_err(D::Error::custom)).transpose()
}

/// One id or several; negative ones are none here too.
fn token_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let ids = match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(OneOrMany::One(id)) => vec![id],
        Some(OneOrMany::Many(ids)) => ids,
    };
    ids.into_iter().filter(|id| *id >= 0).map(|id| u32::try_from(id).map_err(D::Error::custom)).collect()
}

/// Options that change the text and have no place in a manifest, with the value that does nothing.
const NOT_CARRIED: [(&str, f64); 8] = [
    ("num_beams", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("typical_p", 1.0),
    ("penalty_alpha", 0.0),
];

/// The same for options whose absence does nothing.
const NOT_CARRIED_WHEN_SET: [&str; 6] = [
    "bad_words_ids",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "begin_suppress_tokens",
    "sequence_bias",
];

/// Refuses token ids that a vocabulary of this size does not have; `path` is that of the configuration.
pub fn check_token_ids(path: &str, spec: &GenerationSpec, vocab_size: usize) -> Result<()> {
    let ids = spec.eos_token_ids.iter().chain(&spec.suppress_tokens).chain(&spec.pad_token_id);
    match ids.chain(&spec.decoder_start_token_id).find(|&&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(ConvertError::Unsupported {
            path: path.to_owned(),
            what: "a token id of the configuration".to_owned(),
            got: id.to_string(),
            expected: format!("one below `vocab_size` ({vocab_size})"),
        }),
    }
}

impl GenerationConfig {
    /// Reads `generation_config.json`, and special tokens that it leaves out from `config.json`. Older
    /// checkpoints have everything in `config.json`. Tokens of either file end a text, the model's own first.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut model: Self = read_json(&dir.join(CONFIG_FILE))?.unwrap_or_default();
        let Some(own) = read_json::<Self>(&dir.join(GENERATION_FILE))? else { return Ok(model) };
        model.add_ends(own.eos_token_ids.iter().copied());
        Ok(Self {
            decoder_start_token_id: own.decoder_start_token_id.or(model.decoder_start_token_id),
            eos_token_ids: model.eos_token_ids,
            pad_token_id: own.pad_token_id.or(model.pad_token_id),
            ..own
        })
    }

    /// Lets these tokens end a text too.
    pub fn add_ends(&mut self, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
    }

    /// The defaults as a manifest has them, but for what a target starts from and how long it may get.
    pub fn spec(&self) -> GenerationSpec {
        GenerationSpec {
            decoder_start_token_id: None,
            eos_token_ids: self.eos_token_ids.clone(),
            pad_token_id: self.pad_token_id,
            suppress_tokens: self.suppress_tokens.clone(),
            max_new_tokens: None,
            max_new_tokens_per_source_token: None,
            do_sample: self.do_sample.unwrap_or(false),
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
        }
    }

    /// Tokens that end a text; the first one is the model's own.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// `max_new_tokens` alone: the `max_length` of a decoder-only model counts the prompt, whatever its length.
    pub fn new_tokens(&self) -> Option<usize> {
        self.max_new_tokens
    }

    /// `max_length` counts the decoder's start token too; `max_new_tokens` wins over it.
    pub fn max_new_tokens(&self) -> Option<usize> {
        self.max_new_tokens.or_else(|| self.max_length?.checked_sub(1).filter(|&tokens| tokens > 0))
    }

    /// Names of the options that are set and that a manifest cannot hold.
    pub fn not_carried(&self) -> Vec<&'static str> {
        let neutral = |name: &str, neutral: f64| match self.others.get(name) {
            None | Some(Value::Null) => true,
            Some(value) => value.as_f64() == Some(neutral),
        };
        let numbers =
            NOT_CARRIED.iter().filter(|(name, value)| !neutral(name, *value)).map(|(name, _)| *name);
        let is_set = |value: &Value| !value.is_null() && value.as_i64().is_none_or(|id| id >= 0);
        let others =
            NOT_CARRIED_WHEN_SET.into_iter().filter(|name| self.others.get(*name).is_some_and(is_set));
        numbers.chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn parse(json: &str) -> GenerationConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn ids_come_alone_or_as_a_list() {
        assert_eq!(parse(r#"{"eos_token_id": 1}"#).eos_token_ids(), [1]);
        assert_eq!(parse(r#"{"eos_token_id": [1, 7]}"#).eos_token_ids(), [1, 7]);
        assert!(parse(r#"{"eos_token_id": null}"#).eos_token_ids().is_empty());
    }

    #[test]
    fn a_negative_id_is_none() {
        let config = parse(
            r#"{"pad_token_id": -1, "decoder_start_token_id": -1, "eos_token_id": -1, "suppress_tokens": [-1, 3]}"#,
        );
        assert_eq!((config.pad_token_id, config.decoder_start_token_id), (None, None));
        assert!(config.eos_token_ids().is_empty());
        assert_eq!(config.spec().suppress_tokens, [3]);
        assert_eq!(parse(r#"{"eos_token_id": [2, -1, 7]}"#).eos_token_ids(), [2, 7]);
        for config in [r#"{"pad_token_id": 4294967296}"#, r#"{"eos_token_id": [1, 4294967296]}"#] {
            assert!(serde_json::from_str::<GenerationConfig>(config).is_err(), "{config}");
        }
    }

    #[test]
    fn tokens_of_either_file_end_a_text() {
        let ends = |model: &str, own: Option<&str>| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(CONFIG_FILE), model).unwrap();
            if let Some(own) = own {
                fs::write(dir.path().join(GENERATION_FILE), own).unwrap();
            }
            GenerationConfig::read(dir.path()).unwrap().eos_token_ids
        };
        let both = ends(r#"{"eos_token_id": 1}"#, Some(r#"{"eos_token_id": [227, 1]}"#));
        assert_eq!(both, [1, 227]);
        assert_eq!(ends("{}", Some(r#"{"eos_token_id": 5}"#)), [5]);
        assert_eq!(ends(r#"{"eos_token_id": [4, 5]}"#, Some("{}")), [4, 5]);
        assert_eq!(ends(r#"{"eos_token_id": 4}"#, None), [4]);
    }

    #[test]
    fn a_length_counts_the_start_token() {
        assert_eq!(parse(r#"{"max_length": 20}"#).max_new_tokens(), Some(19));
        assert_eq!(parse(r#"{"max_length": 20, "max_new_tokens": 64}"#).max_new_tokens(), Some(64));
        assert_eq!(parse(r#"{"max_length": 1}"#).max_new_tokens(), None);
        assert_eq!(parse("{}").max_new_tokens(), None);
    }

    #[test]
    fn options_without_a_place_are_named_unless_they_do_nothing() {
        let config = r#"{"num_beams": 4, "min_length": 0, "forced_bos_token_id": null, "forced_eos_token_id": -1, "bad_words_ids": [[3]]}"#;
        assert_eq!(parse(config).not_carried(), ["num_beams", "bad_words_ids"]);
    }
}
