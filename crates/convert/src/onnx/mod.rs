//! The part of `onnx.proto` that the graphs use, declared by hand so that no protobuf compiler is needed.
//!
//! Field numbers are those of <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>. The format is proto2:
//! a field whose presence means something is an `Option`.

use prost::Message;

/// Format that goes with [`OPSET_VERSION`].
pub const IR_VERSION: i64 = 10;
/// Version of the operators of the empty domain.
pub const OPSET_VERSION: i64 = 21;
/// The same for the graphs of a device: those on the CPU stay with the version they are tested with.
pub const DEVICE_OPSET_VERSION: i64 = 24;
/// Domain of ONNX Runtime's own operators, and its only version.
pub const MICROSOFT_DOMAIN: &str = "com.microsoft";
pub const MICROSOFT_VERSION: i64 = 1;

#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    #[prost(string, tag = "2")]
    pub producer_name: String,
    #[prost(string, tag = "3")]
    pub producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Types of the values between the nodes; a reader needs none.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    pub domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    #[prost(enumeration = "AttributeType", tag = "20")]
    pub r#type: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum AttributeType {
    Undefined = 0,
    Float = 1,
    Int = 2,
    String = 3,
    Ints = 7,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    #[prost(enumeration = "DataType", tag = "2")]
    pub data_type: i32,
    #[prost(string, tag = "8")]
    pub name: String,
    /// Little-endian values; none when the data is external.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    /// `location`, `offset` and `length` of external data.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    #[prost(enumeration = "DataLocation", optional, tag = "14")]
    pub data_location: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum DataType {
    Undefined = 0,
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Int32 = 6,
    Int64 = 7,
    Bool = 9,
    Float16 = 10,
    Bfloat16 = 16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum DataLocation {
    Default = 0,
    External = 1,
}

#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    #[prost(enumeration = "DataType", tag = "1")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub value: Option<DimensionValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum DimensionValue {
    #[prost(int64, tag = "1")]
    DimValue(i64),
    #[prost(string, tag = "2")]
    DimParam(String),
}

impl ModelProto {
    /// A model of one graph, with the operator sets of graphs on the CPU.
    pub fn of(graph: GraphProto) -> Self {
        let ours = opset(textgen_artifact::ops::DOMAIN, textgen_artifact::ops::DOMAIN_VERSION);
        Self::with_opsets(
            graph,
            vec![opset("", OPSET_VERSION), opset(MICROSOFT_DOMAIN, MICROSOFT_VERSION), ours],
        )
    }

    /// The same with the operator sets of graphs on a device.
    pub fn for_device(graph: GraphProto) -> Self {
        let opsets = vec![opset("", DEVICE_OPSET_VERSION), opset(MICROSOFT_DOMAIN, MICROSOFT_VERSION)];
        Self::with_opsets(graph, opsets)
    }

    fn with_opsets(graph: GraphProto, opset_import: Vec<OperatorSetIdProto>) -> Self {
        Self {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(graph),
            opset_import,
        }
    }
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.to_owned(), version }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model that the reference implementation wrote: every field that we use, among them an attribute of 0
    /// and an input left out.
    const REFERENCE: &str = "\
        080a1201701a01763ae6010a5d0a01780a000a017712001201791a042f612f62220e43726f7373417474656e74696f6e2a0c\
        0a046d6f646522016da001032a100a096e756d5f68656164731800a001022a0f0a057363616c65150000003fa001013a0774\
        65787467656e12076465636f6465722a410802080310034201776a170a086c6f636174696f6e120b776569676874732e6269\
        6e6a0e0a066f66667365741204343039366a0b0a066c656e67746812013670012a0d100142036f6e654a040000803f5a190a\
        017812140a120801120e0a081206746f6b656e730a020803620f0a0179120a0a08080712040a02080442040a00101542110a\
        0d636f6d2e6d6963726f736f66741001420b0a077465787467656e1001";

    #[test]
    fn models_are_read_and_written_as_the_reference_does() {
        let bytes: Vec<u8> = (0..REFERENCE.len() / 2)
            .map(|i| u8::from_str_radix(&REFERENCE[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let model = ModelProto::decode(bytes.as_slice()).unwrap();
        let graph = model.graph.as_ref().unwrap();
        let node = &graph.node[0];
        assert_eq!((node.name.as_str(), node.domain.as_str()), ("/a/b", "textgen"));
        assert_eq!(node.input, ["x", "", "w"]);
        assert_eq!(node.attribute[1].i, Some(0));
        assert_eq!(node.attribute[2].f, Some(0.5));
        assert_eq!(graph.initializer[0].dims, [2, 3]);
        assert_eq!(graph.initializer[0].external_data[1].value, "4096");
        assert_eq!(model.opset_import[0].version, OPSET_VERSION);

        // The empty domain is written or left out; nothing else may differ.
        let written = model.encode_to_vec();
        assert_eq!(ModelProto::decode(written.as_slice()).unwrap(), model);
        assert_eq!(written.len(), bytes.len() - 2);
    }
}
