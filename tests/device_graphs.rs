//! Graphs for CUDA, run by ONNX Runtime's CPU provider: they give what the fp32 graphs for the CPU give, within what
//! 16 bits cost. ONNX Runtime computes in f32 where it has no CPU kernel for f16; that of bf16 it cannot run at all.
//!
//! Caches go from a step's output to the next one's input, so that what is bound to the same memory on a device is
//! another piece of memory here: the values are the same.

mod support;

use std::{borrow::Cow, collections::BTreeMap, fs, path::Path};

use ort::{
    environment::Environment,
    memory::Allocator,
    session::{Session, SessionInputValue},
    value::{DynTensor, DynValue, PrimitiveTensorElementType, Tensor, TensorElementType},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use support::{Artifact, fixture, ids, read_json, runtime_library};
use textgen_artifact::{DECODER_FILE, ENCODER_FILE, Manifest, device_graph as names, graph};
use textgen_convert::{ConvertOptions, CudaPrecision, Plan, Precision, Target};
use triton_textgen::{engine::score, model::Runtime};

/// Positions of a slot; the longest case needs 219.
const POSITIONS: usize = 256;
/// A log-probability may be off by so much in f16. Weights of the fixtures are far larger than trained ones.
const TOLERANCE: f32 = 0.06;
/// In 8 bits.
const TOLERANCE_INT8: f32 = 0.7;

/// A case of a fixture: what is given, and what is scored after it.
struct Case {
    source: Vec<u32>,
    target: Vec<u32>,
}

/// A converted model for a device and its sessions.
struct DeviceModel {
    manifest: Manifest,
    encoder: Option<Session>,
    decoder: Session,
    _folder: tempfile::TempDir,
}

/// Rows of a decoder: their caches and the tokens these hold.
struct Rows {
    caches: BTreeMap<String, DynValue>,
    cross: BTreeMap<String, DynValue>,
    cross_lengths: Vec<i64>,
}

impl DeviceModel {
    fn convert(source: &Path, precision: CudaPrecision, environment: &Environment) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let report = textgen_convert::convert(&ConvertOptions {
            source: source.to_owned(),
            target: Target::Folder(folder.path().join("artifact")),
            plan: Plan::Cuda(precision),
            keep: None,
            force: false,
        })
        .unwrap();
        let session = |file: &str| {
            let builder = Session::builder(environment).unwrap();
            builder.with_intra_threads(1).unwrap().commit_from_file(report.artifact.join(file)).unwrap()
        };
        let encoder = (!report.manifest.is_decoder_only()).then(|| session(ENCODER_FILE));
        Self { encoder, decoder: session(DECODER_FILE), manifest: report.manifest, _folder: folder }
    }

    /// Rows for these cases, their sources encoded.
    fn rows(&mut self, cases: &[&Case]) -> Rows {
        let geometry = &self.manifest.geometry;
        let mut caches = BTreeMap::new();
        let shape = [cases.len(), geometry.self_kv_heads, POSITIONS, geometry.head_dim].map(|dim| dim as i64);
        for layer in 0..geometry.decoder_layers {
            for name in [graph::past_self_key(layer), graph::past_self_value(layer)] {
                let cache = DynTensor::new(&Allocator::default(), TensorElementType::Float16, shape).unwrap();
                caches.insert(name, cache.into_dyn());
            }
        }
        let mut rows = Rows { caches, cross: BTreeMap::new(), cross_lengths: Vec::new() };
        let Some(encoder) = &mut self.encoder else { return rows };
        let longest = cases.iter().map(|case| case.source.len()).max().unwrap();
        let mut padded = Vec::new();
        for case in cases {
            padded.extend(case.source.iter().map(|&id| i64::from(id)));
            padded.resize(padded.len().next_multiple_of(longest), 0);
            rows.cross_lengths.push(case.source.len() as i64);
        }
        let lengths = tensor(vec![cases.len()], rows.cross_lengths.clone());
        let inputs: Vec<(Cow<str>, SessionInputValue)> = vec![
            (names::INPUT_IDS.into(), tensor(vec![cases.len(), longest], padded).into()),
            (names::LENGTHS.into(), lengths.into()),
        ];
        let mut outputs = encoder.run(inputs).unwrap();
        for layer in 0..geometry.decoder_layers {
            for (present, past) in [
                (graph::present_cross_key(layer), graph::past_cross_key(layer)),
                (graph::present_cross_value(layer), graph::past_cross_value(layer)),
            ] {
                rows.cross.insert(past, outputs.remove(present).unwrap());
            }
        }
        rows
    }

    /// One step: the logits of `logit_rows`. `lengths` are the rows' tokens before it.
    fn step(
        &mut self,
        rows: &mut Rows,
        tokens: &[&[u32]],
        lengths: &[usize],
        total: usize,
        logit_rows: &[usize],
    ) -> Vec<Vec<f32>> {
        let (count, width) = (tokens.len(), tokens[0].len());
        let given = tokens.iter().flat_map(|row| row.iter().map(|&id| i64::from(id)));
        let positions = lengths.iter().flat_map(|&length| (length..length + width).map(|at| at as i64));
        let seqlens = lengths.iter().map(|&length| (length + width - 1) as i32);
        let logit_rows: Vec<i64> = logit_rows.iter().map(|&row| row as i64).collect();
        let wanted = logit_rows.len();
        let mut inputs: Vec<(Cow<str>, SessionInputValue)> = vec![
            (names::INPUT_IDS.into(), tensor(vec![count, width], given.collect()).into()),
            (names::POSITION_IDS.into(), tensor(vec![count, width], positions.collect()).into()),
            (names::LOGIT_ROWS.into(), tensor(vec![wanted], logit_rows).into()),
            (names::SEQLENS_K.into(), tensor(vec![count], seqlens.collect::<Vec<i32>>()).into()),
            (names::TOTAL_SEQUENCE_LENGTH.into(), tensor(Vec::new(), vec![total as i32]).into()),
        ];
        if !rows.cross.is_empty() {
            inputs
                .push((names::CROSS_LENGTHS.into(), tensor(vec![count], rows.cross_lengths.clone()).into()));
            inputs.extend(rows.cross.iter().map(|(name, cache)| (name.clone().into(), cache.into())));
        }
        inputs.extend(rows.caches.iter().map(|(name, cache)| (name.clone().into(), cache.into())));
        let mut outputs = self.decoder.run(inputs).unwrap();
        let logits = outputs[names::LOGITS].try_extract_tensor::<f32>().unwrap().1.to_vec();
        let values = outputs[names::CANDIDATE_VALUES].try_extract_tensor::<f32>().unwrap().1.to_vec();
        let ids = outputs[names::CANDIDATE_IDS].try_extract_tensor::<i64>().unwrap().1.to_vec();
        let sums = outputs[names::LOG_SUM_EXP].try_extract_tensor::<f32>().unwrap().1.to_vec();
        for layer in 0..self.manifest.geometry.decoder_layers {
            for (present, past) in [
                (graph::present_self_key(layer), graph::past_self_key(layer)),
                (graph::present_self_value(layer), graph::past_self_value(layer)),
            ] {
                rows.caches.insert(past, outputs.remove(present).unwrap());
            }
        }
        let logits: Vec<Vec<f32>> =
            logits.chunks(self.manifest.geometry.vocab_size).map(<[f32]>::to_vec).collect();
        assert_eq!(logits.len(), wanted);
        let candidates = values.len() / wanted.max(1);
        for (row, logits) in logits.iter().enumerate() {
            let mut sorted = logits.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let range = row * candidates..(row + 1) * candidates;
            assert_eq!(sorted[..candidates], values[range.clone()], "the candidates are the largest logits");
            let named: Vec<f32> = ids[range].iter().map(|&id| logits[id as usize]).collect();
            assert_eq!(sorted[..candidates], named[..], "and their ids are those of the logits");
            assert!((log_sum_exp(logits) - sums[row]).abs() < 1e-4);
        }
        logits
    }

    /// All tokens that a case feeds before its last target token, and how many of them are given.
    fn fed(&self, case: &Case) -> (Vec<u32>, usize) {
        let mut fed = match self.manifest.generation.decoder_start_token_id {
            Some(start) => vec![start],
            None => case.source.clone(),
        };
        let given = fed.len();
        fed.extend_from_slice(&case.target[..case.target.len() - 1]);
        (fed, given)
    }

    /// A case alone, its prompt in two parts.
    fn score_alone(&mut self, case: &Case) -> Vec<f32> {
        let (fed, given) = self.fed(case);
        let mut rows = self.rows(&[case]);
        let mut scores = Vec::new();
        let mut at = 0;
        while at < fed.len() {
            let width = if at >= given { 1 } else { given.div_ceil(2).min(given - at) };
            let end = at + width;
            let wanted = if end >= given { vec![width - 1] } else { Vec::new() };
            let logits = self.step(&mut rows, &[&fed[at..end]], &[at], end, &wanted);
            for logits in logits {
                scores.push(log_probability(&logits, case.target[end - given]));
            }
            at = end;
        }
        scores
    }

    /// All cases side by side, a token a step; those that have ended are holes.
    fn score_together(&mut self, cases: &[&Case]) -> Vec<Vec<f32>> {
        let fed: Vec<_> = cases.iter().map(|case| self.fed(case)).collect();
        let mut rows = self.rows(cases);
        let mut scores = vec![Vec::new(); cases.len()];
        let steps = fed.iter().map(|(fed, _)| fed.len()).max().unwrap();
        for at in 0..steps {
            let lengths: Vec<usize> = fed.iter().map(|(fed, _)| at.min(fed.len())).collect();
            let tokens: Vec<&[u32]> = fed.iter().map(|(fed, _)| fed.get(at..=at).unwrap_or(&[0])).collect();
            let wanted: Vec<usize> =
                (0..cases.len()).filter(|&row| (fed[row].1 - 1..fed[row].0.len()).contains(&at)).collect();
            // More than the longest row has is allowed too.
            let total = if at % 2 == 0 { at + 1 } else { POSITIONS };
            let logits = self.step(&mut rows, &tokens, &lengths, total, &wanted);
            for (&row, logits) in wanted.iter().zip(&logits) {
                scores[row].push(log_probability(logits, cases[row].target[at + 1 - fed[row].1]));
            }
        }
        scores
    }
}

fn tensor<T>(shape: Vec<usize>, values: Vec<T>) -> DynValue
where
    T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    Tensor::from_array((shape, values)).unwrap().into_dyn()
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    largest + sum.ln() as f32
}

fn log_probability(logits: &[f32], token: u32) -> f32 {
    logits[token as usize] - log_sum_exp(logits)
}

/// A copy of a checkpoint whose heads have `head_dim` elements, their weights drawn anew: the fixtures' own sizes are
/// odd ones, which the attention of CUDA does not take.
fn widened(source: &Path, head_dim: usize) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(source).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let path = copy.path().join("config.json");
    let mut config = read_json(&path);
    let is_t5 = config.get("d_kv").is_some();
    let size = |name: &str| config[name].as_u64().unwrap() as usize;
    let heads = size(if is_t5 { "num_heads" } else { "num_attention_heads" });
    let kv_heads = config["num_key_value_heads"].as_u64().map_or(heads, |count| count as usize);
    config[if is_t5 { "d_kv" } else { "head_dim" }] = head_dim.into();
    fs::write(&path, config.to_string()).unwrap();

    let mut state = 1u32;
    for file in fs::read_dir(copy.path()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let mut drawn: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        // The same weights in every run.
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, tensor) in &tensors {
            let mut shape = tensor.shape().to_vec();
            let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
            let is_norm = has(&["q_norm", "k_norm", "query_layernorm", "key_layernorm"]);
            if is_norm {
                shape[0] = head_dim;
            } else if has(&["q_proj", ".q.weight"]) || (is_t5 && has(&[".k.weight", ".v.weight"])) {
                shape[0] = heads * head_dim;
            } else if has(&["k_proj", "v_proj"]) {
                shape[0] = kv_heads * head_dim;
            } else if has(&["o_proj.weight", ".o.weight"]) {
                shape[1] = heads * head_dim;
            } else {
                continue;
            }
            let values = (0..shape.iter().product()).flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                let value = state as f32 / u32::MAX as f32 - 0.5;
                (if is_norm { 0.3 + 0.4 * value } else { 0.3 * value }).to_le_bytes()
            });
            drawn.push((name.clone(), shape, values.collect()));
        }
        let mut all: BTreeMap<&str, TensorView> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        for (name, shape, bytes) in &drawn {
            all.insert(name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap());
        }
        fs::write(&path, safetensors::serialize(all, None).unwrap()).unwrap();
    }
    copy
}

fn check(source: &Path, name: &str, precisions: &[(CudaPrecision, f32)]) {
    let reference = read_json(&source.join("reference.json"));
    let cases: Vec<Case> = reference["cases"].as_array().unwrap().iter().map(case).collect();
    let cases: Vec<&Case> = cases.iter().collect();
    let artifact = Artifact::convert(source, Precision::Fp32).unwrap();
    let mut executor = artifact.executor(1, 1);
    let expected: Vec<Vec<f32>> =
        cases.iter().map(|case| score(&mut executor, &case.source, &case.target).unwrap()).collect();
    let environment = Runtime::load(&runtime_library()).unwrap().environment();
    for &(precision, tolerance) in precisions {
        let mut model = DeviceModel::convert(source, precision, environment);
        let together = model.score_together(&cases);
        for ((case, expected), together) in cases.iter().zip(&expected).zip(&together) {
            let alone = model.score_alone(case);
            let [alone, together] = [&alone, together].map(|got| distance(got, expected));
            println!("{name} {precision:?}: alone {alone:.1e}, together {together:.1e}");
            assert!(alone <= tolerance && together <= tolerance, "{name} {precision:?}: {alone} {together}");
        }
    }
}

fn case(json: &Value) -> Case {
    Case { source: ids(&json["input_ids"]), target: ids(&json["target_ids"]) }
}

fn distance(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(got, expected)| (got - expected).abs()).fold(0.0, |max, distance| {
        assert!(distance.is_finite());
        f32::max(max, distance)
    })
}

const PRECISIONS: [(CudaPrecision, f32); 2] =
    [(CudaPrecision::Fp16, TOLERANCE), (CudaPrecision::Int8, TOLERANCE_INT8)];

#[test]
fn decoder_only_models_agree() {
    for name in ["llama", "llama-bias", "gemma3"] {
        check(&fixture("decoder").join(name), name, &PRECISIONS);
    }
}

#[test]
fn decoder_only_models_agree_where_attention_rotates() {
    for name in ["llama", "hunyuan", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"] {
        check(widened(&fixture("decoder").join(name), 16).path(), name, &PRECISIONS[..1]);
    }
}

#[test]
fn t5_models_agree() {
    for name in ["t5", "t5-stray", "umt5", "madlad"] {
        check(&fixture("t5").join(name), name, &PRECISIONS);
    }
    for name in ["flan", "mt5"] {
        check(widened(&fixture("t5").join(name), 8).path(), name, &PRECISIONS[..1]);
    }
}
