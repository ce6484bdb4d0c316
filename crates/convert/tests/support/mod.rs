//! A writer of Marian containers, and a tiny Bergamot model.

#![allow(dead_code, reason = "each test file takes its part")]

use std::{fs, path::Path};

pub const TYPE_I8: u64 = 0x0101;
pub const TYPE_F32: u64 = 0x0404;
pub const TYPE_INTGEMM8: u64 = 0x4101;

pub const D_MODEL: usize = 64;
pub const D_FFN: usize = 96;
pub const VOCAB: usize = 100;
pub const LAYERS: usize = 2;

#[derive(Debug, Clone)]
pub struct Item {
    pub name: String,
    pub kind: u64,
    pub shape: Vec<i32>,
    pub data: Vec<u8>,
}

/// The container's bytes, the data aligned as Marian does.
pub fn container(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |value: u64| bytes.extend(value.to_le_bytes());
    put(1);
    put(items.len() as u64);
    for item in items {
        put(item.name.len() as u64 + 1);
        put(item.kind);
        put(item.shape.len() as u64);
        put(item.data.len() as u64);
    }
    for item in items {
        bytes.extend(item.name.bytes().chain([0]));
    }
    for item in items {
        item.shape.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    }
    let padding = (bytes.len() + 8).next_multiple_of(256) - bytes.len() - 8;
    bytes.extend((padding as u64).to_le_bytes());
    bytes.resize(bytes.len() + padding, 0);
    items.iter().for_each(|item| bytes.extend(&item.data));
    bytes
}

pub fn f32_item(name: &str, values: &[f32]) -> Item {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Item { name: name.to_owned(), kind: TYPE_F32, shape: vec![1, values.len() as i32], data }
}

/// A quantized matrix with the shape of its header.
pub fn int8_item(name: &str, shape: [usize; 2], multiplier: f32, values: &[i8]) -> Item {
    assert_eq!(values.len(), shape[0] * shape[1]);
    let mut data: Vec<u8> = values.iter().map(|value| value.cast_unsigned()).collect();
    data.extend(multiplier.to_le_bytes());
    data.resize(values.len() + 256, 0);
    Item { name: name.to_owned(), kind: TYPE_INTGEMM8, shape: shape.map(|dim| dim as i32).to_vec(), data }
}

pub fn config() -> String {
    format!(
        "type: transformer\ndim-emb: {D_MODEL}\ndim-vocabs:\n  - {VOCAB}\n  - {VOCAB}\nenc-depth: {LAYERS}\n\
         dec-depth: {LAYERS}\ndec-cell: ssru\nright-left: false\ntied-embeddings-all: true\n\
         transformer-decoder-autoreg: rnn\ntransformer-dim-ffn: {D_FFN}\n\
         transformer-ffn-activation: relu\ntransformer-ffn-depth: 2\ntransformer-heads: 2\n\
         transformer-postprocess: dan\ntransformer-postprocess-emb: d\ntransformer-postprocess-top: \"\"\n\
         transformer-preprocess: \"\"\ntransformer-tied-layers: []\ninput-types: []\nversion: v1.9.56\n"
    )
}

/// Values that differ from place to place and from tensor to tensor.
struct Values(u32);

impl Values {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 16
    }

    fn int8(&mut self, name: &str, shape: [usize; 2]) -> Item {
        let values: Vec<i8> = (0..shape[0] * shape[1]).map(|_| (self.next() % 255) as i8).collect();
        let multiplier = 64.0 + (self.next() % 64) as f32;
        int8_item(name, shape, multiplier, &values)
    }

    fn f32(&mut self, name: &str, len: usize) -> Item {
        let values: Vec<f32> = (0..len).map(|_| self.next() as f32 / 32768.0 - 1.0).collect();
        f32_item(name, &values)
    }

    fn norm(&mut self, name: &str) -> [Item; 2] {
        ["scale", "bias"].map(|part| self.f32(&format!("{name}_ln_{part}"), D_MODEL))
    }
}

/// Every item of a tiny model, its configuration last.
pub fn model() -> Vec<Item> {
    let mut values = Values(7);
    let mut items = vec![
        values.int8("Wemb", [VOCAB, D_MODEL]),
        values.int8("Wemb_QuantMultA", [1, 1]),
        values.f32("decoder_ff_logit_out_b", VOCAB),
    ];
    for (stack, attention) in [("encoder", "self"), ("decoder", "context")] {
        for layer in 1..=LAYERS {
            let prefix = format!("{stack}_l{layer}");
            for part in ["q", "k", "v", "o"] {
                items.push(values.int8(&format!("{prefix}_{attention}_W{part}"), [D_MODEL, D_MODEL]));
                items.push(values.f32(&format!("{prefix}_{attention}_b{part}"), D_MODEL));
            }
            items.extend(values.norm(&format!("{prefix}_{attention}_Wo")));
            items.push(values.int8(&format!("{prefix}_ffn_W1"), [D_MODEL, D_FFN]));
            items.push(values.f32(&format!("{prefix}_ffn_b1"), D_FFN));
            items.push(values.int8(&format!("{prefix}_ffn_W2"), [D_FFN, D_MODEL]));
            items.push(values.f32(&format!("{prefix}_ffn_b2"), D_MODEL));
            items.extend(values.norm(&format!("{prefix}_ffn_ffn")));
            if stack == "decoder" {
                items.push(values.int8(&format!("{prefix}_rnn_W"), [D_MODEL, D_MODEL]));
                items.push(values.int8(&format!("{prefix}_rnn_Wf"), [D_MODEL, D_MODEL]));
                items.push(values.f32(&format!("{prefix}_rnn_bf"), D_MODEL));
                items.extend(values.norm(&format!("{prefix}_rnn_ffn")));
            }
        }
    }
    items.push(config_item(&config()));
    items
}

/// The same with scales and biases that 16 bits hold without a rounding.
pub fn exact_model() -> Vec<Item> {
    let mut items = model();
    for item in &mut items {
        let count = item.shape.iter().product::<i32>() as usize;
        if item.kind == TYPE_INTGEMM8 {
            item.data[count..count + 4].copy_from_slice(&64.0_f32.to_le_bytes());
        } else if item.kind == TYPE_F32 {
            for value in item.data.chunks_exact_mut(4) {
                let coarse = (f32::from_le_bytes((&*value).try_into().unwrap()) * 64.0).round() / 64.0;
                value.copy_from_slice(&coarse.to_le_bytes());
            }
        }
    }
    items
}

pub fn config_item(text: &str) -> Item {
    let data: Vec<u8> = text.bytes().chain([0]).collect();
    Item { name: "special:model.yml".to_owned(), kind: TYPE_I8, shape: vec![data.len() as i32], data }
}

/// Writes the folder of a model: the container and a tokenizer.
pub fn write_package(folder: &Path, items: &[Item]) {
    fs::write(folder.join("model.tiny.intgemm.alphas.bin"), container(items)).unwrap();
    let mut vocab = vec![serde_json::json!(["</s>", 0.0]), serde_json::json!(["<unk>", 0.0])];
    vocab.extend((2..VOCAB).map(|id| serde_json::json!([format!("piece{id}"), -(id as f64)])));
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": 1, "vocab": vocab, "byte_fallback": false},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}
