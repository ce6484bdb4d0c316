//! Graphs for CUDA, run by ONNX Runtime's CPU provider, against the fp32 graphs for the CPU.
//!
//! No kernel of CUDA's runs here. What is proven is that the graphs and the weights in them say what the model is, in
//! every format, and that 16 bits between their nodes are enough. What a kernel does inside, in which order it sums, and
//! whether it keeps to its documentation, only a device can tell.

#[path = "../../crates/convert/tests/support/mod.rs"]
mod bergamot;
mod elements;
#[path = "../../crates/convert/tests/support/exact.rs"]
mod exact;
mod model;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use CudaPrecision::{Bf16, Fp16, Int4, Int8};
use Elements::{AsWritten, Full, Rounded};
use elements::{Elements, rewritten};
use exact::Grid;
use model::{Case, DeviceModel, converted, session};
use ort::{ErrorCode, session::builder::GraphOptimizationLevel};
use serde_json::Value;
use support::{Artifact, fixture, ids, read_json};
use tempfile::TempDir;
use textgen_artifact::DECODER_FILE;
use textgen_convert::{
    CudaPrecision, Precision,
    onnx::{DataType, GraphProto, TensorProto},
};
use triton_textgen::engine::score;

/// Where nothing is rounded, sums in another order are all that is left.
const EXACT: f32 = 2e-4;
/// Log-probabilities may be off by so much in f16; those of the fixtures lie around −5.
const HALF: f32 = 0.06;
/// In bf16, which has three bits less.
const BRAIN: f32 = 0.3;
/// With weights rounded to 8 bits, and to 4.
const QUANTIZED: [(CudaPrecision, f32); 2] = [(Int8, 0.25), (Int4, 1.0)];

/// A model to convert, and what to ask it.
struct Subject {
    name: String,
    source: PathBuf,
    cases: Vec<Case>,
    expected: Vec<Vec<f32>>,
    _folder: TempDir,
}

impl Subject {
    /// A fixture with heads of `head_dim` elements and weights that a number format holds exactly.
    fn exact(fixture_name: &str, head_dim: usize, grid: Grid) -> Self {
        Self::changed(fixture_name, head_dim, grid, |_| {})
    }

    /// The same, once `change` has been at the checkpoint.
    fn changed(fixture_name: &str, head_dim: usize, grid: Grid, change: impl Fn(&Path)) -> Self {
        let source = fixture(fixture_name);
        let folder = exact::checkpoint(&source, head_dim, grid);
        change(folder.path());
        let reference = read_json(&source.join("reference.json"));
        let case = |json: &Value| Case { source: ids(&json["input_ids"]), target: ids(&json["target_ids"]) };
        let cases = reference["cases"].as_array().unwrap().iter().map(case).collect();
        Self::of(format!("{fixture_name}, heads of {head_dim}, {grid:?}"), folder, cases)
    }

    fn bergamot(items: &[bergamot::Item]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        bergamot::write_package(folder.path(), items);
        let cases: [(&[u32], &[u32]); 3] = [
            (&[5, 6, 7, 0], &[9, 10, 11, 12]),
            (&[20, 0], &[30, 31]),
            (&[40, 41, 42, 43, 44, 45, 0], &[50, 51, 52, 53, 54, 55]),
        ];
        let cases = cases.map(|(source, target)| Case { source: source.to_vec(), target: target.to_vec() });
        Self::of("bergamot".to_owned(), folder, cases.into())
    }

    /// With what the graphs for the CPU give.
    fn of(name: String, folder: TempDir, cases: Vec<Case>) -> Self {
        let source = folder.path().to_owned();
        let artifact = Artifact::convert(&source, Precision::Fp32).unwrap();
        let mut executor = artifact.executor(1, 1);
        let expected =
            cases.iter().map(|case| score(&mut executor, &case.source, &case.target).unwrap()).collect();
        Self { name, source, cases, expected, _folder: folder }
    }

    fn distance(&self, precision: CudaPrecision, elements: Elements) -> f32 {
        self.distance_of(&mut DeviceModel::convert(&self.source, precision, elements))
    }

    /// The largest distance of a log-probability, alone or beside others; infinite where one is no number.
    fn distance_of(&self, model: &mut DeviceModel) -> f32 {
        let together = model.score_together(&self.cases.iter().collect::<Vec<_>>());
        let mut largest = 0.0_f32;
        for ((case, expected), together) in self.cases.iter().zip(&self.expected).zip(together) {
            for got in [model.score_alone(case), together] {
                assert_eq!(got.len(), expected.len());
                for (got, expected) in got.iter().zip(expected) {
                    let distance = (got - expected).abs();
                    largest = if distance.is_nan() { f32::INFINITY } else { largest.max(distance) };
                }
            }
        }
        largest
    }
}

/// Fixtures and sizes of heads: with 16, attention rotates them itself unless they have norms; with 8 it cannot.
const DECODERS: [(&str, usize); 9] = [
    ("decoder/llama", 8),
    ("decoder/llama", 16),
    ("decoder/llama-bias", 16),
    ("decoder/qwen2", 16),
    ("decoder/qwen3", 16),
    ("decoder/hunyuan", 16),
    ("decoder/gemma", 16),
    ("decoder/gemma2", 16),
    ("decoder/gemma3", 8),
];
const T5: [&str; 6] = ["t5/t5", "t5/t5-stray", "t5/flan", "t5/umt5", "t5/mt5", "t5/madlad"];

/// Every family, with the precisions whose weights are exact.
fn subjects() -> impl Iterator<Item = (Subject, &'static [CudaPrecision])> {
    let decoders = DECODERS.into_iter().flat_map(|(name, head_dim)| {
        [(Grid::Bits8, &[Fp16, Bf16, Int8] as &[_]), (Grid::Bits4, &[Int4])]
            .map(|(grid, precisions)| (Subject::exact(name, head_dim, grid), precisions))
    });
    let t5 = T5.iter().map(|name| (Subject::exact(name, 16, Grid::Bits8), &[Fp16, Bf16, Int8] as &[_]));
    let bergamot =
        std::iter::once_with(|| (Subject::bergamot(&bergamot::exact_model()), &[Fp16, Bf16, Int8] as &[_]));
    decoders.chain(t5).chain(bergamot)
}

/// Collects what is off by more than it may be.
#[derive(Default)]
struct Verdict(Vec<String>);

impl Verdict {
    fn within(&mut self, tolerance: f32, distance: f32, of: String) {
        println!("{of}: {distance:.1e}");
        if distance > tolerance {
            self.0.push(format!("{of}: off by {distance}, at most {tolerance} is allowed"));
        }
    }

    fn pronounce(self) {
        assert!(self.0.is_empty(), "{:#?}", self.0);
    }
}

/// A scale, a zero point, an order of weights or of nodes that is wrong would show. For bf16 this is the whole graph,
/// its stored values among it, but for the type that is written in it.
#[test]
fn nothing_is_lost_where_nothing_is_rounded() {
    let mut verdict = Verdict::default();
    for (subject, precisions) in subjects() {
        for &precision in precisions {
            let distance = subject.distance(precision, Full);
            verdict.within(EXACT, distance, format!("{} {precision:?}", subject.name));
        }
    }
    verdict.pronounce();
}

/// The files as they are, which the CPU can run in f16 only, and the roundings that it leaves out. Deep Gemma 3 with
/// weights drawn at random is chaotic; the fixture as it is runs in the executor's tests.
#[test]
fn sixteen_bits_between_the_nodes_are_enough() {
    let mut verdict = Verdict::default();
    for (subject, precisions) in subjects().filter(|(subject, _)| !subject.name.contains("gemma3")) {
        for &precision in precisions {
            let (tolerance, runs): (_, &[_]) =
                if precision == Bf16 { (BRAIN, &[Rounded]) } else { (HALF, &[AsWritten, Rounded]) };
            for &elements in runs {
                let distance = subject.distance(precision, elements);
                verdict.within(tolerance, distance, format!("{} {precision:?} {elements:?}", subject.name));
            }
        }
    }
    verdict.pronounce();
}

/// The file in bf16 itself: ONNX Runtime infers its types without a complaint, and only then misses a kernel. Not those
/// of encoder-decoder models: for want of a kernel it first writes `Attention` out, and what it writes is ill-typed.
#[test]
fn graphs_in_bf16_are_well_typed() {
    let code = |path: &Path| session(path, GraphOptimizationLevel::All).unwrap_err().code();
    for (name, head_dim) in DECODERS {
        let source = exact::checkpoint(&fixture(name), head_dim, Grid::Bits8);
        let (_folder, report) = converted(source.path(), Bf16);
        let path = report.artifact.join(DECODER_FILE);
        assert_eq!(code(&path), ErrorCode::NotImplemented, "{name}");
        let mistyped = rewritten(&path, &report.manifest, AsWritten, &|graph| {
            let cast = graph.node.iter_mut().find(|node| node.name.ends_with("/narrow")).unwrap();
            cast.attribute[0].i = Some(i32::from(DataType::Float16).into());
        });
        assert_ne!(code(&mistyped), ErrorCode::NotImplemented, "{name}");
    }
}

/// Weights as a checkpoint has them.
#[test]
fn quantized_weights_stay_near() {
    let mut verdict = Verdict::default();
    for name in ["decoder/llama", "decoder/qwen2", "decoder/qwen3", "decoder/hunyuan", "t5/t5", "t5/mt5"] {
        let subject = Subject::exact(name, 16, Grid::None);
        for &(precision, tolerance) in &QUANTIZED[..if name.starts_with("t5") { 1 } else { 2 }] {
            let distance = subject.distance(precision, AsWritten);
            verdict.within(tolerance, distance, format!("{} {precision:?}", subject.name));
        }
    }
    verdict.pronounce();
}

/// A Bergamot checkpoint is in 8 bits, which are kept: only scales and biases are rounded, as to f16.
#[test]
fn weights_in_8_bits_stay_what_they_are() {
    let subject = Subject::bergamot(&bergamot::model());
    let [fp16, int8] = [Fp16, Int8].map(|precision| subject.distance(precision, AsWritten));
    println!("fp16 {fp16:.1e}, int8 {int8:.1e}");
    assert!(fp16.max(int8) <= HALF / 3.0, "fp16 is off by {fp16}, int8 by {int8}");
}

/// A tensor of the decoder's first feed-forward output.
fn down<'g>(graph: &'g mut GraphProto, part: &str) -> &'g mut TensorProto {
    let name = format!("decoder.layers.0.mlp.down.{part}");
    graph.initializer.iter_mut().find(|tensor| tensor.name == name).unwrap()
}

fn bytes<'g>(graph: &'g mut GraphProto, part: &str) -> &'g mut [u8] {
    down(graph, part).raw_data.as_mut().unwrap()
}

/// Gives that product zero points that are one less than those it has when none are given.
fn lower_zero_points(graph: &mut GraphProto) {
    let [outputs, blocks] = down(graph, "weight_scale").dims[..] else { panic!("a scale for each block") };
    let node =
        graph.node.iter_mut().find(|node| node.name.ends_with("layers.0/mlp/down/MatMulNBits")).unwrap();
    let bits = node.attribute.iter().find(|attribute| attribute.name == "bits").unwrap().i.unwrap();
    let name = "zero_points".to_owned();
    node.input.push(name.clone());
    let row_bytes = (blocks * bits + 7) / 8;
    graph.initializer.push(TensorProto {
        name,
        dims: vec![outputs, row_bytes],
        data_type: DataType::Uint8.into(),
        raw_data: Some(vec![if bits == 8 { 127 } else { 0x77 }; (outputs * row_bytes) as usize]),
        ..TensorProto::default()
    });
}

#[test]
fn a_wrong_scale_zero_point_or_layout_is_seen() {
    type Change = (&'static str, fn(&mut GraphProto));
    let changes: [Change; 4] = [
        // One bit of the exponent of one matrix.
        ("scale", |graph| {
            bytes(graph, "weight_scale").chunks_exact_mut(2).for_each(|scale| scale[1] ^= 4);
        }),
        ("scales of neighbours", |graph| {
            bytes(graph, "weight_scale").chunks_exact_mut(4).for_each(|pair| pair.rotate_left(2));
        }),
        ("zero point", lower_zero_points),
        ("order of values", |graph| {
            bytes(graph, "weight").chunks_exact_mut(2).for_each(|pair| {
                pair.swap(0, 1);
                pair.iter_mut().for_each(|value| *value = value.rotate_left(4));
            });
        }),
    ];
    for (precision, grid) in [(Int8, Grid::Bits8), (Int4, Grid::Bits4)] {
        let subject = Subject::exact("decoder/llama", 16, grid);
        for (what, change) in changes {
            let mut model = DeviceModel::convert_changed(&subject.source, precision, Full, Some(&change));
            let distance = subject.distance_of(&mut model);
            println!("{precision:?}, another {what}: {distance:.1e}");
            assert!(distance > 100.0 * EXACT, "{precision:?}, another {what}: off by {distance} only");
        }
    }
}

/// Makes the results of these nodes f16, to be rounded.
fn narrow_results(graph: &mut GraphProto, of: fn(&str) -> bool) {
    let nodes = graph.node.iter().filter(|node| of(&node.name));
    let results: Vec<&String> = nodes.flat_map(|node| &node.output).collect();
    assert!(!results.is_empty());
    for info in graph.value_info.iter_mut().filter(|info| results.contains(&&info.name)) {
        *elements::elem_type(info) = DataType::Float16.into();
    }
}

/// Feed-forward blocks of published T5 checkpoints leave the range of f16: their gated values, their outputs, and the
/// stream that these are added to.
#[test]
fn t5_survives_values_beyond_f16() {
    let gated_values = |name: &str| name.ends_with("/mlp/wi/Mul");
    let outputs = |name: &str| name.contains("/mlp/wo/") && name.contains("MatMul");
    let stream = |name: &str| name.ends_with("/SkipSimplifiedLayerNormalization");
    for (name, is_gated) in [("t5/t5", false), ("t5/t5-stray", true), ("t5/mt5", true)] {
        // Factors of the blocks' two linear layers, and results that would then not be numbers in f16.
        let large_inside: [f32; 2] = [512.0, 1.0 / 1024.0];
        let large_outside: [f32; 2] = [32.0, 4096.0];
        type Results = fn(&str) -> bool;
        let beyond: [(_, &[Results]); 2] =
            [(large_outside, &[outputs, stream]), (large_inside, &[gated_values])];
        for ([inner, outer], beyond) in beyond.into_iter().take(if is_gated { 2 } else { 1 }) {
            let subject = Subject::changed(name, 16, Grid::Bits8, |folder| {
                exact::multiply(folder, ".wi", inner);
                exact::multiply(folder, ".wo.", outer);
            });
            for precision in [Fp16, Int8] {
                let distance = subject.distance(precision, Rounded);
                println!("{name} {precision:?}, times {inner} and {outer}: {distance:.1e}");
                assert!(distance <= HALF, "{name} {precision:?}, times {inner} and {outer}: {distance}");
                for &results in beyond {
                    let change = |graph: &mut GraphProto| narrow_results(graph, results);
                    let mut narrow =
                        DeviceModel::convert_changed(&subject.source, precision, Rounded, Some(&change));
                    assert_eq!(subject.distance_of(&mut narrow), f32::INFINITY, "{name} needs no guard");
                }
            }
        }
    }
}
