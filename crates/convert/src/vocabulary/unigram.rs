//! A Unigram `tokenizer.json` of which some pieces are left.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;
use textgen_artifact::TextNormalizer;
use tokenizers::{
    Model, ModelWrapper, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizer,
    Tokenizer, models::unigram::Unigram,
};

use super::{Keep, Script, corpus::for_each_text};
use crate::{
    error::{ConvertError, Result},
    tokenizer_files::TokenizerFiles,
    weights::RowSelection,
};

/// Scripts that a message lists.
const LISTED_SCRIPTS: usize = 8;

/// Keeps a part of a vocabulary. Gives the tokenizer that is left, and the rows of the embedding that are: those of
/// its tokens, and those in `named`. `path` is the tokenizer's file, for messages.
pub fn trim(
    path: &str,
    files: &TokenizerFiles,
    named: &[u32],
    keep: &Keep,
) -> Result<(TokenizerFiles, RowSelection)> {
    let whole = Whole::parse(path, files)?;
    let special = whole.special();
    let mut kept = special.clone();
    kept.extend(named);
    kept.extend(whole.of_scripts(&keep.scripts, &special)?);
    if let Some(corpus) = &keep.corpus {
        kept.extend(whole.of_corpus(corpus, &special)?);
    }
    let kept = RowSelection::from_iter(kept);
    Ok((whole.select(&kept)?, kept))
}

/// A tokenizer with its whole vocabulary.
struct Whole<'f> {
    path: &'f str,
    files: &'f TokenizerFiles,
    json: Value,
    tokenizer: Tokenizer,
}

impl<'f> Whole<'f> {
    fn parse(path: &'f str, files: &'f TokenizerFiles) -> Result<Self> {
        let unusable = |reason: String| ConvertError::Tokenizer { path: path.to_owned(), reason };
        let tokenizer = Tokenizer::from_bytes(&files.json).map_err(|error| unusable(error.to_string()))?;
        let other = match tokenizer.get_model() {
            ModelWrapper::Unigram(_) => None,
            ModelWrapper::BPE(_) => Some("BPE"),
            ModelWrapper::WordPiece(_) => Some("WordPiece"),
            ModelWrapper::WordLevel(_) => Some("WordLevel"),
        };
        if let Some(kind) = other {
            return Err(ConvertError::Trim {
                path: path.to_owned(),
                what: "the kind of the tokenizer".to_owned(),
                got: kind.to_owned(),
                expected: "Unigram".to_owned(),
                remedy: "convert the model with its whole vocabulary",
            });
        }
        let json = serde_json::from_str(&files.json).map_err(|error| unusable(error.to_string()))?;
        Ok(Self { path, files, json, tokenizer })
    }

    /// Id, text and score of each piece.
    fn pieces(&self) -> impl Iterator<Item = (u32, &str, f64)> {
        let model = match self.tokenizer.get_model() {
            ModelWrapper::Unigram(model) => Some(model),
            _ => None,
        };
        let pieces = model.into_iter().flat_map(Unigram::iter).zip(0..);
        pieces.map(|((text, score), id)| (id, text.as_str(), *score))
    }

    /// What stays whatever the texts are.
    fn special(&self) -> BTreeSet<u32> {
        let symbols = self.files.normalizer.iter().flat_map(|normalizer| &normalizer.user_defined_symbols);
        let symbols: BTreeSet<&str> = symbols.map(String::as_str).collect();
        let is_special = |text: &str| is_byte(text) || is_sentinel(text) || symbols.contains(text);
        let pieces = self.pieces().filter(|(_, text, _)| is_special(text)).map(|(id, ..)| id);
        let added = self.tokenizer.get_added_vocabulary().get_vocab().values().copied();
        // The unknown token, and what is put around a text.
        let mut json = self.json.clone();
        let named: Vec<u32> = ids(&mut json).iter().filter_map(|id| id.as_u64()?.try_into().ok()).collect();
        // Unknown characters are measured by it.
        let least = self.pieces().min_by(|a, b| a.2.total_cmp(&b.2)).map(|(id, ..)| id);
        pieces.chain(added).chain(named).chain(least).collect()
    }

    fn of_scripts(&self, scripts: &[Script], special: &BTreeSet<u32>) -> Result<Vec<u32>> {
        if scripts.is_empty() {
            return Ok(Vec::new());
        }
        let is_kept = |character: char| {
            let script = Script::of(character);
            script.is_shared() || scripts.contains(&script)
        };
        let ordinary = || self.pieces().filter(|(id, ..)| !special.contains(id));
        let kept = || ordinary().filter(|(_, text, _)| text.chars().all(is_kept));
        for script in scripts {
            if !kept().any(|(_, text, _)| text.chars().any(|character| script.has(character))) {
                return Err(ConvertError::Trim {
                    path: self.path.to_owned(),
                    what: format!("the number of pieces in the script {script}"),
                    got: "0".to_owned(),
                    expected: format!(
                        "some, as it has in {}",
                        most_used(ordinary().map(|(_, text, _)| text))
                    ),
                    remedy: "name scripts that the model knows",
                });
            }
        }
        Ok(kept().map(|(id, ..)| id).collect())
    }

    fn of_corpus(&self, corpus: &Path, special: &BTreeSet<u32>) -> Result<BTreeSet<u32>> {
        let unusable = |error: tokenizers::Error| ConvertError::Tokenizer {
            path: self.path.to_owned(),
            reason: error.to_string(),
        };
        let normalizer = self.files.normalizer.clone().map(|spec| OfSentencePiece(TextNormalizer::new(spec)));
        let mut used = BTreeSet::new();
        for_each_text(corpus, |text| self.encode(text, normalizer.as_ref(), &mut used).map_err(unusable))?;
        if used.is_subset(special) {
            return Err(ConvertError::Trim {
                path: corpus.display().to_string(),
                what: "the number of pieces that its texts use".to_owned(),
                got: "0".to_owned(),
                expected: "some".to_owned(),
                remedy: "give texts of the languages to keep, one a line",
            });
        }
        Ok(used)
    }

    /// Adds the ids of a text to `used`: what the backend's tokenizer makes of it.
    fn encode(
        &self,
        text: &str,
        normalizer: Option<&OfSentencePiece>,
        used: &mut BTreeSet<u32>,
    ) -> tokenizers::Result<()> {
        let added = self.tokenizer.get_added_vocabulary();
        let mut parts = match normalizer {
            Some(normalizer) => added.extract_and_normalize(Some(normalizer), text),
            None => added.extract_and_normalize(self.tokenizer.get_normalizer(), text),
        };
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut parts)?;
        }
        parts.tokenize(|part| self.tokenizer.get_model().tokenize(part.get()))?;
        let parts = parts.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        used.extend(parts.iter().flat_map(|(.., tokens)| tokens.iter().flatten()).map(|token| token.id));
        Ok(())
    }

    /// The tokenizer with the tokens of `kept` alone, renumbered.
    fn select(&self, kept: &RowSelection) -> Result<TokenizerFiles> {
        let unusable = |reason: String| ConvertError::Tokenizer { path: self.path.to_owned(), reason };
        let mut json = self.json.clone();
        for id in ids(&mut json) {
            let place = id.as_u64().and_then(|id| kept.place(id.try_into().ok()?));
            *id = place.ok_or_else(|| unusable(format!("it names {id} for the id of a token")))?.into();
        }
        if let Some(vocab) = json.pointer_mut("/model/vocab").and_then(Value::as_array_mut) {
            let mut id = 0..;
            vocab.retain(|_| id.next().is_some_and(|id| kept.place(id).is_some()));
        }
        let files = TokenizerFiles { json: json.to_string(), normalizer: self.files.normalizer.clone() };
        // A file may give an added token another id than readers of it do.
        let selected = Tokenizer::from_bytes(&files.json).map_err(|error| unusable(error.to_string()))?;
        let moved =
            |&(place, &id): &(u32, &u32)| selected.id_to_token(place) != self.tokenizer.id_to_token(id);
        match (0..).zip(kept.rows()).find(moved) {
            None => Ok(files),
            Some((_, &id)) => Err(unusable(format!(
                "its token {id} has no fixed place; save the tokenizer again with ids that rise by one"
            ))),
        }
    }
}

/// Our normalizer in the crate's place for one.
struct OfSentencePiece(TextNormalizer);

impl Normalizer for OfSentencePiece {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        *text = self.0.normalize(text.get()).into();
        Ok(())
    }
}

/// Every place of a `tokenizer.json` that holds a token's id.
fn ids(json: &mut Value) -> Vec<&mut Value> {
    let mut ids = Vec::new();
    for (key, value) in json.as_object_mut().into_iter().flatten() {
        match key.as_str() {
            "model" => ids.extend(value.get_mut("unk_id").filter(|id| !id.is_null())),
            "added_tokens" => {
                let tokens = value.as_array_mut().into_iter().flatten();
                ids.extend(tokens.filter_map(|token| token.get_mut("id")));
            }
            "post_processor" => processor_ids(value, &mut ids),
            _ => {}
        }
    }
    ids
}

fn processor_ids<'j>(processor: &'j mut Value, ids: &mut Vec<&'j mut Value>) {
    for (key, value) in processor.as_object_mut().into_iter().flatten() {
        match key.as_str() {
            // Of a template, by their texts.
            "special_tokens" => {
                let tokens = value.as_object_mut().into_iter().flatten();
                ids.extend(tokens.filter_map(|(_, token)| token.get_mut("ids")?.as_array_mut()).flatten());
            }
            // Of BERT's and RoBERTa's kind, text and id.
            "sep" | "cls" => ids.extend(value.get_mut(1)),
            "processors" => {
                value.as_array_mut().into_iter().flatten().for_each(|part| processor_ids(part, ids));
            }
            _ => {}
        }
    }
}

/// `<0x41>`
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// `<extra_id_7>`, which mT5 has among its pieces, with a space in front.
fn is_sentinel(text: &str) -> bool {
    let text = text.strip_prefix(textgen_artifact::ESCAPED_SPACE).unwrap_or(text);
    let number = text.strip_prefix("<extra_id_").and_then(|rest| rest.strip_suffix('>'));
    number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// The scripts that most pieces have, for a message.
fn most_used<'t>(pieces: impl Iterator<Item = &'t str>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for text in pieces {
        let scripts = text.chars().map(Script::of).filter(|script| !script.is_shared());
        for name in scripts.map(|script| script.to_string()).collect::<BTreeSet<_>>() {
            *counts.entry(name).or_default() += 1;
        }
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, count)| Reverse(count));
    let names: Vec<String> = counts.into_iter().take(LISTED_SCRIPTS).map(|(name, _)| name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A tokenizer of three special tokens, the pieces, and an added token after them.
    fn files(pieces: &[(String, f64)], byte_fallback: bool) -> TokenizerFiles {
        let special =
            [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)].map(|(text, score)| json!([text, score]));
        let pieces = pieces.iter().map(|(text, score)| json!([text, score]));
        let bytes = (0..=255)
            .map(|byte| json!([format!("<0x{byte:02X}>"), 0.0]))
            .take(256 * usize::from(byte_fallback));
        let vocab: Vec<Value> = special.into_iter().chain(bytes).chain(pieces).collect();
        let added = |id: usize, content: &str| {
            json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false})
        };
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "added_tokens": [added(0, "<pad>"), added(1, "</s>"), added(2, "<unk>"), added(vocab.len(), "<new>")],
            "post_processor": {"type": "Sequence", "processors": [
                {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<new>", vocab.len()], "trim_offsets": true,
                 "add_prefix_space": false}]},
            "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": byte_fallback},
        });
        TokenizerFiles { json: json.to_string(), normalizer: None }
    }

    fn load(files: &TokenizerFiles) -> Tokenizer {
        Tokenizer::from_bytes(&files.json).unwrap()
    }

    fn latin_and_han() -> Vec<Script> {
        vec!["Latin".parse().unwrap(), "Han".parse().unwrap()]
    }

    /// Ids of a text before, and those after by their old numbers.
    fn both(
        whole: &TokenizerFiles,
        part: &TokenizerFiles,
        kept: &RowSelection,
        text: &str,
    ) -> (Vec<u32>, Vec<u32>) {
        let ids = |files| load(files).encode(text, true).unwrap().get_ids().to_vec();
        (ids(whole), ids(part).into_iter().map(|id| kept.rows()[id as usize]).collect())
    }

    /// Few letters and few scores, so that ways to cut a text tie, and letters without a piece of their own.
    fn pieces() -> impl Strategy<Value = Vec<(String, f64)>> {
        let score = prop_oneof![Just(-1.0), Just(-2.0), Just(-3.0), Just(-5.5), Just(-0.3), Just(-12.0)];
        prop::collection::btree_map("[ab中文д.▁]{1,4}", score, 1..40)
            .prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn texts_of_kept_scripts_are_cut_alike(
            mut pieces in pieces(),
            byte_fallback: bool,
            texts in prop::collection::vec("[ab中文.x ]{0,16}", 1..8),
        ) {
            pieces.retain(|(text, _)| !["a", "中", "дд"].contains(&text.as_str()));
            pieces.extend([("a".to_owned(), -4.0), ("中".to_owned(), -4.0)]);
            // The least probable one stays in any case, and counts for no script.
            pieces.push(("дд".to_owned(), -20.0));
            let whole = files(&pieces, byte_fallback);
            let keep = Keep { scripts: latin_and_han(), corpus: None };
            let (part, kept) = trim("t", &whole, &[], &keep).unwrap();
            for text in texts {
                let (before, after) = both(&whole, &part, &kept, &text);
                prop_assert_eq!(before, after, "{}", text);
            }
        }

        #[test]
        fn texts_of_a_corpus_are_cut_alike(
            mut pieces in pieces(),
            byte_fallback: bool,
            mut texts in prop::collection::vec("[ab中文д.xж ]{1,16}", 1..8),
        ) {
            pieces.retain(|(text, _)| text != "a");
            pieces.push(("a".to_owned(), -4.0));
            texts.push("a".to_owned());
            texts.push("a<new>a".to_owned());
            let folder = tempfile::tempdir().unwrap();
            let corpus = folder.path().join("texts");
            fs::write(&corpus, texts.join("\n")).unwrap();
            let whole = files(&pieces, byte_fallback);
            let keep = Keep { scripts: Vec::new(), corpus: Some(corpus) };
            let trimmed = trim("t", &whole, &[], &keep);
            let (part, kept) = match trimmed {
                // All but the least probable piece may be in no text.
                Err(ConvertError::Trim { .. }) => return Ok(()),
                trimmed => trimmed.unwrap(),
            };
            for text in texts {
                let (before, after) = both(&whole, &part, &kept, &text);
                prop_assert_eq!(before, after, "{}", text);
            }
        }
    }

    fn some_pieces() -> Vec<(String, f64)> {
        let texts = ["▁a", "b", "中。", "д", "▁д1", "1", "<extra_id_0>", "▁<extra_id_12>", "<extra_id_x>"];
        texts.iter().map(|text| (text.to_string(), -1.0)).chain([("least".to_owned(), -9.0)]).collect()
    }

    #[test]
    fn ids_that_are_named_stay_and_all_are_renumbered() {
        let whole = files(&some_pieces(), false);
        let keep = Keep { scripts: vec!["Han".parse().unwrap()], corpus: None };
        let (part, kept) = trim("t", &whole, &[4, 30], &keep).unwrap();
        // Special ones, `b`, `中。`, `1`, two sentinels, the least probable piece, the added token, a row of none.
        assert_eq!(kept.rows(), [0, 1, 2, 4, 5, 8, 9, 10, 12, 13, 30]);
        let json: Value = serde_json::from_str(&part.json).unwrap();
        assert_eq!(json["added_tokens"][3]["id"], 9);
        assert_eq!(json["post_processor"]["processors"][0]["cls"][1], 9);
        let part = load(&part);
        assert_eq!(part.encode("中。<new>", true).unwrap().get_ids(), [9, 2, 4, 9, 1]);
    }

    #[test]
    fn scores_keep_every_bit() {
        let scores =
            [-10.273_900_032_043_457, -0.1 - 0.2, -1.0 / 3.0, -9.869_604_401_089_358, f64::MIN_POSITIVE];
        let pieces: Vec<(String, f64)> =
            ["a", "b", "c", "d", "e"].map(str::to_owned).into_iter().zip(scores).collect();
        let keep = Keep { scripts: vec!["Latin".parse().unwrap()], corpus: None };
        let (part, _) = trim("t", &files(&pieces, false), &[], &keep).unwrap();
        let part = load(&part);
        let ModelWrapper::Unigram(model) = part.get_model() else { panic!("another model") };
        let got: Vec<u64> = model.iter().skip(3).map(|(_, score)| score.to_bits()).collect();
        assert_eq!(got, scores.map(f64::to_bits));
    }

    #[test]
    fn what_leaves_nothing_or_is_no_unigram_is_refused() {
        let message =
            |files: &TokenizerFiles, keep: Keep| trim("t", files, &[], &keep).unwrap_err().to_string();
        let scripts = |name: &str| Keep { scripts: vec![name.parse().unwrap()], corpus: None };
        let whole = files(&some_pieces(), false);
        let error = message(&whole, scripts("thai"));
        assert!(error.contains("the script Thai is 0") && error.contains("Latin, Cyrillic, Han"), "{error}");
        let mut json: Value = serde_json::from_str(&whole.json).unwrap();
        json["added_tokens"] = json!([]);
        json["post_processor"] = Value::Null;
        json["model"] = json!({"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"});
        let other = TokenizerFiles { json: json.to_string(), normalizer: None };
        assert!(message(&other, scripts("han")).contains("is WordLevel, expected Unigram"));
        json["model"] = json!({"type": "BPE", "vocab": {"<unk>": 0}, "merges": [], "unk_token": "<unk>"});
        let other = TokenizerFiles { json: json.to_string(), normalizer: None };
        assert!(message(&other, scripts("han")).contains("is BPE, expected Unigram"));
    }

    #[test]
    fn a_corpus_has_texts_in_utf_8() {
        let whole = files(&some_pieces(), false);
        let folder = tempfile::tempdir().unwrap();
        let corpus = folder.path().join("texts");
        let message = || {
            let keep = Keep { scripts: Vec::new(), corpus: Some(corpus.clone()) };
            trim("t", &whole, &[], &keep).unwrap_err().to_string()
        };
        assert!(message().contains("texts: No such file"), "{}", message());
        for text in ["", "\n\r\n", "жж"] {
            fs::write(&corpus, text).unwrap();
            assert!(message().contains("its texts use is 0, expected some"), "{}", message());
        }
        fs::write(&corpus, b"b\nb\xff\n").unwrap();
        assert!(message().contains("line 2 is not UTF-8"), "{}", message());
    }
}
