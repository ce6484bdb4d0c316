//! Contract: what the files of a decoder-only checkpoint say of the ends of texts and of positions is in its artifact.

#[path = "support/copied.rs"]
mod copied;

use std::{fs, path::Path};

use copied::Copied;
use serde_json::{Map, Value, json};
use textgen_artifact::Manifest;
use textgen_convert::{ConvertOptions, Precision, Target, convert};

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer_config.json";

fn copied(name: &str) -> Copied {
    Copied::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/decoder").join(name))
}

impl Copied {
    /// Merges keys into a file; null removes one.
    fn set(&self, file: &str, keys: Value) {
        let path = self.file(file);
        let mut json: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json.extend(keys.as_object().unwrap().clone());
        json.retain(|_, value| !value.is_null());
        fs::write(path, Value::Object(json).to_string()).unwrap();
    }

    fn manifest(&self) -> Manifest {
        let options = ConvertOptions {
            source: self.source(),
            target: Target::Folder(self.dir.path().join("out")),
            plan: Precision::Fp32.into(),
            keep: None,
            force: true,
        };
        convert(&options).unwrap().manifest
    }
}

#[test]
fn texts_end_at_the_tokens_of_both_configurations_and_of_the_tokenizer() {
    let ends = |of_model: Value, own: Value, token: Value| {
        let copy = copied("qwen2");
        copy.set(CONFIG, json!({"eos_token_id": of_model}));
        copy.set(GENERATION, json!({"eos_token_id": own}));
        copy.set(TOKENIZER, json!({"eos_token": token}));
        copy.manifest().generation.eos_token_ids
    };
    assert_eq!(ends(json!(150), json!(150), json!("<|im_end|>")), [150, 152]);
    assert_eq!(ends(json!(150), json!([151, 150]), json!({"content": "<|im_end|>"})), [150, 151, 152]);
    assert_eq!(ends(Value::Null, Value::Null, json!("<|im_end|>")), [152]);
    // What is no token ends nothing.
    assert_eq!(ends(json!(150), Value::Null, json!("<|nothing|>")), [150]);
    assert_eq!(ends(json!(-1), json!([-1]), Value::Null), [0; 0]);
}

#[test]
fn a_special_tokens_map_names_the_end_that_its_neighbour_does_not() {
    let copy = copied("qwen2");
    copy.set(CONFIG, json!({"eos_token_id": 150}));
    copy.set(GENERATION, json!({"eos_token_id": null}));
    let map = copy.source().join("special_tokens_map.json");
    fs::write(&map, r#"{"eos_token": {"content": "<|im_start|>"}}"#).unwrap();
    assert_eq!(copy.manifest().generation.eos_token_ids, [150, 152]);
    copy.set(TOKENIZER, json!({"eos_token": null}));
    assert_eq!(copy.manifest().generation.eos_token_ids, [150, 151]);
}

#[test]
fn a_token_of_minus_one_is_none() {
    for file in [CONFIG, GENERATION] {
        let copy = copied("qwen2");
        copy.set(GENERATION, json!({"pad_token_id": null, "eos_token_id": null}));
        copy.set(CONFIG, json!({"pad_token_id": null, "eos_token_id": 152}));
        copy.set(file, json!({"pad_token_id": -1, "suppress_tokens": [-1, 3]}));
        let generation = copy.manifest().generation;
        assert_eq!((generation.pad_token_id, generation.eos_token_ids), (None, vec![152]), "{file}");
    }
}

#[test]
fn a_stretched_context_can_be_used() {
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512});
    for keys in [
        json!({"rope_scaling": yarn, "rope_theta": 1e6}),
        json!({"rope_scaling": yarn, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    ] {
        let copy = copied("llama");
        copy.set(CONFIG, json!({"max_position_embeddings": 512}));
        copy.set(CONFIG, keys);
        let manifest = copy.manifest();
        assert_eq!(manifest.geometry.max_target_tokens, Some(2048));
        assert!((manifest.rotary[0].magnitude - 1.138_629_4).abs() < 1e-6);
    }
}
