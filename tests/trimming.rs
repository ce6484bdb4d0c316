//! Contract: a model with a part of its vocabulary is the same model on that part: the same pieces, the same logits
//! bit for bit, the same text, and every special token.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use support::{Artifact, fixture, read_json, submit, wait};
use tempfile::TempDir;
use textgen_artifact::{Manifest, TOKENIZER_FILE};
use textgen_convert::{
    Precision,
    vocabulary::{Keep, Script},
};
use triton_textgen::{
    decoding::SamplingParams,
    engine::{CrossView, DecodeBatch, EncodeBatch, Executor},
    tokenizer::Tokenizer,
};

/// Rows of the embeddings: more than any of the tokenizers has pieces.
const ROWS: usize = 720;
const WIDTH: usize = 16;
/// A row that no piece has, and that the configuration names.
const NAMED_ROW: u32 = 715;

/// A checkpoint with a tokenizer of several scripts: a fixture whose embeddings are larger.
struct Checkpoint {
    dir: TempDir,
}

impl Checkpoint {
    fn new(fixture_name: &str, tokenizer: &str, embeddings: &[&str]) -> Self {
        let (dir, source) = (tempfile::tempdir().unwrap(), fixture("t5").join(fixture_name));
        for name in ["config.json", "generation_config.json"] {
            fs::copy(source.join(name), dir.path().join(name)).unwrap();
        }
        fs::copy(fixture("t5/tokenizer").join(tokenizer), dir.path().join("spiece.model")).unwrap();
        let checkpoint = Self { dir };
        checkpoint.edit("config.json", |config| config["vocab_size"] = ROWS.into());
        checkpoint.edit("generation_config.json", |config| config["suppress_tokens"] = json!([5, NAMED_ROW]));
        fs::write(checkpoint.dir.path().join("tokenizer_config.json"), r#"{"extra_ids": 8}"#).unwrap();
        checkpoint.write_tensors(&source, embeddings);
        checkpoint
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let path = self.dir.path().join(name);
        let mut json = read_json(&path);
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    }

    /// The tensors of the fixture, but for embeddings and head, which are `embeddings`, each with values of its own.
    fn write_tensors(&self, source: &Path, embeddings: &[&str]) {
        let files = fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        let files: Vec<Vec<u8>> = files.map(|path| fs::read(path).unwrap()).collect();
        let tables: Vec<(String, Vec<u8>)> =
            (1..).zip(embeddings).map(|(seed, name)| (format!("{name}.weight"), table(seed))).collect();
        let parsed: Vec<SafeTensors> =
            files.iter().map(|bytes| SafeTensors::deserialize(bytes).unwrap()).collect();
        let is_table = |name: &str| {
            ["shared.", "lm_head."].iter().any(|start| name.starts_with(start))
                || name.contains("embed_tokens")
        };
        let mut all: BTreeMap<String, TensorView> = parsed.iter().flat_map(SafeTensors::tensors).collect();
        all.retain(|name, _| !is_table(name));
        for (name, bytes) in &tables {
            all.insert(name.clone(), TensorView::new(Dtype::F32, vec![ROWS, WIDTH], bytes).unwrap());
        }
        fs::write(self.dir.path().join("model.safetensors"), safetensors::serialize(all, None).unwrap())
            .unwrap();
    }

    fn convert(&self, precision: Precision, keep: Option<Keep>) -> Artifact {
        Artifact::convert_keeping(self.dir.path(), precision, keep).unwrap()
    }
}

/// `[ROWS, WIDTH]` in f32.
fn table(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 / 32768.0 - 1.0
    };
    (0..ROWS * WIDTH).flat_map(|_| next().to_le_bytes()).collect()
}

fn scripts(names: &[&str]) -> Option<Keep> {
    let scripts: Vec<Script> = names.iter().map(|name| name.parse().unwrap()).collect();
    Some(Keep { scripts, corpus: None })
}

fn corpus(file: PathBuf) -> Option<Keep> {
    Some(Keep { scripts: Vec::new(), corpus: Some(file) })
}

fn manifest(artifact: &Artifact) -> Manifest {
    Manifest::read(&artifact.dir()).unwrap()
}

fn tokenizer(artifact: &Artifact) -> Tokenizer {
    Tokenizer::load(&artifact.dir(), &manifest(artifact).tokenizer).unwrap()
}

/// Texts of an artifact's tokens, by id.
fn vocabulary(artifact: &Artifact) -> Vec<String> {
    let tokenizer = tokenizers::Tokenizer::from_file(artifact.dir().join(TOKENIZER_FILE)).unwrap();
    (0..tokenizer.get_vocab_size(true) as u32).map(|id| tokenizer.id_to_token(id).unwrap()).collect()
}

/// The whole and a part, and which row of the one is which of the other.
struct Pair {
    whole: Artifact,
    part: Artifact,
    /// Old ids by new ones.
    kept: Vec<u32>,
}

impl Pair {
    fn new(checkpoint: &Checkpoint, precision: Precision, keep: Option<Keep>) -> Self {
        let whole = checkpoint.convert(precision, None);
        let part = checkpoint.convert(precision, keep);
        let old: BTreeMap<String, u32> = vocabulary(&whole).into_iter().zip(0..).collect();
        let mut kept: Vec<u32> = vocabulary(&part).iter().map(|text| old[text]).collect();
        // Behind the tokenizer's: the row that the configuration names.
        kept.push(NAMED_ROW);
        assert!(kept.is_sorted(), "ids keep their order");
        assert_eq!(kept.len(), manifest(&part).geometry.vocab_size);
        Self { whole, part, kept }
    }

    fn new_id(&self, old: u32) -> u32 {
        self.kept.binary_search(&old).unwrap() as u32
    }

    fn old_ids(&self, new: &[u32]) -> Vec<u32> {
        new.iter().map(|&id| self.kept[id as usize]).collect()
    }

    #[track_caller]
    fn assert_same_pieces(&self, texts: impl IntoIterator<Item = impl AsRef<str>>) {
        let (whole, part) = (tokenizer(&self.whole), tokenizer(&self.part));
        for text in texts {
            let text = text.as_ref();
            let new = part.encode_source(text).unwrap();
            assert_eq!(self.old_ids(&new), whole.encode_source(text).unwrap(), "{text:?}");
        }
    }
}

const LATIN_AND_HAN: [&str; 2] = ["latin", "han"];

/// Layouts of embeddings and head, each on a fixture that has the rest.
const LAYOUTS: [(&str, &[&str]); 5] = [
    ("t5", &["shared"]),
    ("mt5", &["shared", "lm_head"]),
    ("umt5", &["shared", "lm_head"]),
    ("madlad", &["decoder.embed_tokens", "lm_head"]),
    ("flan", &["encoder.embed_tokens", "decoder.embed_tokens", "lm_head"]),
];

fn golden_texts() -> Vec<String> {
    serde_json::from_value(read_json(&fixture("t5/tokenizer/ids.json"))["texts"].clone()).unwrap()
}

/// Logits after each of `target`'s tokens.
fn logits(artifact: &Artifact, source: &[u32], target: &[u32]) -> Vec<Vec<f32>> {
    let mut executor = artifact.executor(1, 1);
    let mut encode = EncodeBatch::default();
    encode.push(source, 0);
    executor.encode(&encode).unwrap();
    let mut batch = DecodeBatch::default();
    batch.push(target, 0, 0, Some(CrossView { slot: 0, tokens: source.len() }));
    batch.logit_rows = (0..target.len() as i64).collect();
    executor.decode(&batch).unwrap();
    (0..target.len()).map(|row| executor.logits_mut(row).unwrap().to_vec()).collect()
}

#[test]
fn logits_of_what_is_kept_are_the_same_bits() {
    for (name, embeddings) in LAYOUTS {
        let checkpoint = Checkpoint::new(name, "nmt_nfkc.model", embeddings);
        for precision in [Precision::Fp32, Precision::Int8] {
            let pair = Pair::new(&checkpoint, precision, scripts(&["han"]));
            assert!(pair.kept.len() < 400, "{}", pair.kept.len());
            let source = tokenizer(&pair.part).encode_source("人人生而自由，2019。").unwrap();
            let target = [0, 7, source[0], source[2]];
            let part = logits(&pair.part, &source, &target);
            let whole = logits(&pair.whole, &pair.old_ids(&source), &pair.old_ids(&target));
            for (part, whole) in part.iter().zip(&whole) {
                let bits = |logit: f32| logit.to_bits();
                let expected: Vec<u32> = pair.kept.iter().map(|&old| bits(whole[old as usize])).collect();
                assert_eq!(
                    part.iter().copied().map(bits).collect::<Vec<_>>(),
                    expected,
                    "{name} {precision:?}"
                );
            }
        }
    }
}

#[test]
fn a_part_generates_what_the_whole_does_within_it() {
    let checkpoint = Checkpoint::new("mt5", "nmt_nfkc.model", &["shared", "lm_head"]);
    for precision in [Precision::Fp32, Precision::Int8] {
        let pair = Pair::new(&checkpoint, precision, scripts(&LATIN_AND_HAN));
        let (whole, part) = (pair.whole.model(2), pair.part.model(2));
        let kept: BTreeSet<u32> = pair.kept.iter().copied().collect();
        let dropped = (0..ROWS as u32).filter(|id| !kept.contains(id));
        for text in ["人人生而自由", "the rights of all", "平等 and 2019"] {
            let source = part.text.tokenizer.encode_source(text).unwrap();
            for temperature in [0.0, 1.0] {
                let params = |suppress_tokens: Vec<u32>, eos_token_ids: Vec<u32>| SamplingParams {
                    max_new_tokens: 24,
                    temperature,
                    seed: Some(5),
                    suppress_tokens,
                    eos_token_ids,
                    ..SamplingParams::default()
                };
                let own = params(
                    part.text.manifest.generation.suppress_tokens.clone(),
                    part.text.manifest.generation.eos_token_ids.clone(),
                );
                let part = wait(&submit(&part, source.clone(), &[], own)).remove(0);
                // Greedy or drawn, the whole says the same when what was dropped is forbidden to it.
                let forbidden = dropped.clone().chain([5, NAMED_ROW]).collect();
                let same = params(forbidden, vec![1]);
                let whole = wait(&submit(&whole, pair.old_ids(&source), &[], same)).remove(0);
                assert_eq!(part.text, whole.text, "{text} {temperature}");
                assert_eq!(pair.old_ids(&part.token_ids), whole.token_ids);
                assert!(!part.text.is_empty());
            }
        }
    }
}

#[test]
fn special_tokens_stay_and_are_found_under_their_new_ids() {
    let checkpoint = Checkpoint::new("mt5", "bytes.model", &["shared", "lm_head"]);
    let pair = Pair::new(&checkpoint, Precision::Fp32, scripts(&["han"]));
    let (whole, part) = (manifest(&pair.whole), manifest(&pair.part));
    assert_eq!(part.generation.eos_token_ids, [pair.new_id(1)]);
    assert_eq!(part.generation.pad_token_id, Some(pair.new_id(0)));
    assert_eq!(part.generation.decoder_start_token_id, Some(pair.new_id(0)));
    assert_eq!(part.generation.suppress_tokens, [pair.new_id(5), part.geometry.vocab_size as u32 - 1]);
    assert_eq!((whole.geometry.vocab_size, &whole.trimmed), (ROWS, &None));
    let trimmed = part.trimmed.unwrap();
    assert_eq!(
        (trimmed.original_vocab_size, trimmed.scripts, trimmed.corpus),
        (ROWS, vec!["Han".into()], None)
    );

    let names: BTreeSet<String> = vocabulary(&pair.part).into_iter().collect();
    let sentinels = (0..8).map(|n| format!("<extra_id_{n}>"));
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let others = ["<pad>", "</s>", "<unk>", "<sep>", "<mask>"].map(str::to_owned);
    for name in sentinels.chain(bytes).chain(others) {
        assert!(names.contains(&name), "{name}");
    }
    assert!(!names.contains("▁the"));
    pair.assert_same_pieces(["人人<extra_id_3>，<sep>平等</s>", "<mask>", ""]);
    // What was dropped becomes bytes, as what was never known.
    let tokenizer = tokenizer(&pair.part);
    let ids = tokenizer.encode_target("人a").unwrap();
    let byte = tokenizer.token_to_id("<0x61>").unwrap();
    assert_eq!(ids.last(), Some(&byte));
}

#[test]
fn what_was_dropped_is_unknown() {
    let checkpoint = Checkpoint::new("mt5", "nmt_nfkc.model", &["shared", "lm_head"]);
    let pair = Pair::new(&checkpoint, Precision::Fp32, scripts(&["han"]));
    let unknown = |artifact| {
        let tokenizer = tokenizer(artifact);
        let unknown = tokenizer.token_to_id("<unk>").unwrap();
        let ids = tokenizer.encode_target("人freedom人").unwrap();
        ids.iter().filter(|&&id| id == unknown).count()
    };
    assert_eq!(unknown(&pair.whole), 0);
    assert!(unknown(&pair.part) > 0);
}

fn is_kept(text: &str) -> bool {
    let kept: Vec<Script> = LATIN_AND_HAN.iter().map(|name| name.parse().unwrap()).collect();
    text.chars().map(Script::of).all(|script| script.is_shared() || kept.contains(&script))
}

#[test]
fn texts_of_the_kept_scripts_are_cut_alike() {
    for model in ["nmt_nfkc.model", "bytes.model", "bare.model"] {
        let checkpoint = Checkpoint::new("mt5", model, &["shared", "lm_head"]);
        let pair = Pair::new(&checkpoint, Precision::Fp32, scripts(&LATIN_AND_HAN));
        let texts: Vec<String> = golden_texts().into_iter().filter(|text| is_kept(text)).collect();
        assert!(texts.len() > 200, "{}", texts.len());
        pair.assert_same_pieces(texts);
        // And of one alone.
        let pair = Pair::new(&checkpoint, Precision::Fp32, scripts(&["han"]));
        let han: Script = "han".parse().unwrap();
        // Others of no script may be normalized to letters, as ㎏ is.
        let shared =
            |c: char| Script::of(c).is_shared() && (c.is_ascii() || "，。！？；：、（）".contains(c));
        let of_han = |c: char| shared(c) || han.has(c);
        pair.assert_same_pieces(golden_texts().iter().map(|text| text.replace(|c| !of_han(c), "，")));
    }
}

#[test]
fn texts_of_a_corpus_are_cut_alike() {
    for model in ["nmt_nfkc.model", "bytes.model", "bare.model"] {
        let checkpoint = Checkpoint::new("mt5", model, &["shared", "lm_head"]);
        let whole = checkpoint.convert(Precision::Fp32, None);
        // Every kind of text, unknown characters among them, a few at a time.
        let texts: Vec<String> =
            golden_texts().into_iter().filter(|text| !text.contains(['\n', '\r'])).collect();
        for texts in texts.chunks(40).step_by(3) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("texts.txt");
            fs::write(&file, texts.join("\r\n")).unwrap();
            let pair = Pair::new(&checkpoint, Precision::Fp32, corpus(file));
            pair.assert_same_pieces(texts);
            assert_eq!(manifest(&pair.part).trimmed.unwrap().corpus.as_deref(), Some("texts.txt"));
            assert!(vocabulary(&pair.part).len() < vocabulary(&whole).len(), "nothing was dropped");
        }
    }
}

#[test]
fn scripts_and_corpus_are_kept_together() {
    let checkpoint = Checkpoint::new("mt5", "nmt_nfkc.model", &["shared", "lm_head"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.txt");
    fs::write(&file, "the rights and freedoms\n\n").unwrap();
    let keep = Keep { corpus: Some(file), ..scripts(&["han"]).unwrap() };
    let both = Pair::new(&checkpoint, Precision::Fp32, Some(keep));
    both.assert_same_pieces(["the rights and freedoms", "人人生而自由，2019。"]);
    assert!(!vocabulary(&both.part).contains(&"▁security".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_of_the_kept_scripts_is_cut_alike(text in "[a-zA-Z 人生而自由在尊严，。0-9à-ÿ▁😀é<>/　ＡＢ]{0,40}") {
        thread_local! {
            static TOKENIZERS: (Tokenizer, Tokenizer, Vec<u32>) = {
                let checkpoint = Checkpoint::new("mt5", "nmt_nfkc.model", &["shared", "lm_head"]);
                let pair = Pair::new(&checkpoint, Precision::Fp32, scripts(&LATIN_AND_HAN));
                (tokenizer(&pair.whole), tokenizer(&pair.part), pair.kept.clone())
            };
        }
        TOKENIZERS.with(|(whole, part, kept)| {
            let new = part.encode_source(&text).unwrap();
            let old: Vec<u32> = new.iter().map(|&id| kept[id as usize]).collect();
            prop_assert_eq!(old, whole.encode_source(&text).unwrap());
            Ok(())
        })?;
    }
}
