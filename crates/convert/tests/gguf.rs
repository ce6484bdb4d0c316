//! Contract: a GGUF file gives the artifact of the checkpoint that it was made of; what does not fit is an error that
//! names the file and leaves nothing.

#[path = "support/gguf.rs"]
mod writer;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value, json};
use textgen_artifact::{CHAT_TEMPLATE_FILE, DECODER_FILE, WEIGHTS_FILE};
use textgen_convert::{
    ConvertOptions, Precision, Report, Result, Target, convert, gguf::Gguf, weights::TensorSource,
};
use tokenizers::Tokenizer;
use writer::{File, f32_tensor, list, texts};

const TWINS: [&str; 3] = ["llama", "qwen3", "gemma3"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn twin(name: &str) -> PathBuf {
    fixtures().join(format!("gguf/{name}.gguf"))
}

fn to_folder(source: &Path, target: &Path, precision: Precision) -> Result<Report> {
    let target = Target::Folder(target.to_owned());
    convert(&ConvertOptions {
        source: source.to_owned(),
        target,
        plan: precision.into(),
        keep: None,
        force: false,
    })
}

fn convert_bytes(bytes: &[u8]) -> Result<Report> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    fs::write(&file, bytes).unwrap();
    let result = to_folder(&file, &dir.path().join("out"), Precision::Fp32);
    assert_eq!(dir.path().join("out").exists(), result.is_ok());
    result
}

fn message(change: impl FnOnce(&mut File)) -> String {
    let mut file = File::llama();
    change(&mut file);
    let message = convert_bytes(&file.bytes()).unwrap_err().to_string();
    assert!(message.contains("model.gguf: "), "{message}");
    message
}

#[test]
fn a_file_gives_the_artifact_of_its_checkpoint() {
    for name in TWINS {
        let dir = tempfile::tempdir().unwrap();
        let hub = to_folder(&fixtures().join("decoder").join(name), &dir.path().join("a"), Precision::Fp32)
            .unwrap();
        let ours = to_folder(&twin(name), &dir.path().join("b"), Precision::Fp32).unwrap();
        for file in [WEIGHTS_FILE, DECODER_FILE, CHAT_TEMPLATE_FILE] {
            let read = |report: &Report| fs::read(report.artifact.join(file)).unwrap();
            assert!(read(&hub) == read(&ours), "{name}: {file}");
        }
        let (hub, ours) = (hub.manifest, ours.manifest);
        assert_eq!(hub.geometry, ours.geometry, "{name}");
        assert_eq!(hub.rotary.len(), ours.rotary.len(), "{name}");
        // The twin has its divisors in f32.
        for (hub, ours) in hub.rotary.iter().zip(&ours.rotary) {
            assert_eq!(hub.inverse_frequencies.len(), ours.inverse_frequencies.len());
            for (a, b) in hub.inverse_frequencies.iter().zip(&ours.inverse_frequencies) {
                assert!((a - b).abs() <= 1e-6 * a.abs(), "{name}: {a} became {b}");
            }
        }
        let last = |ids: &[u32]| *ids.last().unwrap();
        let ends = |ids: &[u32]| ids.iter().copied().max();
        assert!(hub.generation.eos_token_ids.contains(&last(&ours.generation.eos_token_ids)), "{name}");
        assert_eq!(ends(&hub.generation.suppress_tokens), ends(&ours.generation.suppress_tokens), "{name}");
        assert_eq!(hub.generation.pad_token_id, ours.generation.pad_token_id, "{name}");
    }
}

#[test]
fn texts_have_the_ids_of_the_reference() {
    #[derive(Deserialize)]
    struct Reference {
        texts: Vec<Text>,
    }
    #[derive(Deserialize)]
    struct Text {
        text: String,
        ids: Vec<u32>,
    }
    for name in TWINS {
        let file = fixtures().join("decoder").join(name).join("reference.json");
        let reference: Reference = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let json = Gguf::open(&twin(name)).unwrap().tokenizer().unwrap().json;
        let tokenizer = Tokenizer::from_bytes(json).unwrap();
        assert!(!reference.texts.is_empty());
        for Text { text, ids } in reference.texts {
            assert_eq!(tokenizer.encode(text.as_str(), true).unwrap().get_ids(), ids, "{name}: {text:?}");
        }
    }
}

#[test]
fn every_block_format_gives_the_values_of_the_reference() {
    #[derive(Deserialize)]
    struct Entry {
        r#type: u32,
        shape: [u64; 2],
        data: String,
        values: String,
    }
    let text = fs::read_to_string(fixtures().join("gguf/quants.json")).unwrap();
    let entries: BTreeMap<String, Entry> = serde_json::from_str(&text).unwrap();
    assert_eq!(entries.len(), 7);
    let decode = |text: &str| serde_json::from_value::<Base64>(json!(text)).unwrap().0;
    for (name, entry) in entries {
        let mut file = File::llama();
        *file.tensor("token_embd.weight") = writer::Tensor {
            name: "token_embd.weight".to_owned(),
            shape: entry.shape.to_vec(),
            kind: entry.r#type,
            offset: None,
            data: decode(&entry.data),
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        fs::write(&path, file.bytes()).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let [rows, columns] = entry.shape.map(|size| size as usize);
        let table = "model.embed_tokens.weight";
        let got = gguf.matrix(table, rows, columns).unwrap().into_f32();
        let expected = decode(&entry.values);
        let expected: Vec<f32> =
            expected.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            assert!((got - expected).abs() <= 1e-6 * largest, "{name}: {got} for {expected}");
        }
        let last = gguf.rows(table, [rows, columns], rows - 1..rows).unwrap().into_f32();
        assert_eq!(last, got[(rows - 1) * columns..], "{name}");
    }
}

/// Bytes as fixtures have them.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Base64(Vec<u8>);

impl TryFrom<String> for Base64 {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).map(Self)
    }
}

#[test]
fn rows_of_halves_come_from_rows_of_pairs() {
    let mut file = File::llama();
    *file.tensor("blk.0.attn_q.weight") = f32_tensor("blk.0.attn_q.weight", &[8, 8], |i| (i / 8) as f32);
    file.tensors.push(f32_tensor("blk.0.attn_q.bias", &[8], |i| i as f32));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let expected = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
    assert_eq!(gguf.vector("model.layers.0.self_attn.q_proj.bias", 8).unwrap(), expected);
    for range in [0..8, 1..2, 3..6, 5..8] {
        let rows = gguf.rows("model.layers.0.self_attn.q_proj.weight", [8, 8], range.clone()).unwrap();
        let firsts: Vec<f32> = rows.into_f32().chunks(8).map(|row| row[0]).collect();
        assert_eq!(firsts, expected[range]);
    }
    assert_eq!(gguf.config().unwrap()["attention_bias"], json!(true));
}

#[test]
fn the_metadata_becomes_a_configuration() {
    let config = |change: &dyn Fn(&mut File)| -> Value {
        let mut file = File::llama();
        change(&mut file);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        fs::write(&path, file.bytes()).unwrap();
        Gguf::open(&path).unwrap().config().unwrap()
    };
    let plain = config(&|_| ());
    assert_eq!(plain["model_type"], "llama");
    assert_eq!(plain["tie_word_embeddings"], true);
    assert_eq!(plain["head_dim"], 4);
    assert_eq!(plain["eos_token_id"], 3);
    assert_eq!(plain["rope_scaling"], Value::Null);
    let number = |value: f32| value.to_le_bytes().to_vec();
    let linear = config(&|file| {
        file.set_text("llama.rope.scaling.type", "linear");
        file.set("llama.rope.scaling.factor", 6, number(4.0));
    });
    assert_eq!(linear["rope_scaling"], json!({"rope_type": "linear", "factor": 4.0}));
    let divided =
        config(&|file| file.tensors.push(f32_tensor("rope_freqs.weight", &[2], |i| (i + 1) as f32)));
    assert_eq!(divided["rope_scaling"], json!({"rope_type": "divisors", "divisors": [1.0, 2.0]}));
    let own_head = config(&|file| file.tensors.push(f32_tensor("output.weight", &[4, 8], |_| 1.0)));
    assert_eq!(own_head["tie_word_embeddings"], false);
}

#[test]
fn a_folder_may_hold_one_file() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Gguf::find(dir.path()).unwrap(), None);
    let file = dir.path().join("a.gguf");
    fs::write(&file, File::llama().bytes()).unwrap();
    assert_eq!(Gguf::find(dir.path()).unwrap().as_ref(), Some(&file));
    to_folder(dir.path(), &dir.path().join("out"), Precision::Int8).unwrap();
    let other = dir.path().join("other-name");
    fs::copy(&file, &other).unwrap();
    assert_eq!(Gguf::find(&other).unwrap().as_ref(), Some(&other));
    fs::copy(&file, dir.path().join("b.gguf")).unwrap();
    let error = Gguf::find(dir.path()).unwrap_err().to_string();
    assert!(error.contains("`a.gguf`, `b.gguf`"), "{error}");
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    assert_eq!(Gguf::find(dir.path()).unwrap(), None);
}

#[test]
fn what_is_not_supported_is_named() {
    let expect = |change: &dyn Fn(&mut File), parts: &[&str]| {
        let message = message(change);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    expect(&|file| file.version = 1, &["version is 1", "2 or 3"]);
    expect(&|file| file.version = 3_u32.swap_bytes(), &["big-endian"]);
    expect(&|file| file.set_text("general.architecture", "rwkv"), &["`rwkv`", "qwen3", "hunyuan-dense"]);
    expect(&|file| file.tensor("token_embd.weight").kind = 23, &["IQ4_XS", "Q4_K", "token_embd.weight"]);
    expect(&|file| file.tensor("token_embd.weight").kind = 999, &["number 999"]);
    expect(&|file| file.set_text("tokenizer.ggml.pre", "tekken"), &["`tekken`", "llama-bpe", "qwen2"]);
    expect(&|file| file.set_text("tokenizer.ggml.model", "bert"), &["`bert`", "`gpt2`"]);
    expect(&|file| file.set_u32("llama.expert_count", 8), &["8 experts"]);
    expect(&|file| file.set_u32("split.count", 2), &["2 files", "merge"]);
    expect(&|file| file.set_u32("tokenizer.ggml.eos_token_id", 4), &["eos_token_id", "is 4"]);
    expect(&|file| file.tensors.push(f32_tensor("blk.0.ssm_a", &[1], |_| 0.0)), &["blk.0.ssm_a"]);
    expect(&|file| file.tensors.push(f32_tensor("blk.00.attn_norm.weight", &[8], |_| 0.0)), &["blk.00"]);
}

#[test]
fn damage_is_named() {
    let expect = |change: &dyn Fn(&mut File), parts: &[&str]| {
        let message = message(change);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let tensor = "blk.0.ffn_down.weight";
    expect(&|file| file.tensor(tensor).shape = vec![1 << 33, 1 << 33, 1 << 33], &[tensor, "within the"]);
    expect(&|file| file.tensor(tensor).shape = vec![0, 8], &[tensor, "is 0"]);
    expect(&|file| file.tensor(tensor).shape = vec![1; 5], &[tensor, "5 dimensions"]);
    expect(&|file| file.tensor(tensor).shape = vec![8, 8], &[tensor, "[8, 8], expected [8, 12]"]);
    expect(&|file| file.tensor(tensor).offset = Some(u64::MAX - 31), &[tensor, "within the"]);
    expect(&|file| file.tensor(tensor).offset = Some(4), &[tensor, "a multiple of 32"]);
    expect(&|file| file.tensor(tensor).kind = 12, &[tensor, "blocks of 256"]);
    expect(&|file| file.tensor(tensor).data[..4].copy_from_slice(&f32::NAN.to_le_bytes()), &["not finite"]);
    expect(&|file| file.tensors.retain(|found| found.name != tensor), &["down_proj", "missing"]);
    expect(&|file| file.tensors.push(file.tensors[0].clone()), &["token_embd.weight", "there twice"]);
    expect(&|file| file.metadata.push(file.metadata[0].clone()), &["general.architecture", "there twice"]);
    expect(&|file| file.set_u32("general.alignment", 0), &["general.alignment", "is 0"]);
    expect(&|file| file.set_u32("general.alignment", 48), &["general.alignment"]);
    expect(&|file| file.set_text("llama.block_count", "one"), &["llama.block_count", "a text"]);
    expect(&|file| file.set_u32("llama.attention.head_count", 0), &["head_count"]);
    expect(&|file| file.set("x", 13, Vec::new()), &["`x`", "is 13"]);
    expect(&|file| file.set("x", 7, vec![2]), &["`x`", "0 or 1"]);
    expect(&|file| file.set("x", 9, list(0, u64::MAX, &[])), &["`x`", "18446744073709551615 elements"]);
    expect(&|file| file.set("x", 9, list(9, 1, &list(9, 1, &[]))), &["`x`", "a list of lists"]);
    expect(&|file| file.set("x", 8, u64::MAX.to_le_bytes().to_vec()), &["x", "18446744073709551615 bytes"]);
    let words = |words: &[&str]| texts(words);
    expect(&|file| file.set("tokenizer.ggml.tokens", 9, words(&["a", "a", "b", "c"])), &["`a`", "twice"]);
    expect(&|file| file.set("tokenizer.ggml.tokens", 9, words(&["a"])), &["eos_token_id"]);
    expect(&|file| file.set("tokenizer.ggml.merges", 9, words(&["ab"])), &["a merge", "`ab`"]);
    expect(&|file| file.set("tokenizer.ggml.merges", 9, words(&["a z"])), &["tokenizer cannot be used"]);

    let error = convert_bytes(b"GGML and more").unwrap_err().to_string();
    assert!(error.contains("the magic") && error.contains("`GGUF`"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = File::llama().bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, &bytes).unwrap();
    Gguf::open(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    // The last tensor ends on a multiple of the alignment.
    for length in (0..bytes.len()).rev() {
        file.set_len(length as u64).unwrap();
        let message = Gguf::open(&path).unwrap_err().to_string();
        assert!(message.contains("model.gguf: damaged: "), "{length} bytes: {message}");
    }
}
