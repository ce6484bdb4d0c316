//! Contract: a Bergamot model becomes a whole artifact with sound graphs and the checkpoint's own values, or an
//! error and nothing.

mod support;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::Path,
};

use prost::Message;
use support::{D_FFN, D_MODEL, Item, LAYERS, VOCAB, config, config_item, model, write_package};
use tempfile::TempDir;
use textgen_artifact::{
    DECODER_FILE, DType, ENCODER_FILE, Manifest, PAGE_BYTES, TOKENIZER_FILE, WEIGHTS_FILE, WeightFormat,
    graph,
    ops::{PANEL_OUTPUTS, panel_place},
};
use textgen_convert::{
    ConvertError, ConvertOptions, Precision, Report, Result, Target, convert,
    onnx::{DataLocation, DataType, GraphProto, ModelProto},
};

struct Converted {
    _dir: TempDir,
    report: Report,
    weights: Vec<u8>,
}

fn convert_items(items: &[Item], precision: Precision, dir: &Path) -> Result<Report> {
    let source = dir.join("source");
    fs::create_dir(&source).unwrap();
    write_package(&source, items);
    let target = Target::Folder(dir.join("out"));
    convert(&ConvertOptions { source, target, plan: precision.into(), keep: None, force: false })
}

fn converted(precision: Precision) -> Converted {
    let dir = tempfile::tempdir().unwrap();
    let report = convert_items(&model(), precision, dir.path()).unwrap();
    let weights = fs::read(report.artifact.join(WEIGHTS_FILE)).unwrap();
    Converted { _dir: dir, report, weights }
}

impl Converted {
    fn graph(&self, file: &str) -> GraphProto {
        let bytes = fs::read(self.report.artifact.join(file)).unwrap();
        ModelProto::decode(bytes.as_slice()).unwrap().graph.unwrap()
    }

    fn bytes(&self, tensor: &str) -> &[u8] {
        let spec = self.report.manifest.tensor(tensor).unwrap_or_else(|| panic!("no {tensor}"));
        let first = usize::try_from(spec.offset).unwrap();
        &self.weights[first..][..usize::try_from(spec.bytes().unwrap()).unwrap()]
    }

    fn f32(&self, tensor: &str) -> Vec<f32> {
        self.bytes(tensor).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    fn int8(&self, tensor: &str) -> Vec<i8> {
        self.bytes(tensor).iter().map(|byte| byte.cast_signed()).collect()
    }
}

/// Values of a quantized item as they are in the file, and its multiplier.
fn native(name: &str) -> (Vec<i8>, f32) {
    let item = model().into_iter().find(|item| item.name == name).unwrap();
    let elements: usize = item.shape.iter().map(|&dim| dim as usize).product();
    let values = item.data[..elements].iter().map(|byte| byte.cast_signed()).collect();
    (values, f32::from_le_bytes(item.data[elements..elements + 4].try_into().unwrap()))
}

fn element_bytes(data_type: i32) -> usize {
    match DataType::try_from(data_type).unwrap() {
        DataType::Float | DataType::Int32 => 4,
        DataType::Int8 | DataType::Uint8 => 1,
        other => panic!("an initializer of type {other:?}"),
    }
}

/// Every name is defined once and before its use, every initializer is whole, nothing lies idle. Returns the
/// names of external tensors.
fn check_graph(graph: &GraphProto, converted: &Converted) -> BTreeSet<String> {
    let mut known: HashSet<&str> = HashSet::new();
    let mut external = BTreeSet::new();
    for input in &graph.input {
        assert!(known.insert(&input.name), "input {} twice", input.name);
    }
    for tensor in &graph.initializer {
        assert!(known.insert(&tensor.name), "initializer {} twice", tensor.name);
        let elements: i64 = tensor.dims.iter().product();
        let bytes = usize::try_from(elements).unwrap() * element_bytes(tensor.data_type);
        if tensor.data_location == Some(DataLocation::External.into()) {
            let entry: HashMap<_, _> =
                tensor.external_data.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect();
            let offset: u64 = entry["offset"].parse().unwrap();
            let spec = converted.report.manifest.tensor(&tensor.name).unwrap();
            assert_eq!((entry["location"], offset), (WEIGHTS_FILE, spec.offset), "{}", tensor.name);
            assert_eq!(entry["length"], bytes.to_string(), "{}", tensor.name);
            assert!(offset.is_multiple_of(PAGE_BYTES));
            assert!(offset as usize + bytes <= converted.weights.len());
            external.insert(tensor.name.clone());
        } else {
            assert_eq!(tensor.raw_data.as_ref().map(Vec::len), Some(bytes), "{}", tensor.name);
        }
    }
    let mut used: HashSet<&str> = HashSet::new();
    let mut node_names = HashSet::new();
    for node in &graph.node {
        assert!(node.name.starts_with('/') && node_names.insert(&node.name), "node {}", node.name);
        for input in node.input.iter().filter(|input| !input.is_empty()) {
            assert!(known.contains(input.as_str()), "{}: {input} is not defined before", node.name);
            used.insert(input);
        }
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            assert!(known.insert(output), "{}: {output} is defined twice", node.name);
        }
    }
    for output in &graph.output {
        assert!(known.contains(output.name.as_str()), "output {}", output.name);
        used.insert(&output.name);
    }
    let idle: Vec<_> = known.difference(&used).collect();
    assert!(idle.is_empty(), "never used: {idle:?}");
    external
}

#[test]
fn graphs_are_sound_and_every_tensor_has_a_use() {
    for precision in [Precision::Fp32, Precision::Int8] {
        let converted = converted(precision);
        let mut used = check_graph(&converted.graph(ENCODER_FILE), &converted);
        used.extend(check_graph(&converted.graph(DECODER_FILE), &converted));
        let embedding = &converted.report.manifest.embeddings.decoder;
        used.extend(
            [&embedding.table].into_iter().chain(&embedding.row_scale).chain(&embedding.positions).cloned(),
        );
        let written: BTreeSet<String> =
            converted.report.manifest.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        assert_eq!(written, used);
    }
}

#[test]
fn graphs_have_the_inputs_and_outputs_of_the_contract() {
    let converted = converted(Precision::Int8);
    let names = |infos: &[textgen_convert::onnx::ValueInfoProto]| -> BTreeSet<String> {
        infos.iter().map(|info| info.name.clone()).collect()
    };
    let set = |fixed: &[&str], layered: &[fn(usize) -> String]| -> BTreeSet<String> {
        let layered = layered.iter().flat_map(|name| (0..LAYERS).map(name));
        fixed.iter().map(|&name| name.to_owned()).chain(layered).collect()
    };
    let encoder = converted.graph(ENCODER_FILE);
    assert_eq!(
        names(&encoder.input),
        set(&[graph::X, graph::ROW_OFFSETS, graph::SLOTS], &[graph::past_cross_key, graph::past_cross_value])
    );
    assert_eq!(names(&encoder.output), set(&[], &[graph::present_cross_key, graph::present_cross_value]));
    let decoder = converted.graph(DECODER_FILE);
    let fixed = [
        graph::X,
        graph::ROW_OFFSETS,
        graph::CROSS_SLOTS,
        graph::CROSS_LENGTHS,
        graph::STATE_READS,
        graph::STATE_WRITES,
        graph::LOGIT_ROWS,
    ];
    assert_eq!(
        names(&decoder.input),
        set(&fixed, &[graph::past_cross_key, graph::past_cross_value, graph::past_state])
    );
    assert_eq!(names(&decoder.output), set(&[graph::LOGITS], &[graph::present_state]));
}

#[test]
fn int8_keeps_the_checkpoints_own_values() {
    let converted = converted(Precision::Int8);
    let (values, multiplier) = native("encoder_l2_ffn_W2");
    // The checkpoint has an output after the other, the graph panels of outputs.
    let weight = converted.int8("encoder.layers.1.mlp.fc2.weight");
    assert_eq!(weight.len(), values.len());
    for (output, row) in values.chunks(D_FFN).enumerate() {
        let panel = &weight[output / PANEL_OUTPUTS * PANEL_OUTPUTS * D_FFN..][..PANEL_OUTPUTS * D_FFN];
        for (input, &value) in row.iter().enumerate() {
            assert_eq!(panel[panel_place(output % PANEL_OUTPUTS, input)], value.max(-127));
        }
    }
    let encoder = converted.graph(ENCODER_FILE);
    let scale = encoder.initializer.iter().find(|t| t.name == "encoder.layers.1.mlp.fc2.weight_scale");
    let expected = multiplier.recip().to_le_bytes().repeat(D_MODEL);
    assert_eq!(scale.and_then(|tensor| tensor.raw_data.as_deref()), Some(expected.as_slice()));

    let (values, multiplier) = native("Wemb");
    let manifest = &converted.report.manifest;
    assert_eq!(manifest.tensor("embedding.weight").unwrap().dtype, DType::I8);
    let table = converted.int8("embedding.weight");
    assert_eq!(table[..VOCAB * D_MODEL], values);
    assert_eq!(table[VOCAB * D_MODEL..], [0; D_MODEL]);
    let scales = converted.f32("embedding.weight_scale");
    assert_eq!(scales[..VOCAB], [multiplier.recip(); VOCAB]);
    assert_eq!(scales[VOCAB..], [0.0]);
}

#[test]
fn stacked_projections_keep_their_order() {
    let converted = converted(Precision::Fp32);
    for (tensor, parts) in [
        (
            "encoder.layers.1.self_attn.qkv.weight",
            &["encoder_l2_self_Wq", "encoder_l2_self_Wk", "encoder_l2_self_Wv"][..],
        ),
        ("decoder.layers.0.cross_attn.kv.weight", &["decoder_l1_context_Wk", "decoder_l1_context_Wv"]),
        ("decoder.layers.1.rnn.forget_input.weight", &["decoder_l2_rnn_Wf", "decoder_l2_rnn_W"]),
    ] {
        let expected: Vec<f32> = parts
            .iter()
            .flat_map(|part| {
                let (values, multiplier) = native(part);
                values.into_iter().map(move |value| f32::from(value) * multiplier.recip())
            })
            .collect();
        assert_eq!(converted.f32(tensor), expected, "{tensor}");
    }
}

#[test]
fn the_manifest_says_how_the_model_is_run() {
    let converted = converted(Precision::Int8);
    let manifest = Manifest::read(&converted.report.artifact).unwrap();
    assert_eq!(manifest, converted.report.manifest);
    assert_eq!(manifest.family, "bergamot");
    assert_eq!(manifest.generation.decoder_start_token_id.unwrap() as usize, VOCAB);
    assert_eq!(manifest.generation.eos_token_ids, [0]);
    assert_eq!(manifest.generation.suppress_tokens, [1]);
    assert_eq!(manifest.tokenizer.source_suffix, [0]);
    assert_eq!(manifest.embeddings.encoder.as_ref().unwrap().scale, 8.0);
    assert_eq!((manifest.geometry.state_width, manifest.geometry.self_kv_heads), (D_MODEL, 0));
    assert_eq!((manifest.geometry.cross_kv_heads, manifest.geometry.head_dim), (2, D_MODEL / 2));
    let head = manifest.precision_plan.iter().find(|entry| entry.name == "/lm_head").unwrap();
    assert_eq!((head.format, head.shape.as_slice()), (WeightFormat::Int8Column, &[VOCAB, D_MODEL][..]));
    assert!(converted.report.artifact.join(TOKENIZER_FILE).is_file());
}

#[test]
fn other_models_are_refused_by_the_key_that_differs() {
    for (key, from, to) in [
        ("dec-cell", "dec-cell: ssru", "dec-cell: gru"),
        ("transformer-preprocess", "transformer-preprocess: \"\"", "transformer-preprocess: n"),
        ("transformer-ffn-activation", "activation: relu", "activation: swish"),
        ("tied-embeddings-all", "tied-embeddings-all: true", "tied-embeddings-all: false"),
        ("transformer-heads", "transformer-heads: 2", "transformer-heads: 3"),
        ("dim-vocabs", "- 100\nenc", "- 90\nenc"),
        ("shallower", "enc-depth: 2", "enc-depth: 99999999999"),
        ("deeper", "dec-depth: 2", "dec-depth: 1"),
        ("dim-emb", "dim-emb: 64\n", ""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut items = model();
        items.pop();
        let text = config();
        assert!(text.contains(from));
        items.push(config_item(&text.replace(from, to)));
        let error = convert_items(&items, Precision::Fp32, dir.path()).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
        assert_nothing_left(dir.path());
    }
}

#[test]
fn a_tensor_missing_or_misshapen_leaves_nothing_behind() {
    for name in ["Wemb", "decoder_l2_context_Wo", "decoder_ff_logit_out_b", "encoder_l1_self_Wo_ln_bias"] {
        let dir = tempfile::tempdir().unwrap();
        let mut items = model();
        items.retain(|item| item.name != name);
        let error = convert_items(&items, Precision::Int8, dir.path()).unwrap_err();
        assert!(matches!(&error, ConvertError::MissingTensor { tensor, .. } if tensor == name), "{error}");
        assert_nothing_left(dir.path());

        let dir = tempfile::tempdir().unwrap();
        let mut items = model();
        let item = items.iter_mut().find(|item| item.name == name).unwrap();
        item.shape[1] -= 1;
        let error = convert_items(&items, Precision::Int8, dir.path()).unwrap_err();
        assert!(matches!(&error, ConvertError::Shape { tensor, .. } if tensor == name), "{error}");
        assert_nothing_left(dir.path());
    }
}

fn assert_nothing_left(dir: &Path) {
    let names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["source"]);
}

#[test]
fn a_repository_entry_holds_a_configuration_and_version_1() {
    let dir = tempfile::tempdir().unwrap();
    let (source, repository) = (dir.path().join("source"), dir.path().join("repository"));
    fs::create_dir(&source).unwrap();
    write_package(&source, &model());
    let target = Target::Repository { repository: repository.clone(), name: "translate".to_owned() };
    let mut options =
        ConvertOptions { source, target, plan: Precision::Int8.into(), keep: None, force: false };
    let report = convert(&options).unwrap();
    assert_eq!(report.artifact, repository.canonicalize().unwrap().join("translate/1"));
    Manifest::read(&report.artifact).unwrap();
    let config = fs::read_to_string(repository.join("translate/config.pbtxt")).unwrap();
    let settings: Vec<_> = config.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert_eq!(settings, ["backend: \"textgen\""]);

    assert!(matches!(convert(&options), Err(ConvertError::OutputExists { .. })));
    options.force = true;
    convert(&options).unwrap();
}

#[test]
fn a_folder_without_a_checkpoint_is_said_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = ConvertOptions {
        source: dir.path().to_owned(),
        target: Target::Folder(dir.path().join("out")),
        plan: Precision::Int8.into(),
        keep: None,
        force: false,
    };
    assert!(matches!(convert(&options), Err(ConvertError::UnknownCheckpoint { .. })));
}
