//! Contract: what cannot be trimmed is refused by name before anything is written; an artifact says what was kept. What
//! a trimmed model computes is checked where the graphs run.

#[path = "support/copied.rs"]
mod copied;
mod support;

use std::{fs, path::Path};

use copied::Copied;
use serde_json::{Value, json};
use textgen_artifact::{DType, Manifest, TOKENIZER_FILE};
use textgen_convert::{
    ConvertOptions, Precision, Report, Result, Target, convert,
    vocabulary::{Keep, Script},
};
use tokenizers::Tokenizer;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

fn trim(source: &Path, out: &Path, keep: Keep) -> Result<Report> {
    let target = Target::Folder(out.join("out"));
    let source = source.to_owned();
    convert(&ConvertOptions { source, target, plan: Precision::Int8.into(), keep: Some(keep), force: false })
}

fn script(name: &str) -> Keep {
    Keep { scripts: vec![name.parse::<Script>().unwrap()], corpus: None }
}

/// What trimming to the script says, and that nothing was left behind.
fn message(source: &Path, keep: Keep) -> String {
    let folder = tempfile::tempdir().unwrap();
    let message = trim(source, folder.path(), keep).unwrap_err().to_string();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{message}");
    message
}

#[test]
fn other_families_are_refused_by_name() {
    for (source, family) in [("decoder/llama", "llama"), ("gguf/qwen3.gguf", "qwen3")] {
        let message = message(&fixture(source), script("latin"));
        assert!(message.contains(&format!("`{family}`")) && message.contains("T5"), "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    support::write_package(folder.path(), &support::model());
    assert!(message(folder.path(), script("latin")).contains("`bergamot`"));
}

#[test]
fn what_leaves_nothing_is_refused() {
    let message = message(&fixture("t5/mt5"), script("han"));
    assert!(message.contains("spiece.model") && message.contains("the script Han is 0"), "{message}");
    assert!(message.contains("Latin"), "{message}");
}

#[test]
fn every_table_and_the_manifest_have_the_new_size() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("some texts.txt");
    fs::write(&corpus, "the rights\n").unwrap();
    let keep = Keep { scripts: Vec::new(), corpus: Some(corpus) };
    let report = trim(&fixture("t5/mt5"), folder.path(), keep).unwrap();
    let manifest = Manifest::read(&report.artifact).unwrap();
    let rows = manifest.geometry.vocab_size;
    assert!(rows < 60, "{rows}");
    let trimmed = manifest.trimmed.clone().unwrap();
    assert_eq!((trimmed.original_vocab_size, trimmed.scripts.len()), (120, 0));
    assert_eq!(trimmed.corpus.as_deref(), Some("some texts.txt"));
    assert_eq!(manifest.tensor(&manifest.embeddings.decoder.table).unwrap().shape, [rows, 16]);
    assert_eq!(manifest.tensor(&manifest.embeddings.decoder.table).unwrap().dtype, DType::F16);
    let head = manifest.precision_plan.iter().find(|entry| entry.name == "/lm_head").unwrap();
    assert_eq!(head.shape, [rows, 16]);
    assert_eq!(
        Tokenizer::from_file(report.artifact.join(TOKENIZER_FILE)).unwrap().get_vocab_size(true),
        rows
    );
    assert_eq!(manifest.generation.decoder_start_token_id, Some(0));
}

#[test]
fn a_tokenizer_of_its_own_is_trimmed_too() {
    let copy = Copied::of(&fixture("t5/mt5"));
    let (folder, source) = (&copy.dir, copy.source());
    let target = Target::Folder(folder.path().join("whole"));
    let options = ConvertOptions {
        source: source.clone(),
        target,
        plan: Precision::Fp32.into(),
        keep: None,
        force: false,
    };
    let whole = convert(&options).unwrap().artifact;
    let mut json: Value = serde_json::from_slice(&fs::read(whole.join(TOKENIZER_FILE)).unwrap()).unwrap();
    // Nothing in it ends a text, so the artifact names the token, under its new number.
    json["post_processor"] = Value::Null;
    json["normalizer"] = json!({"type": "NFKC"});
    fs::write(source.join(TOKENIZER_FILE), json.to_string()).unwrap();
    let config = source.join("generation_config.json");
    fs::write(&config, r#"{"eos_token_id": 100, "decoder_start_token_id": 0}"#).unwrap();
    let corpus = folder.path().join("texts");
    fs::write(&corpus, "ｔｈｅ rights\n").unwrap();
    let keep = Keep { scripts: Vec::new(), corpus: Some(corpus) };
    let report = trim(&source, folder.path(), keep).unwrap();
    // The model's and the tokenizer's own, and that of the file.
    let &[eos, other] = report.manifest.generation.eos_token_ids.as_slice() else { panic!("not two") };
    assert!(eos < 100 && other < 100);
    assert_eq!(report.manifest.tokenizer.source_suffix, [eos]);
    let text = |dir: &Path, id| Tokenizer::from_file(dir.join(TOKENIZER_FILE)).unwrap().id_to_token(id);
    assert_eq!(text(&report.artifact, eos), text(&whole, 1));
    assert_eq!(text(&report.artifact, other), text(&whole, 100));
    let tokenizer = Tokenizer::from_file(report.artifact.join(TOKENIZER_FILE)).unwrap();
    let encoding = tokenizer.encode("the rights", true).unwrap();
    assert!(!encoding.get_tokens().iter().any(|token| token == "<unk>"), "{:?}", encoding.get_tokens());
}
