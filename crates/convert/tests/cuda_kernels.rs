//! Every node of a graph for CUDA is one that ONNX Runtime has a CUDA kernel for, by the table that its own registry
//! gave (`cuda/make_kernels.py`): without it the node would run on the host, in the middle of a step.

#[path = "support/mod.rs"]
mod bergamot;
#[path = "support/exact.rs"]
mod exact;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use CudaPrecision::{Bf16, Fp16, Int4, Int8};
use exact::Grid;

use prost::Message;
use textgen_artifact::{DECODER_FILE, DType, Device, ENCODER_FILE};
use textgen_convert::{
    ConvertError, ConvertOptions, CudaPrecision, Plan, Report, Target, convert,
    onnx::{DEVICE_OPSET_VERSION, DataType, GraphProto, ModelProto, NodeProto},
};

const TABLE: &str = include_str!("cuda/kernels.txt");
const DECODER_ONLY: &[CudaPrecision] = &[Fp16, Bf16, Int8, Int4];
const ENCODER_DECODER: &[CudaPrecision] = &[Fp16, Bf16, Int8];
const FLOAT: &[CudaPrecision] = &[Fp16, Bf16];

/// A form that a part of a graph may have, the precisions that have it, and the nodes that only it has.
type Form = (&'static str, &'static [CudaPrecision], fn(&NodeProto) -> bool);

const FORMS: [Form; 20] = [
    ("attention that rotates", DECODER_ONLY, |node| is_attention(node) && has(node, "do_rotary")),
    ("attention that does not", DECODER_ONLY, |node| is_attention(node) && !has(node, "do_rotary")),
    ("attention with a cap", DECODER_ONLY, |node| is_attention(node) && has(node, "softcap")),
    ("attention with a window", DECODER_ONLY, |node| is_attention(node) && has(node, "local_window_size")),
    ("attention with a bias", ENCODER_DECODER, |node| is_attention(node) && node.input.len() > 10),
    ("attention without a cache", ENCODER_DECODER, |node| node.op_type == "Attention"),
    ("recurrent cell", ENCODER_DECODER, |node| node.op_type == "Sigmoid"),
    ("rotation before attention", DECODER_ONLY, |node| node.op_type == "RotaryEmbedding"),
    ("norms of heads", DECODER_ONLY, |node| node.name.contains("/query/norm/")),
    ("norms of branches", DECODER_ONLY, |node| node.name.contains("/post_norm/")),
    ("biases", DECODER_ONLY, |node| node.name.ends_with("/qkv/Add")),
    ("ReLU", ENCODER_DECODER, |node| node.name.ends_with("/wi/act") && node.op_type == "Relu"),
    ("SiLU", DECODER_ONLY, |node| node.op_type == "QuickGelu"),
    ("GELU by tanh", DECODER_ONLY, |node| node.op_type == "FastGelu"),
    ("GELU by erf", DECODER_ONLY, |node| node.op_type == "Gelu"),
    ("values in f32", &[Fp16, Int8], |node| node.name.ends_with("/wi/gate/widen")),
    ("capped logits", DECODER_ONLY, |node| node.op_type == "Tanh"),
    ("tied head", FLOAT, |node| is_head(node) && !node.input[1].starts_with("lm_head.")),
    ("head of its own", DECODER_ONLY, |node| is_head(node) && node.input[1].starts_with("lm_head.")),
    ("blocks of few bits", &[Int8, Int4], |node| node.op_type == "MatMulNBits"),
];

fn is_attention(node: &NodeProto) -> bool {
    node.op_type == "GroupQueryAttention"
}

fn is_head(node: &NodeProto) -> bool {
    node.name.starts_with("/lm_head/") && node.op_type.contains("MatMul")
}

fn has(node: &NodeProto, attribute: &str) -> bool {
    node.attribute.iter().any(|other| other.name == attribute)
}

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

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// Converts into the folder `artifact` of `dir`.
fn converted(source: &Path, precision: CudaPrecision, dir: &Path) -> Result<Report, ConvertError> {
    convert(&ConvertOptions {
        source: source.to_owned(),
        target: Target::Folder(dir.join("artifact")),
        plan: Plan::Cuda(precision),
        keep: None,
        force: true,
    })
}

fn graph(report: &Report, file: &str) -> GraphProto {
    let model = ModelProto::decode(fs::read(report.artifact.join(file)).unwrap().as_slice()).unwrap();
    model.graph.unwrap()
}

/// Checkpoints of every family, with heads that attention rotates itself and with those that it cannot.
fn sources() -> Vec<(String, tempfile::TempDir, &'static [CudaPrecision])> {
    const DECODERS: [&str; 8] =
        ["llama", "llama-bias", "qwen2", "qwen3", "hunyuan", "gemma", "gemma2", "gemma3"];
    const T5: [&str; 6] = ["t5", "t5-stray", "flan", "umt5", "mt5", "madlad"];
    let decoders = DECODERS.map(|name| (format!("decoder/{name}"), DECODER_ONLY));
    let t5 = T5.map(|name| (format!("t5/{name}"), ENCODER_DECODER));
    let fixtures = decoders.into_iter().chain(t5).flat_map(|(name, precisions)| {
        [8, 16].map(|head_dim| {
            let source = exact::checkpoint(&fixture(&name), head_dim, Grid::None);
            (format!("{name}, heads of {head_dim}"), source, precisions)
        })
    });
    let by_erf = exact::checkpoint(&fixture("decoder/llama"), 16, Grid::None);
    exact::configure(by_erf.path(), "hidden_act", "gelu");
    let bergamot = tempfile::tempdir().unwrap();
    bergamot::write_package(bergamot.path(), &bergamot::model());
    let others = [
        ("decoder/llama, GELU by erf".to_owned(), by_erf, DECODER_ONLY),
        ("bergamot".to_owned(), bergamot, ENCODER_DECODER),
    ];
    fixtures.chain(others).collect()
}

/// Each form must be in a graph of each precision that has it: what is not there was not looked up.
#[test]
fn every_node_has_a_cuda_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen: Vec<(&str, CudaPrecision)> = Vec::new();
    for (name, source, precisions) in sources() {
        for &precision in precisions {
            let report = converted(source.path(), precision, dir.path());
            let report = report.unwrap_or_else(|error| panic!("{name} {precision:?}: {error}"));
            let caches = if precision == Bf16 { DType::BF16 } else { DType::F16 };
            assert!(matches!(report.manifest.device, Device::Cuda(spec) if spec.caches == caches));
            let encoder = (!report.manifest.is_decoder_only()).then_some(ENCODER_FILE);
            for file in encoder.into_iter().chain([DECODER_FILE]) {
                let graph = graph(&report, file);
                assert_eq!(homeless(&graph), Vec::<String>::new(), "{name} {precision:?} {file}");
                let of_graph = FORMS.iter().filter(|(_, _, is_form)| graph.node.iter().any(is_form));
                seen.extend(of_graph.map(|(form, _, _)| (*form, precision)));
            }
        }
    }
    for (form, precisions, _) in FORMS {
        let without: Vec<_> =
            precisions.iter().filter(|&&precision| !seen.contains(&(form, precision))).collect();
        assert!(without.is_empty(), "no graph in {without:?} has the form: {form}");
    }
}

#[test]
fn a_node_without_a_kernel_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let source = exact::checkpoint(&fixture("decoder/llama"), 16, Grid::None);
    let report = converted(source.path(), Int4, dir.path()).unwrap();
    let whole = graph(&report, DECODER_FILE);
    assert!(homeless(&whole).is_empty());
    let found = |change: &dyn Fn(&mut GraphProto)| {
        let mut graph = whole.clone();
        change(&mut graph);
        homeless(&graph)
    };
    let count = |operator: &str| whole.node.iter().filter(|node| node.op_type == operator).count();
    // CUDA has no attention in f32.
    let caches = found(&|graph| {
        for info in graph.input.iter_mut().filter(|info| info.name.starts_with("past_key_values")) {
            info.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().elem_type = DataType::Float.into();
        }
    });
    assert_eq!(caches.len(), count("GroupQueryAttention"));
    // Nor scales of another type than the activations.
    let scales = found(&|graph| {
        for tensor in graph.initializer.iter_mut().filter(|tensor| tensor.name.ends_with("weight_scale")) {
            tensor.data_type = DataType::Bfloat16.into();
        }
    });
    assert_eq!(scales.len(), count("MatMulNBits"));
    // An operator that is in no table, one of another domain, and one with an input too many.
    assert_eq!(found(&|graph| graph.node[0].op_type = "Lookup".to_owned()).len(), 1);
    assert_eq!(found(&|graph| graph.node[0].domain = "com.microsoft".to_owned()).len(), 1);
    let extra = found(&|graph| {
        let first = graph.node[0].input[0].clone();
        graph.node[0].input.push(first);
    });
    assert_eq!(extra.len(), 1);
}

#[test]
fn heads_that_no_attention_takes_are_refused() {
    for name in ["decoder/qwen3", "t5/mt5"] {
        let dir = tempfile::tempdir().unwrap();
        let error = converted(&fixture(name), Fp16, dir.path()).unwrap_err().to_string();
        assert!(error.contains("12") && error.contains("multiple of 8"), "{error}");
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}

/// Four bits of an encoder-decoder model lose too much.
#[test]
fn models_without_a_form_in_4_bits_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bergamot = tempfile::tempdir().unwrap();
    bergamot::write_package(bergamot.path(), &bergamot::model());
    for (source, of) in [(fixture("t5/t5"), "t5"), (bergamot.path().to_owned(), "bergamot")] {
        let error = converted(&source, Int4, dir.path()).unwrap_err();
        assert!(matches!(error, ConvertError::NoInt4 { family, .. } if family == of), "{error}");
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
