//! The same graph with f32 where it has 16-bit elements: what is left is its structure and its stored weights, and the
//! CPU can run what it has no kernels for.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use prost::Message;
use textgen_artifact::{Manifest, RotarySpec, WEIGHTS_FILE};
use textgen_convert::onnx::{
    AttributeProto, AttributeType, DataType, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};

/// What becomes of the 16-bit elements of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elements {
    /// The file as it is. ONNX Runtime computes in f32 where it has no CPU kernel for f16, and leaves roundings
    /// between such nodes out; that of bf16 it cannot run at all.
    AsWritten,
    /// f32; the tables of rotary embeddings, which 16 bits round like results, are those of full precision.
    Full,
    /// f32, every result of a node rounded to what it was, with its range.
    Rounded,
}

/// Writes the graph with other elements beside the file that it is in; gives the new one.
pub fn rewritten(
    path: &Path,
    manifest: &Manifest,
    elements: Elements,
    change: &dyn Fn(&mut GraphProto),
) -> PathBuf {
    let mut model = ModelProto::decode(fs::read(path).unwrap().as_slice()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let weights = fs::read(path.with_file_name(WEIGHTS_FILE)).unwrap();
    graph.initializer.iter_mut().for_each(|tensor| hold(tensor, &weights));
    change(graph);
    if elements != Elements::AsWritten {
        if elements == Elements::Rounded {
            round_results(graph);
        }
        widen(graph);
        if elements == Elements::Full {
            manifest.rotary.iter().enumerate().for_each(|(index, spec)| restore_tables(graph, index, spec));
        }
    }
    let path = path.with_extension("rewritten.onnx");
    fs::write(&path, model.encode_to_vec()).unwrap();
    path
}

/// Puts the data of a tensor into the graph.
fn hold(tensor: &mut TensorProto, weights: &[u8]) {
    let entries: BTreeMap<String, String> =
        tensor.external_data.drain(..).map(|entry| (entry.key, entry.value)).collect();
    if tensor.data_location.take().is_some() {
        let [offset, length] = ["offset", "length"].map(|key| entries[key].parse::<usize>().unwrap());
        tensor.raw_data = Some(weights[offset..offset + length].to_vec());
    }
}

fn is_16_bit(data_type: i32) -> bool {
    [DataType::Float16, DataType::Bfloat16].iter().any(|&kind| data_type == i32::from(kind))
}

/// The element type of a value.
pub fn elem_type(info: &mut ValueInfoProto) -> &mut i32 {
    &mut info.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().elem_type
}

/// f32 for every 16-bit type of the graph.
fn widen(graph: &mut GraphProto) {
    for info in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        let data_type = elem_type(info);
        if is_16_bit(*data_type) {
            *data_type = DataType::Float.into();
        }
    }
    for tensor in graph.initializer.iter_mut().filter(|tensor| is_16_bit(tensor.data_type)) {
        let is_f16 = tensor.data_type == i32::from(DataType::Float16);
        let value = |pair: &[u8]| {
            let bits = u16::from_le_bytes(pair.try_into().unwrap());
            if is_f16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() }
        };
        let halves = tensor.raw_data.take().unwrap();
        let data = halves.chunks_exact(2).flat_map(|pair| value(pair).to_le_bytes()).collect();
        tensor.raw_data = Some(data);
        tensor.data_type = DataType::Float.into();
    }
    // A rounding is no cast of the graph's own.
    for node in graph.node.iter_mut().filter(|node| node.op_type == "Cast" && !is_rounding(node)) {
        for to in node.attribute.iter_mut().filter_map(|attribute| attribute.i.as_mut()) {
            if is_16_bit(i32::try_from(*to).unwrap()) {
                *to = i32::from(DataType::Float).into();
            }
        }
    }
}

/// Puts the cosines and sines of full precision where those of 16 bits are, which must be near.
fn restore_tables(graph: &mut GraphProto, index: usize, spec: &RotarySpec) {
    let pairs = spec.inverse_frequencies.len();
    for (name, function) in [("cos", f32::cos as fn(f32) -> f32), ("sin", f32::sin)] {
        let name = format!("rotary.{index}.{name}");
        let table = graph.initializer.iter_mut().find(|tensor| tensor.name == name).unwrap();
        assert_eq!(table.dims[1], pairs as i64);
        let data = table.raw_data.as_mut().unwrap();
        for (entry, stored) in data.chunks_exact_mut(4).enumerate() {
            let angle = (entry / pairs) as f32 * spec.inverse_frequencies[entry % pairs];
            let exact = function(angle) * spec.magnitude;
            let rounded = f32::from_le_bytes((&*stored).try_into().unwrap());
            assert!((rounded - exact).abs() <= exact.abs() / 256.0 + 1e-7, "{name}: {rounded} for {exact}");
            stored.copy_from_slice(&exact.to_le_bytes());
        }
    }
}

const UNROUNDED: &str = "/unrounded";
const ROUNDED: &str = "/rounded";

fn is_rounding(node: &NodeProto) -> bool {
    node.name.ends_with(ROUNDED)
}

/// Casts the 16-bit results of every node, once widened, to 16 bits and back.
fn round_results(graph: &mut GraphProto) {
    let types: BTreeMap<String, i32> = graph
        .value_info
        .iter_mut()
        .chain(&mut graph.output)
        .map(|info| (info.name.clone(), *elem_type(info)))
        .filter(|&(_, data_type)| is_16_bit(data_type))
        .collect();
    let mut nodes = Vec::new();
    for mut node in graph.node.drain(..) {
        let mut casts = Vec::new();
        for output in &mut node.output {
            if let Some(&data_type) = types.get(output.as_str()) {
                let [unrounded, rounded] = [UNROUNDED, ROUNDED].map(|part| format!("{output}{part}"));
                casts.push(cast(&unrounded, &rounded, data_type, &rounded));
                casts.push(cast(&rounded, output, DataType::Float.into(), &format!("{output}/widened")));
                *output = unrounded;
            }
        }
        nodes.push(node);
        nodes.append(&mut casts);
    }
    graph.node = nodes;
}

fn cast(from: &str, result: &str, data_type: i32, name: &str) -> NodeProto {
    NodeProto {
        input: vec![from.to_owned()],
        output: vec![result.to_owned()],
        name: name.to_owned(),
        op_type: "Cast".to_owned(),
        attribute: vec![AttributeProto {
            name: "to".to_owned(),
            i: Some(data_type.into()),
            r#type: AttributeType::Int.into(),
            ..AttributeProto::default()
        }],
        domain: String::new(),
    }
}
