//! Every node of a graph for CUDA is one that ONNX Runtime has a CUDA kernel for, by the table that its own registry
//! gave (`cuda/make_kernels.py`): without it the node would run on the host, in the middle of a step.

use std::{collections::BTreeMap, fs, path::Path};

use prost::Message;
use textgen_artifact::{DECODER_FILE, DType, Device, ENCODER_FILE};
use textgen_convert::{
    ConvertOptions, CudaPrecision, Plan, Report, Target, convert,
    onnx::{DEVICE_OPSET_VERSION, DataType, GraphProto, ModelProto, NodeProto},
};

const TABLE: &str = include_str!("cuda/kernels.txt");
const DECODERS: [&str; 3] = ["llama", "llama-bias", "gemma3"];
const T5: [&str; 4] = ["t5", "t5-stray", "umt5", "madlad"];

/// A kernel: the types that each input and each output may have.
struct Kernel {
    versions: (i64, i64),
    inputs: Vec<&'static str>,
    outputs: Vec<&'static str>,
}

impl Kernel {
    fn takes(&self, inputs: &[Option<&str>], outputs: &[Option<&str>]) -> bool {
        fits(&self.inputs, inputs) && fits(&self.outputs, outputs)
    }
}

/// Whether values of these types go where those are; none is an optional one left out.
fn fits(formals: &[&str], actual: &[Option<&str>]) -> bool {
    actual.iter().enumerate().all(|(index, actual)| {
        let last = formals.last().filter(|formal| formal.ends_with('*'));
        let Some(formal) = formals.get(index).or(last) else { return false };
        let mut alternatives = formal.trim_end_matches('*').split('|');
        actual.is_none_or(|actual| alternatives.any(|allowed| allowed == "any" || allowed == actual))
    })
}

/// Kernels by domain and operator.
fn kernels() -> BTreeMap<(&'static str, &'static str), Vec<Kernel>> {
    let mut kernels = BTreeMap::<_, Vec<_>>::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let (head, outputs) = line.split_once(" -> ").unwrap();
        let mut words = head.split(' ');
        let mut word = || words.next().unwrap();
        let (domain, operator, versions) = (word(), word(), word());
        let (first, last) = versions.split_once('-').unwrap();
        let versions = (first.parse().unwrap(), last.parse().unwrap_or(i64::MAX));
        let kernel = Kernel { versions, inputs: words.collect(), outputs: outputs.split(' ').collect() };
        let domain = if domain == "ai.onnx" { "" } else { domain };
        kernels.entry((domain, operator)).or_default().push(kernel);
    }
    kernels
}

fn type_name(data_type: i32) -> &'static str {
    match DataType::try_from(data_type).unwrap() {
        DataType::Float => "f32",
        DataType::Float16 => "f16",
        DataType::Bfloat16 => "bf16",
        DataType::Int32 => "i32",
        DataType::Int64 => "i64",
        DataType::Int8 => "i8",
        DataType::Uint8 => "u8",
        DataType::Bool => "bool",
        DataType::Undefined => panic!("a value without a type"),
    }
}

/// Types of all values of a graph.
fn types(graph: &GraphProto) -> BTreeMap<&str, &'static str> {
    let declared = [&graph.input, &graph.output, &graph.value_info].into_iter().flatten().map(|info| {
        let tensor = info.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
        (info.name.as_str(), type_name(tensor.elem_type))
    });
    let initializers =
        graph.initializer.iter().map(|tensor| (tensor.name.as_str(), type_name(tensor.data_type)));
    declared.chain(initializers).collect()
}

/// Nodes that no CUDA kernel takes.
fn homeless(graph: &GraphProto) -> Vec<String> {
    let (kernels, types) = (kernels(), types(graph));
    let of = |names: &[String]| -> Vec<Option<&str>> {
        names.iter().map(|name| (!name.is_empty()).then(|| types[name.as_str()])).collect()
    };
    let has_kernel = |node: &&NodeProto| {
        let version = if node.domain.is_empty() { DEVICE_OPSET_VERSION } else { 1 };
        let (inputs, outputs) = (of(&node.input), of(&node.output));
        kernels.get(&(node.domain.as_str(), node.op_type.as_str())).is_some_and(|kernels| {
            kernels.iter().any(|kernel| {
                (kernel.versions.0..=kernel.versions.1).contains(&version) && kernel.takes(&inputs, &outputs)
            })
        })
    };
    let without = graph.node.iter().filter(|node| !has_kernel(node));
    without.map(|node| format!("{} {:?} -> {:?}", node.name, of(&node.input), of(&node.output))).collect()
}

fn options(fixture: &str, precision: CudaPrecision, dir: &Path) -> ConvertOptions {
    ConvertOptions {
        source: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(fixture),
        target: Target::Folder(dir.join("artifact")),
        plan: Plan::Cuda(precision),
        keep: None,
        force: false,
    }
}

fn converted(fixture: &str, precision: CudaPrecision) -> (tempfile::TempDir, Report) {
    let dir = tempfile::tempdir().unwrap();
    let report = convert(&options(fixture, precision, dir.path()));
    let report = report.unwrap_or_else(|error| panic!("{fixture} {precision:?}: {error}"));
    (dir, report)
}

fn graph(report: &Report, file: &str) -> GraphProto {
    let model = ModelProto::decode(fs::read(report.artifact.join(file)).unwrap().as_slice()).unwrap();
    model.graph.unwrap()
}

#[test]
fn every_node_has_a_cuda_kernel() {
    use CudaPrecision::{Bf16, Fp16, Int4, Int8};
    let decoders = DECODERS.iter().flat_map(|name| {
        [Fp16, Bf16, Int8, Int4].map(|precision| (format!("decoder/{name}"), precision, vec![DECODER_FILE]))
    });
    let t5 = T5.iter().flat_map(|name| {
        [Fp16, Bf16, Int8]
            .map(|precision| (format!("t5/{name}"), precision, vec![ENCODER_FILE, DECODER_FILE]))
    });
    for (fixture, precision, files) in decoders.chain(t5) {
        let (_dir, report) = converted(&fixture, precision);
        let expected = if precision == Bf16 { DType::BF16 } else { DType::F16 };
        assert!(matches!(report.manifest.device, Device::Cuda(spec) if spec.caches == expected));
        for file in files {
            assert_eq!(
                homeless(&graph(&report, file)),
                Vec::<String>::new(),
                "{fixture} {precision:?} {file}"
            );
        }
    }
}

#[test]
fn a_node_without_a_kernel_is_found() {
    let (_dir, report) = converted("decoder/llama", CudaPrecision::Fp16);
    let mut graph = graph(&report, DECODER_FILE);
    assert!(homeless(&graph).is_empty());
    // CUDA has no attention in f32: neither for a cache of it, nor an operator of another name.
    for info in graph.input.iter_mut().filter(|info| info.name.starts_with("past_key_values")) {
        info.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().elem_type = DataType::Float.into();
    }
    let attentions = graph.node.iter().filter(|node| node.op_type == "GroupQueryAttention").count();
    assert_eq!(homeless(&graph).len(), attentions);
    graph.node[0].op_type = "Lookup".to_owned();
    assert_eq!(homeless(&graph).len(), attentions + 1);
}

#[test]
fn heads_that_no_attention_takes_are_refused() {
    for fixture in ["decoder/qwen3", "t5/mt5"] {
        let dir = tempfile::tempdir().unwrap();
        let error = convert(&options(fixture, CudaPrecision::Fp16, dir.path())).unwrap_err().to_string();
        assert!(error.contains("12") && error.contains("multiple of 8"), "{error}");
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
