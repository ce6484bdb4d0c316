//! Contract: a checkpoint of the T5 family becomes an artifact; each switch of its configuration shows in it; what
//! does not fit is an error and leaves nothing. The numbers are checked where the graphs run.

#[path = "support/copied.rs"]
mod copied;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use copied::Copied;
use prost::Message;
use serde::Deserialize;
use serde_json::{Map, Value};
use textgen_artifact::{
    DECODER_FILE, DType, ENCODER_FILE, Manifest, TOKENIZER_FILE, WEIGHTS_FILE, WeightFormat,
};
use textgen_convert::{
    ConvertOptions, Precision, Report, Result, Target, convert,
    onnx::{GraphProto, ModelProto},
};
use tokenizers::Tokenizer;

const FIXTURES: [&str; 6] = ["t5", "flan", "mt5", "umt5", "madlad", "t5-stray"];
const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Reference {
    flips: Vec<Flip>,
}

/// One wrong switch; see `make.py` beside the fixtures.
#[derive(Deserialize)]
struct Flip {
    name: String,
    config: Map<String, Value>,
    drop: BTreeSet<String>,
    expect: Expect,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Difference,
    Error,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/t5").join(name)
}

fn copied(name: &str) -> Copied {
    Copied::of(&fixture(name))
}

impl Copied {
    fn edit(&self, name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
        let mut json = serde_json::from_str(&fs::read_to_string(self.file(name)).unwrap()).unwrap();
        change(&mut json);
        fs::write(self.file(name), serde_json::to_string(&json).unwrap()).unwrap();
    }

    fn drop_tensors(&self, names: &BTreeSet<String>) {
        for entry in fs::read_dir(self.source()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let bytes = fs::read(&path).unwrap();
                let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
                let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
                let mut header: Map<String, Value> = serde_json::from_slice(header).unwrap();
                header.retain(|name, _| !names.contains(name));
                let header = serde_json::to_vec(&header).unwrap();
                let length = (header.len() as u64).to_le_bytes();
                fs::write(&path, [&length, header.as_slice(), data].concat()).unwrap();
            }
        }
        if self.file(INDEX).exists() {
            self.edit(INDEX, |index| {
                let map = index["weight_map"].as_object_mut().unwrap();
                map.retain(|name, _| !names.contains(name));
            });
        }
    }

    fn convert(&self, precision: Precision) -> Result<Report> {
        let target = Target::Folder(self.dir.path().join("out"));
        convert(&ConvertOptions {
            source: self.source(),
            target,
            plan: precision.into(),
            keep: None,
            force: false,
        })
    }

    fn message(&self) -> String {
        let message = self.convert(Precision::Fp32).unwrap_err().to_string();
        assert!(!self.dir.path().join("out").exists(), "something was left behind: {message}");
        message
    }
}

fn graph(report: &Report, file: &str) -> GraphProto {
    let bytes = fs::read(report.artifact.join(file)).unwrap();
    ModelProto::decode(bytes.as_slice()).unwrap().graph.unwrap()
}

fn files(report: &Report) -> BTreeMap<&'static str, Vec<u8>> {
    [ENCODER_FILE, DECODER_FILE, WEIGHTS_FILE]
        .map(|name| (name, fs::read(report.artifact.join(name)).unwrap()))
        .into()
}

fn formats(report: &Report, suffix: &str) -> BTreeSet<String> {
    let plan = report.manifest.precision_plan.iter();
    plan.filter(|entry| entry.name.ends_with(suffix)).map(|entry| format!("{:?}", entry.format)).collect()
}

#[test]
fn every_switch_shows_or_is_refused() {
    for name in FIXTURES {
        let text = fs::read_to_string(fixture(name).join("reference.json")).unwrap();
        let reference: Reference = serde_json::from_str(&text).unwrap();
        let original = copied(name);
        let original = files(&original.convert(Precision::Fp32).unwrap());
        assert!(!reference.flips.is_empty());
        for flip in reference.flips {
            let copy = copied(name);
            copy.edit(CONFIG, |config| {
                config.extend(flip.config);
                config.retain(|_, value| !value.is_null());
            });
            copy.drop_tensors(&flip.drop);
            match flip.expect {
                Expect::Error => _ = copy.message(),
                Expect::Difference => {
                    let flipped = files(&copy.convert(Precision::Fp32).unwrap());
                    assert!(flipped != original, "{name}: {}", flip.name);
                }
            }
        }
    }
}

#[test]
fn the_manifest_says_how_the_model_is_run() {
    let copy = copied("mt5");
    let report = copy.convert(Precision::Fp32).unwrap();
    let manifest = Manifest::read(&report.artifact).unwrap();
    assert_eq!(manifest, report.manifest);
    let geometry = &manifest.geometry;
    assert_eq!(manifest.family, "mt5");
    assert_eq!((geometry.encoder_layers, geometry.decoder_layers), (3, 2));
    assert_eq!((geometry.self_kv_heads, geometry.cross_kv_heads, geometry.head_dim), (2, 2, 12));
    assert_eq!((geometry.vocab_size, geometry.max_source_tokens), (120, None));
    assert_eq!(manifest.embeddings.encoder.as_ref(), Some(&manifest.embeddings.decoder));
    assert_eq!(manifest.generation.decoder_start_token_id, Some(0));
    assert_eq!(manifest.generation.eos_token_ids, [1]);
    assert!(manifest.tokenizer.add_special_tokens && manifest.tokenizer.source_suffix.is_empty());
}

#[test]
fn a_tied_head_in_full_precision_is_stored_once() {
    for (name, tables) in [("t5", 1), ("t5-stray", 1), ("flan", 2), ("madlad", 2)] {
        let report = copied(name).convert(Precision::Fp32).unwrap();
        let tensors = report.manifest.tensors.iter();
        assert_eq!(tensors.filter(|tensor| tensor.shape == [120, 16]).count(), tables, "{name}");
    }
}

#[test]
fn one_bias_serves_a_stack_unless_each_layer_has_its_own() {
    for (name, expected) in [("mt5", [1, 1]), ("umt5", [2, 2])] {
        let copy = copied(name);
        let report = copy.convert(Precision::Fp32).unwrap();
        let names = |file: &str| {
            let graph = graph(&report, file);
            let nodes = graph.node.iter().filter(|node| node.op_type.ends_with("dAttention"));
            nodes.map(|node| node.input.last().unwrap().clone()).collect::<BTreeSet<_>>().len()
        };
        assert_eq!([names(ENCODER_FILE), names(DECODER_FILE)], expected, "{name}");
    }
}

#[test]
fn int8_keeps_more_bits_where_they_are_needed() {
    let of = |format: WeightFormat| BTreeSet::from([format!("{format:?}")]);
    let report = copied("mt5").convert(Precision::Int8).unwrap();
    for product in ["/qkv", "/kv", "/q", "/o", "/wi", "/lm_head"] {
        assert_eq!(formats(&report, product), of(WeightFormat::Int8Column), "{product}");
    }
    assert_eq!(formats(&report, "/wo"), of(WeightFormat::Int8Outlier));
    let table = report.manifest.tensor(&report.manifest.embeddings.encoder.as_ref().unwrap().table).unwrap();
    assert_eq!(table.dtype, DType::F16);
}

/// The fixture `t5` with its weights as PyTorch saves them.
fn torch_twin() -> Copied {
    let copy = copied("t5");
    fs::remove_file(copy.file("model.safetensors")).unwrap();
    fs::copy(fixture("../torch/pytorch_model.bin"), copy.file("pytorch_model.bin")).unwrap();
    copy
}

#[test]
fn a_pytorch_checkpoint_gives_the_same_artifact() {
    for precision in [Precision::Fp32, Precision::Int8] {
        let expected = copied("t5");
        let expected = files(&expected.convert(precision).unwrap());
        let copy = torch_twin();
        assert!(files(&copy.convert(precision).unwrap()) == expected);

        let copy = torch_twin();
        fs::rename(copy.file("pytorch_model.bin"), copy.file("one.bin")).unwrap();
        let index = serde_json::json!({"weight_map": {"shared.weight": "one.bin"}});
        fs::write(copy.file("pytorch_model.bin.index.json"), index.to_string()).unwrap();
        assert!(files(&copy.convert(precision).unwrap()) == expected);
    }
}

#[test]
fn a_pytorch_checkpoint_that_cannot_be_read_is_named() {
    let copy = torch_twin();
    fs::copy(fixture("../torch/legacy.bin"), copy.file("pytorch_model.bin")).unwrap();
    let message = copy.message();
    assert!(message.contains("before 1.6") && message.contains("torch.save"), "{message}");

    let copy = torch_twin();
    let bytes = fs::read(copy.file("pytorch_model.bin")).unwrap();
    for length in [0, 3, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(copy.file("pytorch_model.bin"), &bytes[..length]).unwrap();
        assert!(copy.message().contains("pytorch_model.bin: "), "{length} bytes");
    }
}

#[test]
fn what_is_missing_is_named() {
    let copy = copied("t5");
    fs::remove_file(copy.file("spiece.model")).unwrap();
    assert!(copy.message().contains("`tokenizer.json` or `spiece.model` is missing"));

    let copy = copied("madlad");
    fs::remove_file(copy.file("model-00002-of-00002.safetensors")).unwrap();
    assert!(copy.message().contains("the shard `model-00002-of-00002.safetensors` is missing"));

    let copy = copied("t5");
    let bytes = fs::read(copy.file("model.safetensors")).unwrap();
    fs::write(copy.file("model.safetensors"), &bytes[..bytes.len() - 1]).unwrap();
    assert!(copy.message().contains("fetch the file again"));

    let copy = copied("t5");
    copy.edit("generation_config.json", |config| _ = config.insert("eos_token_id".into(), 120.into()));
    assert!(copy.message().contains("is 120"));
}

/// The ids of a text as the artifact's tokenizer makes them, with those that the manifest appends.
fn source_ids(report: &Report, text: &str) -> Vec<u32> {
    let tokenizer = Tokenizer::from_file(report.artifact.join(TOKENIZER_FILE)).unwrap();
    let mut ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    ids.extend(&report.manifest.tokenizer.source_suffix);
    ids
}

#[test]
fn an_end_of_generation_is_not_an_end_of_sources() {
    // A sentinel, which is no piece of the SentencePiece model.
    const SENTINEL: u32 = 117;
    let plain = copied("t5");
    let expected = source_ids(&plain.convert(Precision::Fp32).unwrap(), "the rights");
    assert_eq!(expected.last(), Some(&1));
    for (own, of_model, ends) in [
        (serde_json::json!([SENTINEL, 1]), serde_json::json!(1), vec![1, SENTINEL]),
        (serde_json::json!(SENTINEL), serde_json::json!(1), vec![1, SENTINEL]),
        // The tokenizer's own is the last one where no configuration names it.
        (serde_json::json!(SENTINEL), serde_json::json!(-1), vec![SENTINEL, 1]),
        (serde_json::json!(-1), Value::Null, vec![1]),
    ] {
        let copy = copied("t5");
        copy.edit("generation_config.json", |config| _ = config.insert("eos_token_id".into(), own));
        copy.edit(CONFIG, |config| _ = config.insert("eos_token_id".into(), of_model));
        let report = copy.convert(Precision::Fp32).unwrap();
        assert_eq!(report.manifest.generation.eos_token_ids, ends);
        assert_eq!(source_ids(&report, "the rights"), expected, "{ends:?}");
    }
}

#[test]
fn the_tokenizer_says_how_sources_end() {
    const TEXT: &str = "the rights and freedoms";
    let plain = copied("t5");
    let report = plain.convert(Precision::Fp32).unwrap();
    let made = fs::read_to_string(report.artifact.join(TOKENIZER_FILE)).unwrap();
    let tokenizer = Tokenizer::from_bytes(&made).unwrap();
    let word = *tokenizer.encode(TEXT, false).unwrap().get_ids().last().unwrap();
    let last_ids = |post_processor: Option<&str>, settings: Value| {
        let copy = copied("t5");
        fs::write(copy.file(TOKENIZER_FILE), &made).unwrap();
        copy.edit(TOKENIZER_FILE, |tokenizer| match post_processor {
            None => _ = tokenizer.insert("post_processor".into(), Value::Null),
            Some(token) => {
                let text = tokenizer["post_processor"].to_string().replace("</s>", token);
                tokenizer.insert("post_processor".into(), serde_json::from_str(&text).unwrap());
            }
        });
        fs::write(copy.file("tokenizer_config.json"), settings.to_string()).unwrap();
        copy.edit("generation_config.json", |config| _ = config.insert("eos_token_id".into(), 117.into()));
        let report = copy.convert(Precision::Fp32).unwrap();
        let ids = source_ids(&report, TEXT);
        (ids[ids.len() - 2..].to_vec(), report.manifest.generation.eos_token_ids)
    };
    let object = serde_json::json!({"eos_token": {"content": "</s>", "special": true}});
    assert_eq!(last_ids(None, object.clone()), (vec![word, 1], vec![1, 117]));
    assert_eq!(last_ids(Some("</s>"), object), (vec![word, 1], vec![1, 117]));
    // Without a word of it, T5's own.
    assert_eq!(last_ids(None, serde_json::json!({})), (vec![word, 1], vec![1, 117]));
    let other = serde_json::json!({"eos_token": "<extra_id_0>"});
    assert_eq!(last_ids(None, other), (vec![word, 119], vec![1, 117, 119]));
    let (ids, _) = last_ids(None, serde_json::json!({"eos_token": "</s>", "add_eos_token": false}));
    assert_eq!(ids[1], word);
}

#[test]
fn a_padding_token_of_minus_one_is_none() {
    let copy = copied("t5");
    for file in [CONFIG, "generation_config.json"] {
        copy.edit(file, |config| {
            config.insert("pad_token_id".into(), (-1).into());
            config.insert("decoder_start_token_id".into(), (-1).into());
        });
    }
    let generation = copy.convert(Precision::Fp32).unwrap().manifest.generation;
    assert_eq!((generation.pad_token_id, generation.decoder_start_token_id), (None, Some(0)));
}

#[test]
fn a_tokenizer_fits_its_model() {
    let copy = copied("t5");
    let converted = copy.convert(Precision::Fp32).unwrap().artifact.join(TOKENIZER_FILE);
    let pieces = Tokenizer::from_file(&converted).unwrap().get_vocab_size(true);
    let sentinels = |extra: Value| {
        let copy = copied("t5");
        copy.edit("tokenizer_config.json", |config| _ = config.insert("extra_ids".into(), extra));
        copy
    };
    // The default of 100 does not fit.
    for extra in [0.into(), Value::Null] {
        let copy = sentinels(extra);
        let report = copy.convert(Precision::Fp32).unwrap();
        let without = Tokenizer::from_file(report.artifact.join(TOKENIZER_FILE)).unwrap();
        assert_eq!(without.get_vocab_size(true) + 8, pieces);
    }
    assert!(sentinels(100.into()).message().contains("100 sentinels are more than the 120 rows"));

    let copy = copied("t5");
    copy.edit("tokenizer_config.json", |config| {
        let added = serde_json::json!({"118": {"content": "<new>"}});
        config.insert("added_tokens_decoder".into(), added);
    });
    assert!(copy.message().contains("`<new>` (118) was added"));
}

#[test]
fn a_tokenizer_of_its_own_is_kept_without_its_limits() {
    let first = copied("t5");
    let made = first.convert(Precision::Fp32).unwrap().artifact.join(TOKENIZER_FILE);
    let copy = copied("t5");
    fs::copy(&made, copy.file(TOKENIZER_FILE)).unwrap();
    copy.edit(TOKENIZER_FILE, |tokenizer| {
        let limit = serde_json::json!({"max_length": 3, "strategy": "LongestFirst", "direction": "Right", "stride": 0});
        tokenizer.insert("truncation".into(), limit);
        tokenizer.insert("post_processor".into(), Value::Null);
    });
    let report = copy.convert(Precision::Fp32).unwrap();
    // Nothing in it ends a text, so the artifact says to.
    assert_eq!(report.manifest.tokenizer.source_suffix, [1]);
    let text = "the rights and freedoms of all";
    let ids = |path: &Path| {
        let tokenizer = Tokenizer::from_file(path).unwrap();
        tokenizer.encode(text, true).unwrap().get_ids().to_vec()
    };
    let mut kept = ids(&report.artifact.join(TOKENIZER_FILE));
    kept.push(1);
    assert_eq!(kept, ids(&made));
}
