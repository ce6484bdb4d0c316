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
        let ends = |ids: &[u32]| ids.iter().copied().max();
        let of_hub = &hub.generation.eos_token_ids;
        assert!(ours.generation.eos_token_ids.iter().all(|id| of_hub.contains(id)), "{name}");
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

/// The tokens that end a text in a vocabulary of these, the first of which has the id 4.
fn ends(tokens: &[(&str, i32)], change: impl FnOnce(&mut File)) -> Vec<u32> {
    convert_bytes(&with_tokens(tokens, change).bytes()).unwrap().manifest.generation.eos_token_ids
}

/// Ids of the special tokens, and of the other added ones, of the same.
fn added(tokens: &[(&str, i32)], change: impl FnOnce(&mut File)) -> (Vec<u64>, Vec<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, with_tokens(tokens, change).bytes()).unwrap();
    let json: Value = serde_json::from_str(&Gguf::open(&path).unwrap().tokenizer().unwrap().json).unwrap();
    let (special, others): (Vec<&Value>, Vec<&Value>) =
        json["added_tokens"].as_array().unwrap().iter().partition(|token| token["special"] == true);
    let ids = |tokens: Vec<&Value>| tokens.iter().map(|token| token["id"].as_u64().unwrap()).collect();
    (ids(special), ids(others))
}

fn with_tokens(tokens: &[(&str, i32)], change: impl FnOnce(&mut File)) -> File {
    let mut file = File::llama();
    let all: Vec<&str> =
        ["a", "b", "ab", "<end>"].into_iter().chain(tokens.iter().map(|(text, _)| *text)).collect();
    let kinds = [1, 1, 1, 3].into_iter().chain(tokens.iter().map(|(_, kind)| *kind));
    let kinds: Vec<u8> = kinds.flat_map(i32::to_le_bytes).collect();
    file.set("tokenizer.ggml.tokens", 9, texts(&all));
    file.set("tokenizer.ggml.token_type", 9, list(5, all.len() as u64, &kinds));
    *file.tensor("token_embd.weight") =
        f32_tensor("token_embd.weight", &[all.len() as u64, 8], |i| (i % 7) as f32);
    change(&mut file);
    file
}

/// Of the file's types of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

#[test]
fn texts_end_at_the_tokens_that_llama_cpp_knows() {
    let tokens = [
        ("<|begin_of_text|>", CONTROL),
        ("<|end_of_text|>", CONTROL),
        ("<|start_header_id|>", CONTROL),
        ("<|end_header_id|>", CONTROL),
        ("<|eot_id|>", CONTROL),
        ("<|im_start|>", CONTROL),
        ("<|im_end|>", CONTROL),
        ("<|endoftext|>", CONTROL),
        ("<end_of_turn>", CONTROL),
        ("<|end|>", CONTROL),
        ("<|eom_id|>", CONTROL),
    ];
    let named = ends(&tokens, |file| file.set_u32("tokenizer.ggml.eos_token_id", 5));
    assert_eq!(named, [5, 8, 10, 11, 12, 13, 14]);
    // Without a word of the metadata, too; and those that it names go first, known or not.
    let minus_one = |file: &mut File| {
        file.set("tokenizer.ggml.eos_token_id", 5, (-1_i32).to_le_bytes().to_vec());
        file.set("tokenizer.ggml.padding_token_id", 5, (-1_i32).to_le_bytes().to_vec());
    };
    assert_eq!(ends(&tokens, minus_one), named);
    let more = |file: &mut File| {
        file.set_u32("tokenizer.ggml.eot_token_id", 14);
        file.set_u32("tokenizer.ggml.eom_token_id", 7);
    };
    assert_eq!(ends(&tokens, more), [3, 14, 7, 5, 8, 10, 11, 12, 13]);
}

#[test]
fn a_known_end_may_be_unmarked_or_stand_inside_of_answers() {
    let by_text = |tokens: &[(&str, i32)]| ends(tokens, |_| ())[1..].to_vec();
    let marks = [("<|im_end|>", USER_DEFINED), ("<|endoftext|>", NORMAL), ("<|eot_id|>", UNUSED)];
    assert_eq!(by_text(&marks), [4, 5]);
    // A tag of HTML, or the end of a text.
    assert_eq!(by_text(&[("</s>", USER_DEFINED)]), [0; 0]);
    assert_eq!(by_text(&[("</s>", CONTROL)]), [4]);
    let code = [("<|fim_pad|>", CONTROL), ("<|repo_name|>", CONTROL), ("<|fim_prefix|>", CONTROL)];
    assert_eq!(by_text(&code), [4, 5]);
    let harmony = [("<|end|>", CONTROL), ("<|return|>", CONTROL), ("<|call|>", CONTROL)];
    assert_eq!(by_text(&harmony), [5, 6]);
    assert_eq!(by_text(&harmony[..2]), [4, 5]);
    let calls = [("<|flush|>", CONTROL), ("<|calls|>", CONTROL), ("<|end|>", CONTROL)];
    assert_eq!(by_text(&calls), [4, 5]);
    assert_eq!(by_text(&[("</s>", CONTROL), ("<|tool_response>", CONTROL)]), [5]);
}

#[test]
fn an_end_is_a_special_token_whatever_its_type() {
    let plain = |tokens: &[(&str, i32)]| added(tokens, |_| ());
    let marks = [
        ("<end_of_turn>", USER_DEFINED),
        ("<|im_end|>", NORMAL),
        ("<|eot_id|>", UNUSED),
        ("<b>", USER_DEFINED),
    ];
    assert_eq!(plain(&marks), (vec![3, 4, 5], vec![7]));
    // A tag of HTML, unless the file says that it is more.
    assert_eq!(plain(&[("</s>", USER_DEFINED)]), (vec![3], vec![4]));
    assert_eq!(plain(&[("</s>", NORMAL)]), (vec![3], vec![]));
    let eot = |file: &mut File| file.set_u32("tokenizer.ggml.eot_token_id", 4);
    assert_eq!(added(&[("</s>", NORMAL)], eot), (vec![3, 4], vec![]));
    assert_eq!(added(&[("<|stop|>", USER_DEFINED)], eot), (vec![3, 4], vec![]));
    // A piece of texts stays one where texts end at it.
    assert_eq!(added(&[("stop", NORMAL)], eot), (vec![3], vec![]));
    // Inside of answers.
    let harmony = [("<|end|>", NORMAL), ("<|return|>", NORMAL), ("<|call|>", NORMAL)];
    assert_eq!(plain(&harmony), (vec![3, 4, 5, 6], vec![]));
}

#[test]
fn yarn_lengthens_the_context() {
    let report = |change: &dyn Fn(&mut File)| {
        let mut file = File::llama();
        file.set_text("llama.rope.scaling.type", "yarn");
        file.set("llama.rope.scaling.factor", 6, 4.0_f32.to_le_bytes().to_vec());
        change(&mut file);
        convert_bytes(&file.bytes())
    };
    let geometry = |change: &dyn Fn(&mut File)| {
        let manifest = report(change).unwrap().manifest;
        (manifest.geometry.max_target_tokens, manifest.rotary[0].magnitude)
    };
    let magnitude = 0.1 * 4.0_f32.ln() + 1.0;
    let number = |value: f32| value.to_le_bytes().to_vec();
    // The file's 64 are those before the stretching, or after it.
    assert_eq!(geometry(&|_| ()), (Some(256), magnitude));
    let original = |file: &mut File| file.set_u32("llama.rope.scaling.original_context_length", 16);
    assert_eq!(geometry(&original), (Some(64), magnitude));
    let (context, stronger) = geometry(&|file| file.set("llama.rope.scaling.attn_factor", 6, number(2.0)));
    assert_eq!(context, Some(256));
    assert!((stronger - 2.0 * magnitude).abs() < 1e-6);
    for (name, idle) in [("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0), ("yarn_log_multiplier", 0.0)] {
        let key = format!("llama.rope.scaling.{name}");
        assert_eq!(geometry(&|file| file.set(&key, 6, number(idle))), (Some(256), magnitude));
        let error = report(&|file| file.set(&key, 6, number(0.5))).unwrap_err().to_string();
        assert!(error.contains(&key), "{error}");
    }
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
