//! Values, nodes and initializers on their way to a file.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    marker::PhantomData,
    path::Path,
};

use prost::Message;
use textgen_artifact::{DType, Part, TensorSpec, WEIGHTS_FILE, WeightFormat};

use super::Node;
use crate::{
    error::{ConvertError, Result},
    onnx::{
        DataLocation, DataType, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto,
        StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    },
    weights::{Element, Stored, WeightsWriter},
};

/// Larger tensors go to `weights.bin`; a page there would be more than these need.
pub(super) const INLINE_BYTES: usize = 4096;

/// Handle of a value of a graph under construction, with elements of type `T`.
#[derive(Debug, Clone, Copy)]
pub struct Value<T> {
    pub(super) id: usize,
    element: PhantomData<T>,
}

impl<T> Value<T> {
    fn new(id: usize) -> Self {
        Self { id, element: PhantomData }
    }
}

/// A dimension of a graph's input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    Fixed(usize),
    Symbol(&'static str),
}

/// Handle of a node that has been added; [`GraphBuilder::result`] gives its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added(usize);

struct Placed {
    name: String,
    node: Node,
    outputs: Vec<Option<usize>>,
}

/// Builds one graph. Its large tensors are appended to `weights.bin` as they come.
pub struct GraphBuilder<'w> {
    pub(super) weights: &'w mut WeightsWriter,
    part: Part,
    device: bool,
    /// Names and types of values by id.
    values: Vec<(String, DataType)>,
    nodes: Vec<Placed>,
    node_names: HashSet<String>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    initializers: Vec<TensorProto>,
    /// Ids of initializers by name.
    initializer_ids: BTreeMap<String, usize>,
}

impl<'w> GraphBuilder<'w> {
    /// A graph of this part of the model, which also names it.
    pub fn new(part: Part, weights: &'w mut WeightsWriter) -> Self {
        Self {
            weights,
            part,
            device: false,
            values: Vec::new(),
            nodes: Vec::new(),
            node_names: HashSet::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            initializers: Vec::new(),
            initializer_ids: BTreeMap::new(),
        }
    }

    /// A graph of this part for a device.
    pub fn for_device(part: Part, weights: &'w mut WeightsWriter) -> Self {
        Self { device: true, ..Self::new(part, weights) }
    }

    /// Notes the format of one of this graph's matrix products.
    pub(super) fn plan(&mut self, address: &str, format: WeightFormat, shape: [usize; 2]) {
        self.weights.plan(address, self.part, format, shape);
    }

    /// Declares an input of the graph.
    pub fn input<T: Element>(&mut self, name: &str, shape: &[Dim]) -> Value<T> {
        self.inputs.push(value_info::<T>(name, shape));
        self.new_value(name.to_owned())
    }

    /// Declares an output of the graph; the value takes its name.
    pub fn output<T: Element>(&mut self, value: Value<T>, name: &str, shape: &[Dim]) {
        self.outputs.push(value_info::<T>(name, shape));
        name.clone_into(&mut self.values[value.id].0);
    }

    /// Adds a node under an address.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn add(&mut self, address: &str, node: Node) -> Added {
        assert!(self.node_names.insert(address.to_owned()), "two nodes at {address}");
        self.nodes.push(Placed { name: address.to_owned(), node, outputs: Vec::new() });
        Added(self.nodes.len() - 1)
    }

    /// Output `index` of a node; those never asked for are left out.
    pub fn result<T: Element>(&mut self, node: Added, index: usize) -> Value<T> {
        let placed = &mut self.nodes[node.0];
        if placed.outputs.len() <= index {
            placed.outputs.resize(index + 1, None);
        }
        if let Some(id) = placed.outputs[index] {
            return Value::new(id);
        }
        let name = format!("{}/output_{index}", placed.name);
        let value = self.new_value(name);
        self.nodes[node.0].outputs[index] = Some(value.id);
        value
    }

    /// Adds a node of one output.
    pub fn apply<T: Element>(&mut self, address: &str, node: Node) -> Value<T> {
        let added = self.add(address, node);
        self.result(added, 0)
    }

    /// A tensor: in the graph when it is small, else in `weights.bin`.
    ///
    /// # Panics
    /// When the values do not fill the shape, or the name is taken.
    pub fn initializer<T: Stored>(&mut self, name: &str, shape: &[usize], values: &[T]) -> Result<Value<T>> {
        if size_of_val(values) > INLINE_BYTES {
            self.weights.write(name, shape, values)?;
            return Ok(self.external(name, shape));
        }
        Ok(self.inline(name, shape, values))
    }

    /// A scalar, once in the graph under any number of uses.
    pub(super) fn scalar<T: Element>(&mut self, name: &str, value: T) -> Value<T> {
        match self.initializer_ids.get(name) {
            Some(&id) => Value::new(id),
            None => self.inline(name, &[], &[value]),
        }
    }

    /// A list of integers, once in the graph under any number of uses.
    pub(super) fn constant(&mut self, name: &str, values: &[i64]) -> Value<i64> {
        match self.initializer_ids.get(name) {
            Some(&id) => Value::new(id),
            None => self.inline(name, &[values.len()], values),
        }
    }

    /// `0 .. end`
    pub(super) fn range_to<T: Element + From<u8>>(&mut self, address: &str, end: Value<T>) -> Value<T> {
        let kind = i32::from(T::DATA_TYPE);
        let start = self.scalar(&format!("range.start.{kind}"), T::from(0));
        let step = self.scalar(&format!("range.step.{kind}"), T::from(1));
        self.apply(address, Node::onnx("Range").input(start).input(end).input(step))
    }

    /// A tensor already in `weights.bin`, or its first rows, which may be in the graph already: a device has a
    /// memory of its own for each initializer.
    pub(super) fn external_again<T: Stored>(&mut self, name: &str, shape: &[usize]) -> Value<T> {
        let dims: Vec<i64> = shape.iter().map(|&dim| signed(dim)).collect();
        let declared = self.initializers.iter().find(|tensor| tensor.name == name);
        match (declared, self.initializer_ids.get(name)) {
            (Some(tensor), Some(&id)) if tensor.dims == dims => Value::new(id),
            (None, _) => self.external(name, shape),
            _ => {
                let view = self.view::<T>(name, shape);
                let tensor = external_tensor(&view);
                self.new_initializer(TensorProto { name: format!("{name}.rows"), ..tensor })
            }
        }
    }

    /// A tensor already in `weights.bin`, or its first rows.
    ///
    /// # Panics
    /// When there is no such tensor, its elements are of another type, or the shape is larger.
    pub fn external<T: Stored>(&mut self, name: &str, shape: &[usize]) -> Value<T> {
        let view = self.view::<T>(name, shape);
        self.new_initializer(external_tensor(&view))
    }

    fn view<T: Stored>(&self, name: &str, shape: &[usize]) -> TensorSpec {
        let spec = self.weights.tensor(name).unwrap_or_else(|| panic!("`{name}` is not in the weights yet"));
        assert_eq!(spec.dtype, T::DTYPE, "element type of `{name}`");
        let view = TensorSpec { shape: shape.to_vec(), ..spec.clone() };
        assert!(view.bytes() <= spec.bytes(), "`{name}`: {shape:?} is larger than {:?}", spec.shape);
        view
    }

    fn inline<T: Element>(&mut self, name: &str, shape: &[usize], values: &[T]) -> Value<T> {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values of `{name}`");
        let mut raw = Vec::with_capacity(size_of_val(values));
        values.iter().for_each(|value| value.put(&mut raw));
        self.new_initializer(TensorProto { raw_data: Some(raw), ..tensor_header(name, shape, T::DATA_TYPE) })
    }

    fn new_initializer<T: Element>(&mut self, tensor: TensorProto) -> Value<T> {
        let value = self.new_value(tensor.name.clone());
        let previous = self.initializer_ids.insert(tensor.name.clone(), value.id);
        assert!(previous.is_none(), "two initializers named `{}`", tensor.name);
        self.initializers.push(tensor);
        value
    }

    fn new_value<T: Element>(&mut self, name: String) -> Value<T> {
        self.values.push((name, T::DATA_TYPE));
        Value::new(self.values.len() - 1)
    }

    /// The finished model.
    pub fn finish(self) -> ModelProto {
        let values = self.values;
        let name_of = |id: Option<usize>| id.map_or_else(String::new, |id| values[id].0.clone());
        let made = self.nodes.iter().flat_map(|placed| placed.outputs.iter().flatten());
        let outputs: HashSet<&str> = self.outputs.iter().map(|output| output.name.as_str()).collect();
        let between = made.map(|&id| &values[id]).filter(|(name, _)| !outputs.contains(name.as_str()));
        // So that whoever reads a graph of a device can tell which of its kernels a node takes.
        let value_info = between.filter(|_| self.device).map(|(name, data_type)| {
            let tensor = TensorTypeProto { elem_type: (*data_type).into(), shape: None };
            ValueInfoProto { name: name.clone(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
        });
        let value_info = value_info.collect();
        let node = self.nodes.into_iter().map(|placed| NodeProto {
            input: placed.node.inputs.into_iter().map(name_of).collect(),
            output: placed.outputs.into_iter().map(name_of).collect(),
            name: placed.name,
            op_type: placed.node.op.to_owned(),
            attribute: placed.node.attributes,
            domain: placed.node.domain.to_owned(),
        });
        let graph = GraphProto {
            node: node.collect(),
            name: self.part.name().to_owned(),
            initializer: self.initializers,
            input: self.inputs,
            output: self.outputs,
            value_info,
        };
        if self.device { ModelProto::for_device(graph) } else { ModelProto::of(graph) }
    }

    /// Writes the finished model to a file.
    pub fn write(self, path: &Path) -> Result<()> {
        fs::write(path, self.finish().encode_to_vec()).map_err(ConvertError::io(path))
    }
}

fn value_info<T: Element>(name: &str, shape: &[Dim]) -> ValueInfoProto {
    let dim = shape.iter().map(|dim| DimensionProto {
        value: Some(match *dim {
            Dim::Fixed(size) => DimensionValue::DimValue(signed(size)),
            Dim::Symbol(name) => DimensionValue::DimParam(name.to_owned()),
        }),
    });
    let tensor = TensorTypeProto {
        elem_type: T::DATA_TYPE.into(),
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

fn external_tensor(spec: &TensorSpec) -> TensorProto {
    let data_type = match spec.dtype {
        DType::F32 => f32::DATA_TYPE,
        DType::F16 => half::f16::DATA_TYPE,
        DType::BF16 => half::bf16::DATA_TYPE,
        DType::I8 => i8::DATA_TYPE,
        DType::U8 => u8::DATA_TYPE,
        DType::I32 => i32::DATA_TYPE,
    };
    let length = spec.bytes().expect("a tensor on disk has a size");
    let entries = [
        ("location", WEIGHTS_FILE.to_owned()),
        ("offset", spec.offset.to_string()),
        ("length", length.to_string()),
    ];
    TensorProto {
        data_location: Some(DataLocation::External.into()),
        external_data: entries
            .into_iter()
            .map(|(key, value)| StringStringEntryProto { key: key.to_owned(), value })
            .collect(),
        ..tensor_header(&spec.name, &spec.shape, data_type)
    }
}

fn tensor_header(name: &str, shape: &[usize], data_type: DataType) -> TensorProto {
    TensorProto {
        dims: shape.iter().map(|&dim| signed(dim)).collect(),
        data_type: data_type.into(),
        name: name.to_owned(),
        ..TensorProto::default()
    }
}

fn signed(size: usize) -> i64 {
    i64::try_from(size).expect("a size in memory fits in 63 bits")
}

/// Name of an initializer that belongs to an address:
/// `/decoder/layers.0/mlp/fc1`, `bias` → `decoder.layers.0.mlp.fc1.bias`
pub(super) fn initializer_name(address: &str, part: &str) -> String {
    format!("{}.{part}", address.trim_start_matches('/').replace('/', "."))
}
