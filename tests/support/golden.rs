//! Checks of a family against stored results of the reference.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use textgen_convert::Precision;
use triton_textgen::{decoding::SamplingParams, engine::score};

use super::{Artifact, fixture, ids, read_json, submit, wait};

/// The fixtures of a family: checkpoints, each with its `reference.json`.
#[derive(Clone, Copy)]
pub struct Golden {
    pub folder: &'static str,
    pub names: &'static [&'static str],
}

impl Golden {
    fn sources(self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        self.names.iter().map(move |&name| (name, fixture(self.folder).join(name)))
    }
}

const TOLERANCE: f32 = 1e-4;
/// A wrong switch must move some log-probability by more than this.
const DIFFERENCE: f32 = 1e-3;

/// The largest distance between the stored log-probabilities and those of `artifact`.
fn distance(artifact: &Artifact, cases: &Value) -> f32 {
    let mut executor = artifact.executor(1, 2);
    let mut largest = 0.0f32;
    for case in cases.as_array().unwrap() {
        let expected: Vec<f32> = serde_json::from_value(case["logprobs"].clone()).unwrap();
        let got = score(&mut executor, &ids(&case["input_ids"]), &ids(&case["target_ids"])).unwrap();
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            assert!(got.is_finite());
            largest = largest.max((got - expected).abs());
        }
    }
    largest
}

pub fn log_probabilities_agree(golden: Golden) {
    for (name, source) in golden.sources() {
        let reference = read_json(&source.join("reference.json"));
        let artifact = Artifact::convert(&source, Precision::Fp32).unwrap();
        let distance = distance(&artifact, &reference["cases"]);
        println!("{name}: {distance:e}");
        assert!(distance <= TOLERANCE, "{name}: off by {distance}, at most {TOLERANCE} is allowed");
    }
}

pub fn greedy_tokens_agree(golden: Golden) {
    for (name, source) in golden.sources() {
        let reference = read_json(&source.join("reference.json"));
        let model = Artifact::convert(&source, Precision::Fp32).unwrap().model(4);
        // The second kind would choose a row of the embedding that no token has, were it not masked.
        let cases = ["greedy", "masked_greedy"].into_iter().filter_map(|kind| reference[kind].as_array());
        for case in cases.flatten() {
            let params = SamplingParams {
                max_new_tokens: case["max_new_tokens"].as_u64().unwrap() as usize,
                eos_token_ids: model.text.manifest.generation.eos_token_ids.clone(),
                suppress_tokens: model.text.manifest.generation.suppress_tokens.clone(),
                ..SamplingParams::default()
            };
            let got = wait(&submit(&model, ids(&case["input_ids"]), &[], params)).remove(0);
            assert_eq!(got.token_ids, ids(&case["token_ids"]), "{name}");
            assert_eq!(got.finished.unwrap().reason.as_str(), case["finish_reason"], "{name}");
        }
    }
}

pub fn a_wrong_switch_fails(golden: Golden) {
    for (name, source) in golden.sources() {
        let reference = read_json(&source.join("reference.json"));
        for flip in reference["flips"].as_array().unwrap() {
            let label = format!("{name}: {flip}");
            let flipped = flipped(&source, flip);
            let converted = Artifact::convert(flipped.path(), Precision::Fp32);
            match flip["expect"].as_str().unwrap() {
                "error" => assert!(converted.is_err(), "{label}: was converted"),
                "difference" => {
                    let distance = distance(&converted.expect(&label), &reference["cases"]);
                    assert!(distance > DIFFERENCE, "{label}: off by {distance} only");
                }
                other => panic!("{label}: unknown expectation {other}"),
            }
        }
    }
}

/// What a configuration may also be written like.
pub fn another_spelling_changes_nothing(golden: Golden) {
    for (name, source) in golden.sources() {
        let reference = read_json(&source.join("reference.json"));
        for spelling in reference["same"].as_array().into_iter().flatten() {
            let label = format!("{name}: {spelling}");
            let respelt = flipped(&source, spelling);
            let artifact = Artifact::convert(respelt.path(), Precision::Fp32).expect(&label);
            let distance = distance(&artifact, &reference["cases"]);
            assert!(distance <= TOLERANCE, "{label}: off by {distance}");
        }
    }
}

/// A copy of a checkpoint, which may be changed.
pub fn copied(source: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(source).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// A copy of a checkpoint with the flip's change of its configuration or its tensors.
fn flipped(source: &Path, flip: &Value) -> tempfile::TempDir {
    let copy = copied(source);
    let path = copy.path().join("config.json");
    let mut config: Map<String, Value> = serde_json::from_value(read_json(&path)).unwrap();
    for (key, value) in flip["config"].as_object().into_iter().flatten() {
        if value.is_null() {
            config.remove(key);
        } else {
            config.insert(key.clone(), value.clone());
        }
    }
    fs::write(&path, Value::Object(config).to_string()).unwrap();
    let dropped: Vec<String> =
        flip["drop"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect();
    if !dropped.is_empty() {
        drop_tensors(copy.path(), &dropped);
    }
    copy
}

/// Rewrites the safetensors files of a checkpoint without the named tensors.
fn drop_tensors(dir: &Path, dropped: &[String]) {
    let mut found = 0;
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let bytes = fs::read(&path).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let (gone, kept): (Vec<_>, Vec<_>) =
                tensors.tensors().into_iter().partition(|(name, _)| dropped.contains(name));
            found += gone.len();
            fs::write(&path, safetensors::serialize(kept, None).unwrap()).unwrap();
        }
    }
    assert_eq!(found, dropped.len(), "{dropped:?} are not all in {}", dir.display());
    let index = dir.join("model.safetensors.index.json");
    if index.is_file() {
        let mut json = read_json(&index);
        json["weight_map"].as_object_mut().unwrap().retain(|name, _| !dropped.contains(name));
        fs::write(index, json.to_string()).unwrap();
    }
}
