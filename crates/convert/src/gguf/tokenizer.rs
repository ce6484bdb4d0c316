//! The vocabulary as a `tokenizer.json`.
//!
//! Two kinds: `gpt2`, bytes spelled as characters with a list of merges, cut into words by a rule that the file only
//! names; and `llama`, a SentencePiece model of pieces with scores, whose merges are what its pieces can be made of.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use serde_json::{Map, Value as Json, json};
use textgen_artifact::ESCAPED_SPACE as SPACE;

use super::{Gguf, header::Value};
use crate::{error::Result, tokenizer_files::TokenizerFiles};

/// Where words end, by Llama 3.
const LLAMA3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// By Qwen 2: digits stand alone.
const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// By the smaller HunYuan models: each rule cuts what the one before has left.
const HUNYUAN_DENSE_WORDS: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
];
const KNOWN_RULES: &str =
    "default, gpt-2, smollm, llama-bpe, llama3, llama-v3, qwen2, deepseek-r1-qwen, hunyuan, hunyuan-dense";

/// Names of special tokens in GGUF and on the hub.
const SPECIAL_TOKENS: [(&str, &str); 4] =
    [("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token"), ("unknown", "unk_token")];

/// A piece of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

pub(super) struct Vocabulary<'g> {
    pub tokens: &'g [String],
    pub kinds: Vec<Kind>,
}

impl Vocabulary<'_> {
    /// Ids by text, but for those that no text has.
    fn ids(&self) -> HashMap<&str, usize> {
        let used = self.tokens.iter().zip(&self.kinds).enumerate();
        used.filter(|(_, (_, kind))| **kind != Kind::Unused)
            .map(|(id, (token, _))| (token.as_str(), id))
            .collect()
    }

    /// Tokens that are found before anything else.
    fn added(&self) -> Vec<Json> {
        let mut added = Vec::new();
        for (id, (token, kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            let special = match kind {
                Kind::Control | Kind::Unknown => true,
                // Runs of spaces are pieces like any other.
                Kind::UserDefined => match is_spaces(token) {
                    true => continue,
                    false => false,
                },
                _ => continue,
            };
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            }));
        }
        added
    }
}

impl Gguf {
    /// The id of `bos`, `eos`, `padding`, `unknown`, or another name of the metadata; a negative one is none.
    pub(super) fn special_id(&self, name: &str) -> Result<Option<usize>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        if matches!(self.header.value(&key), Some(Value::Integer(id)) if *id < 0) {
            return Ok(None);
        }
        let Some(id) = self.header.unsigned(&key)? else { return Ok(None) };
        let tokens = self.header.texts("tokenizer.ggml.tokens")?.map_or(0, <[String]>::len);
        match usize::try_from(id) {
            Ok(id) if id < tokens => Ok(Some(id)),
            // How converters write that there is none.
            _ if id == u64::from(u32::MAX) => Ok(None),
            _ => Err(self.header.unsupported(
                &format!("`{key}`"),
                id.to_string(),
                &format!("one of {tokens} tokens"),
            )),
        }
    }

    /// Texts of the special tokens that the hub's configurations name.
    pub fn special_tokens(&self) -> Result<BTreeMap<String, String>> {
        let tokens = self.header.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
        let mut special = BTreeMap::new();
        for (name, hub_name) in SPECIAL_TOKENS {
            if let Some(id) = self.special_id(name)? {
                special.insert(hub_name.to_owned(), tokens[id].clone());
            }
        }
        Ok(special)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<TokenizerFiles> {
        let header = &self.header;
        let key = "tokenizer.ggml.model";
        let model = header.required(key, header.text(key)?)?;
        let vocabulary = self.vocabulary()?;
        let mut parts = match model {
            "gpt2" => self.byte_level(&vocabulary)?,
            "llama" => self.sentencepiece(&vocabulary)?,
            other => {
                return Err(header.unsupported(
                    "the tokenizer's model",
                    format!("`{other}`"),
                    "`gpt2` or `llama`",
                ));
            }
        };
        let mut set = |name: &str, value: Json| _ = parts.insert(name.to_owned(), value);
        set("version", json!("1.0"));
        set("truncation", Json::Null);
        set("padding", Json::Null);
        set("added_tokens", json!(vocabulary.added()));
        set("post_processor", self.post_processor(model, &vocabulary)?);
        Ok(TokenizerFiles { json: Json::Object(parts).to_string(), normalizer: None })
    }

    pub(super) fn vocabulary(&self) -> Result<Vocabulary<'_>> {
        let header = &self.header;
        let key = "tokenizer.ggml.tokens";
        let tokens = header.required(key, header.texts(key)?)?;
        let key = "tokenizer.ggml.token_type";
        let kinds = match header.integers(key)? {
            None => vec![Kind::Normal; tokens.len()],
            Some(kinds) if kinds.len() != tokens.len() => {
                let got = format!("for {} tokens", kinds.len());
                return Err(header.damaged(
                    &format!("`{key}`"),
                    got,
                    format!("one for each of {}", tokens.len()),
                ));
            }
            Some(kinds) => kinds.iter().map(|kind| self.kind(*kind)).collect::<Result<_>>()?,
        };
        let mut vocabulary = Vocabulary { tokens, kinds };
        self.mark_ends(&mut vocabulary)?;
        let used = vocabulary.kinds.iter().filter(|kind| **kind != Kind::Unused).count();
        if vocabulary.ids().len() != used {
            let mut seen = HashMap::new();
            let twice = tokens.iter().find(|token| seen.insert(token.as_str(), ()).is_some());
            let what = format!("the token `{}`", twice.map_or("", |token| token));
            return Err(header.damaged(&what, "in the vocabulary twice", "there once"));
        }
        Ok(vocabulary)
    }

    fn kind(&self, kind: i64) -> Result<Kind> {
        Ok(match kind {
            0 | 1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            other => {
                return Err(self.header.damaged("a type of `tokenizer.ggml.token_type`", other, "0 to 6"));
            }
        })
    }

    fn byte_level(&self, vocabulary: &Vocabulary) -> Result<Map<String, Json>> {
        let header = &self.header;
        let key = "tokenizer.ggml.merges";
        let merges = header.required(key, header.texts(key)?)?;
        let mut pairs = Vec::with_capacity(merges.len());
        for merge in merges {
            match merge.split_once(' ') {
                Some(pair) => pairs.push(json!([pair.0, pair.1])),
                None => {
                    return Err(header.damaged(
                        "a merge",
                        format!("`{merge}`"),
                        "two texts with a space between",
                    ));
                }
            }
        }
        let rule = header.text("tokenizer.ggml.pre")?.unwrap_or("default");
        if rule == "default" {
            log::warn!(
                "{}: does not say how its tokenizer cuts words; taking GPT-2's way",
                self.path.display()
            );
        }
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let (steps, takes_whole_words, normalizer) = match rule {
            "default" | "gpt-2" => (vec![byte_level(true)], false, Json::Null),
            "smollm" => (vec![digits, byte_level(true)], false, Json::Null),
            "llama-bpe" | "llama3" | "llama-v3" => (words(&[LLAMA3_WORDS]), true, Json::Null),
            // Its texts were composed first; the others' were not.
            "qwen2" => (words(&[QWEN2_WORDS]), false, json!({ "type": "NFC" })),
            "deepseek-r1-qwen" | "hunyuan" => (words(&[QWEN2_WORDS]), false, Json::Null),
            "hunyuan-dense" => (words(&HUNYUAN_DENSE_WORDS), false, Json::Null),
            other => {
                return Err(header.unsupported(
                    "the rule that cuts words",
                    format!("`{other}`"),
                    KNOWN_RULES,
                ));
            }
        };
        Ok(Map::from_iter([
            ("normalizer".to_owned(), normalizer),
            ("pre_tokenizer".to_owned(), json!({ "type": "Sequence", "pretokenizers": steps })),
            ("decoder".to_owned(), byte_level(true)),
            (
                "model".to_owned(),
                json!({
                    "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                    "ignore_merges": takes_whole_words, "vocab": vocabulary.ids(), "merges": pairs,
                }),
            ),
        ]))
    }

    fn sentencepiece(&self, vocabulary: &Vocabulary) -> Result<Map<String, Json>> {
        let header = &self.header;
        let key = "tokenizer.ggml.scores";
        let scores = header.required(key, header.floats(key)?)?;
        if scores.len() != vocabulary.tokens.len() {
            let expected = format!("one for each of {} tokens", vocabulary.tokens.len());
            return Err(header.damaged(
                &format!("`{key}`"),
                format!("for {} tokens", scores.len()),
                expected,
            ));
        }
        let adds_space = header.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        // Runs of spaces stand as they are in the file, and escaped in normalized text.
        let spelled = |(id, token): (usize, &String)| {
            let text = if is_spaces(token) { token.replace(' ', SPACE) } else { token.clone() };
            (text, id)
        };
        let used =
            vocabulary.tokens.iter().enumerate().filter(|(id, _)| vocabulary.kinds[*id] != Kind::Unused);
        let count = used.clone().count();
        let ids: HashMap<String, usize> = used.map(spelled).collect();
        if ids.len() != count {
            return Err(header.damaged("a run of spaces", "in the vocabulary twice", "there once"));
        }
        let mut normalizers =
            vec![json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE })];
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if adds_space {
            normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let unknown = vocabulary.kinds.iter().position(|kind| *kind == Kind::Unknown);
        let merges = self.merges(vocabulary, scores, &ids);
        Ok(Map::from_iter([
            ("normalizer".to_owned(), json!({ "type": "Sequence", "normalizers": normalizers })),
            ("pre_tokenizer".to_owned(), Json::Null),
            ("decoder".to_owned(), json!({ "type": "Sequence", "decoders": decoders })),
            (
                "model".to_owned(),
                json!({
                    "type": "BPE", "dropout": null, "continuing_subword_prefix": null,
                    "end_of_word_suffix": null, "unk_token": unknown.map(|id| &vocabulary.tokens[id]),
                    "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": ids,
                    "merges": merges,
                }),
            ),
        ]))
    }

    /// Every way to make a piece of two, the best piece first.
    fn merges<'v>(
        &self,
        vocabulary: &Vocabulary,
        scores: &[f32],
        ids: &'v HashMap<String, usize>,
    ) -> Vec<[&'v str; 2]> {
        let joins = |id: usize| matches!(vocabulary.kinds[id], Kind::Normal | Kind::UserDefined);
        let mut merges = Vec::new();
        for (text, &id) in ids {
            if !joins(id) {
                continue;
            }
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) else { continue };
                if joins(left_id) && joins(right_id) {
                    merges.push((id, left_id, right_id, [left, right]));
                }
            }
        }
        // The scores of Gemma's pieces do not follow the order in which they were merged; their places do.
        let score =
            |id: usize| if self.architecture.is_gemma() { -(id as f64) } else { f64::from(scores[id]) };
        merges.sort_by(|a, b| {
            let rank = |merge: &(usize, usize, usize, [&str; 2])| {
                let &(id, left, right, [left_text, right_text]) = merge;
                let lengths = Reverse((left_text.chars().count(), right_text.chars().count()));
                (lengths, id, left, right)
            };
            score(b.0).total_cmp(&score(a.0)).then_with(|| rank(a).cmp(&rank(b)))
        });
        merges.into_iter().map(|(.., texts)| texts).collect()
    }

    /// The tokens before and after every text.
    fn post_processor(&self, model: &str, vocabulary: &Vocabulary) -> Result<Json> {
        let header = &self.header;
        let rule = header.text("tokenizer.ggml.pre")?;
        // As llama.cpp has it where a file does not say.
        let begins = model == "llama" || matches!(rule, Some("llama-bpe" | "llama3" | "llama-v3"));
        let add = |name: &str, default: bool| -> Result<Option<usize>> {
            match header.bool(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(default) {
                true => self.special_id(name),
                false => Ok(None),
            }
        };
        let (first, last) = (add("bos", begins)?, add("eos", false)?);
        if first.is_none() && last.is_none() {
            // Nothing to add, and no change of offsets that anyone looks at.
            return Ok(Json::Null);
        }
        let token = |id: usize| json!({ "SpecialToken": { "id": vocabulary.tokens[id], "type_id": 0 } });
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        let around = |id: &str| -> Vec<Json> {
            first.map(token).into_iter().chain([text(id)]).chain(last.map(token)).collect()
        };
        let mut special = Map::new();
        for id in first.into_iter().chain(last) {
            let content = &vocabulary.tokens[id];
            special.insert(content.clone(), json!({ "id": content, "ids": [id], "tokens": [content] }));
        }
        let pair = [around("A"), around("B")].concat();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": around("A"),
            "pair": pair,
            "special_tokens": special,
        }))
    }
}

fn is_spaces(token: &str) -> bool {
    !token.is_empty() && token.chars().all(|c| c == ' ')
}

/// Splits words, then spells their bytes as characters.
fn words(rules: &[&str]) -> Vec<Json> {
    let split = |rule: &&str| json!({ "type": "Split", "pattern": { "Regex": rule }, "behavior": "Isolated", "invert": false });
    rules.iter().map(split).chain([byte_level(false)]).collect()
}

fn byte_level(use_regex: bool) -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex })
}
