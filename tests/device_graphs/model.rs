//! A converted model for a device, run step by step.
//!
//! Caches go from a step's output to the next one's input, so that what is bound to the same memory on a device is
//! another piece of memory here: the values are the same.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use ort::{
    memory::Allocator,
    session::{Session, SessionInputValue, builder::GraphOptimizationLevel},
    value::{DynTensor, DynValue, PrimitiveTensorElementType, Tensor, TensorElementType},
};
use tempfile::TempDir;
use textgen_artifact::{DECODER_FILE, ENCODER_FILE, Manifest, device_graph as names, graph};
use textgen_convert::{ConvertOptions, CudaPrecision, Plan, Report, Target, onnx::GraphProto};
use triton_textgen::model::Runtime;

use super::{
    elements::{Elements, rewritten},
    support::runtime_library,
};

/// Positions of a slot; the longest case needs 219.
const POSITIONS: usize = 256;

/// What is given, and what is scored after it.
pub struct Case {
    pub source: Vec<u32>,
    pub target: Vec<u32>,
}

/// A model converted for a device, and the folder that it is in.
pub fn converted(source: &Path, precision: CudaPrecision) -> (TempDir, Report) {
    let folder = tempfile::tempdir().unwrap();
    let report = textgen_convert::convert(&ConvertOptions {
        source: source.to_owned(),
        target: Target::Folder(folder.path().join("artifact")),
        plan: Plan::Cuda(precision),
        keep: None,
        force: false,
    });
    (folder, report.unwrap())
}

/// A session of a graph on the CPU.
pub fn session(path: &Path, level: GraphOptimizationLevel) -> ort::Result<Session> {
    let environment = Runtime::load(&runtime_library()).unwrap().environment();
    let mut builder = Session::builder(environment)?.with_intra_threads(1)?.with_optimization_level(level)?;
    builder.commit_from_file(path)
}

/// A converted model for a device and its sessions.
pub struct DeviceModel {
    manifest: Manifest,
    elements: Elements,
    encoder: Option<Session>,
    decoder: Session,
    _folder: TempDir,
}

/// Rows of a decoder: their caches and the tokens these hold.
pub struct Rows {
    caches: BTreeMap<String, DynValue>,
    cross: BTreeMap<String, DynValue>,
    cross_lengths: Vec<i64>,
}

impl DeviceModel {
    pub fn convert(source: &Path, precision: CudaPrecision, elements: Elements) -> Self {
        Self::convert_changed(source, precision, elements, None)
    }

    /// The same, once `change` has been at its graphs.
    pub fn convert_changed(
        source: &Path,
        precision: CudaPrecision,
        elements: Elements,
        change: Option<&dyn Fn(&mut GraphProto)>,
    ) -> Self {
        let (folder, report) = converted(source, precision);
        let session = |file: &str| {
            let path = report.artifact.join(file);
            let path = match (elements, change) {
                (Elements::AsWritten, None) => path,
                _ => rewritten(&path, &report.manifest, elements, change.unwrap_or(&|_| {})),
            };
            // Optimizations leave roundings out.
            let level = match elements {
                Elements::Rounded => GraphOptimizationLevel::Disable,
                _ => GraphOptimizationLevel::All,
            };
            session(&path, level).unwrap()
        };
        let encoder = (!report.manifest.is_decoder_only()).then(|| session(ENCODER_FILE));
        let decoder = session(DECODER_FILE);
        Self { manifest: report.manifest, elements, encoder, decoder, _folder: folder }
    }

    /// Rows for these cases, their sources encoded.
    fn rows(&mut self, cases: &[&Case]) -> Rows {
        let geometry = &self.manifest.geometry;
        let mut caches = BTreeMap::new();
        let shape = [cases.len(), geometry.self_kv_heads, POSITIONS, geometry.head_dim].map(|dim| dim as i64);
        let element = match self.elements {
            Elements::AsWritten => TensorElementType::Float16,
            Elements::Full | Elements::Rounded => TensorElementType::Float32,
        };
        for layer in 0..geometry.decoder_layers {
            if geometry.self_kv_heads > 0 {
                for name in [graph::past_self_key(layer), graph::past_self_value(layer)] {
                    let cache = DynTensor::new(&Allocator::default(), element, shape).unwrap();
                    caches.insert(name, cache.into_dyn());
                }
            }
            if geometry.state_width > 0 {
                // What a slot held before is no part of a sequence's beginning.
                let state = vec![7.0_f32; cases.len() * geometry.state_width];
                let state = tensor(vec![cases.len(), geometry.state_width], state);
                caches.insert(graph::past_state(layer), state);
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
        ];
        if self.manifest.geometry.self_kv_heads > 0 {
            let seqlens = tensor(vec![count], seqlens.collect::<Vec<i32>>());
            inputs.push((names::SEQLENS_K.into(), seqlens.into()));
            let total = tensor(Vec::new(), vec![total as i32]);
            inputs.push((names::TOTAL_SEQUENCE_LENGTH.into(), total.into()));
        }
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
                (graph::present_state(layer), graph::past_state(layer)),
            ] {
                if rows.caches.contains_key(&past) {
                    rows.caches.insert(past, outputs.remove(present).unwrap());
                }
            }
        }
        let logits: Vec<Vec<f32>> =
            logits.chunks(self.manifest.geometry.vocab_size).map(<[f32]>::to_vec).collect();
        assert_eq!(logits.len(), wanted);
        let candidates = values.len() / wanted.max(1);
        // Whoever compares them sees those that are no numbers.
        let are_numbers = |logits: &[f32]| logits.iter().all(|logit| logit.is_finite());
        for (row, logits) in logits.iter().enumerate().filter(|(_, logits)| are_numbers(logits)) {
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
    pub fn score_alone(&mut self, case: &Case) -> Vec<f32> {
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
    pub fn score_together(&mut self, cases: &[&Case]) -> Vec<Vec<f32>> {
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
