//! Checkpoints of the families' fixtures with sizes that CUDA's kernels take, and weights that a number format holds
//! without a rounding: what graphs in that format compute is what full precision computes, so that a wrong scale,
//! zero point or layout cannot hide behind what rounding costs.

#![allow(dead_code, reason = "each test file takes its part")]

use std::{collections::BTreeMap, fs, path::Path};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

/// Blocks of inputs fill both, and both differ.
const D_MODEL: usize = 64;
const D_FF: usize = 96;
/// Inputs that share a scale.
const BLOCK: usize = 32;

/// What holds the linear layers' weights exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Blocks of 8 bits, f16, and bf16.
    Bits8,
    /// Blocks of 4 bits; embedding and head as in the other.
    Bits4,
    /// None of them: weights as a checkpoint has them.
    None,
}

/// Numbers that are the same in every run.
struct Draws(u32);

impl Draws {
    /// From `low` to `high`, both of them possible.
    fn between(&mut self, low: i32, high: i32) -> i32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        low + (self.0 >> 8).rem_euclid((high - low + 1).cast_unsigned()).cast_signed()
    }

    /// `count` multiples of `step`, of `low` to `high` steps.
    fn steps(&mut self, count: usize, low: i32, high: i32, step: f32) -> Vec<f32> {
        (0..count).map(|_| self.between(low, high) as f32 * step).collect()
    }

    /// Blocks of a linear layer's inputs. One weight of each has the largest magnitude there is, so that the scale a
    /// quantizer finds is the step; neighbouring blocks have other steps.
    fn blocks(&mut self, count: usize, grid: Grid) -> Vec<f32> {
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            let width = BLOCK.min(count - values.len());
            let (largest, step) = match grid {
                Grid::Bits8 => (127, 0.25 / 128.0),
                // The end that has one step more is that of the largest magnitude.
                Grid::Bits4 => (8, 0.25 / 8.0),
                Grid::None => (10_007, 0.25 / 10_007.0),
            };
            let step = step * 0.5_f32.powi(self.between(0, 2));
            let sign = if self.between(0, 1) == 0 { 1.0 } else { -1.0 };
            let mut block = self.steps(width, 1 - largest, largest - 1, step);
            block[self.between(0, width as i32 - 1) as usize] = sign * largest as f32 * step;
            values.extend(block);
        }
        values
    }

    fn tensor(&mut self, name: &str, shape: &[usize], grid: Grid) -> Vec<f32> {
        let count = shape.iter().product();
        if name.contains("relative_attention_bias") {
            self.steps(count, -64, 64, 1.0 / 64.0)
        } else if name.ends_with(".bias") {
            self.steps(count, -64, 64, 1.0 / 256.0)
        } else if shape.len() == 1 {
            self.steps(count, 32, 96, 1.0 / 64.0)
        } else if grid == Grid::Bits4 && is_table(name) {
            self.blocks(count, Grid::Bits8)
        } else {
            self.blocks(count, grid)
        }
    }
}

/// A copy of a fixture of the decoder-only or the T5 families with heads of `head_dim` elements, all its weights drawn
/// anew.
pub fn checkpoint(source: &Path, head_dim: usize, grid: Grid) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(source).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let config = configuration(copy.path());
    let is_t5 = config.get("d_kv").is_some();
    let names =
        if is_t5 { ["d_model", "d_ff", "d_kv"] } else { ["hidden_size", "intermediate_size", "head_dim"] };
    for (name, size) in names.into_iter().zip([D_MODEL, D_FF, head_dim]) {
        configure(copy.path(), name, size);
    }
    // Of HunYuan, beside the other.
    if config.get("attention_head_dim").is_some() {
        configure(copy.path(), "attention_head_dim", head_dim);
    }

    let size = |name: &str| config[name].as_u64().map(|size| size as usize);
    let heads = size("num_heads").or(size("num_attention_heads")).unwrap();
    let sizes = Sizes {
        vocab: size("vocab_size").unwrap(),
        queries: heads * head_dim,
        keys: size("num_key_value_heads").unwrap_or(heads) * head_dim,
        head: head_dim,
    };
    let mut draws = Draws(1);
    for_each_tensor(copy.path(), |name, shape, values| {
        *shape = sizes.shape(name, shape);
        *values = draws.tensor(name, shape, grid);
    });
    copy
}

/// Writes the tensors of a checkpoint anew, in f32, once `change` has been at their shapes and values.
fn for_each_tensor(folder: &Path, mut change: impl FnMut(&str, &mut Vec<usize>, &mut Vec<f32>)) {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|kind| kind == "safetensors")) {
        let bytes = fs::read(path).unwrap();
        let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        let changed: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
            .into_iter()
            .map(|(name, tensor)| {
                let mut shape = tensor.shape().to_vec();
                let mut values = match tensor.dtype() {
                    Dtype::F32 => tensor
                        .data()
                        .chunks_exact(4)
                        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                        .collect(),
                    // Of a fixture, to be drawn anew.
                    _ => Vec::new(),
                };
                change(&name, &mut shape, &mut values);
                (name, shape, values.into_iter().flat_map(f32::to_le_bytes).collect())
            })
            .collect();
        let views: BTreeMap<&str, TensorView> = changed
            .iter()
            .map(|(name, shape, bytes)| {
                (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
            })
            .collect();
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

struct Sizes {
    vocab: usize,
    queries: usize,
    keys: usize,
    head: usize,
}

impl Sizes {
    /// The shape of a tensor that had another one.
    fn shape(&self, name: &str, before: &[usize]) -> Vec<usize> {
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        let outputs = match () {
            () if has(&["relative_attention_bias"]) => return before.to_vec(),
            () if has(&["q_norm", "k_norm", "query_layernorm", "key_layernorm"]) => self.head,
            () if has(&["q_proj", "Attention.q."]) => self.queries,
            () if has(&["k_proj", "v_proj", "Attention.k.", "Attention.v."]) => self.keys,
            () if has(&["gate_proj", "up_proj", ".wi"]) => D_FF,
            () if is_table(name) => self.vocab,
            () => D_MODEL,
        };
        match before.len() {
            1 => vec![outputs],
            _ if has(&["o_proj", "Attention.o."]) => vec![outputs, self.queries],
            _ if has(&["down_proj", ".wo."]) => vec![outputs, D_FF],
            _ => vec![outputs, D_MODEL],
        }
    }
}

/// Embeddings and heads.
fn is_table(name: &str) -> bool {
    ["embed_tokens", "shared", "lm_head"].iter().any(|part| name.contains(part))
}

fn configuration(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
}

/// Sets a key of the configuration.
pub fn configure(folder: &Path, key: &str, value: impl Into<Value>) {
    let mut config = configuration(folder);
    config[key] = value.into();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Multiplies the linear layers whose names have `part`. A power of two leaves them as exact as they were.
pub fn multiply(folder: &Path, part: &str, factor: f32) {
    let mut multiplied = 0;
    for_each_tensor(folder, |name, shape, values| {
        if shape.len() == 2 && name.contains(part) {
            values.iter_mut().for_each(|value| *value *= factor);
            multiplied += 1;
        }
    });
    assert_ne!(multiplied, 0, "no tensor has {part:?} in its name");
}
