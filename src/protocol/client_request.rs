//! What a client asks for, read from a request's tensors and parameters.

use std::time::Duration;

use super::{
    ModelInterface,
    schema::{self, Arity, TensorSpec},
};
use crate::{
    error::{Error, Result},
    options::{OptionValue, RequestOptions},
    triton::{DataType, InputTensor, ParameterValue, RequestContent},
};

/// Parameters that are no options of ours: the server's own, and what clients send to any model.
const FOREIGN_PARAMETERS: &[&str] = &[
    "id",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "priority",
    "timeout",
    "headers",
    "binary_data_output",
];
const FOREIGN_PREFIX: &str = "triton_";

/// Headers of a single word. All others have a hyphen or a capital, and no option of ours does.
const HEADERS: &[&str] = &[
    "accept",
    "authorization",
    "b3",
    "baggage",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "from",
    "host",
    "origin",
    "pragma",
    "range",
    "referer",
    "traceparent",
    "tracestate",
    "via",
];

/// A request as its client meant it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientRequest {
    /// Source texts, at least one.
    pub texts: Vec<String>,
    /// How they were laid out.
    pub layout: TextLayout,
    /// Options, from wherever they came.
    pub options: RequestOptions,
    /// Outputs that the client named; none when it left the choice to the model.
    pub outputs: Option<Vec<&'static str>>,
    /// The client's own limit on the whole request.
    pub timeout: Option<Duration>,
}

/// Shape of the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextLayout {
    /// A list.
    Flat,
    /// So many rows of equally many texts.
    Batch(usize),
}

impl ClientRequest {
    /// Reads and checks a request.
    pub fn parse(content: &RequestContent, interface: &ModelInterface) -> Result<Self> {
        let find = |name| content.inputs.iter().find(|tensor| tensor.name == name);
        let text_input = find(schema::TEXT_INPUT).ok_or_else(|| {
            Error::invalid_argument(format!(
                "the input `{}` is missing; send at least one text",
                schema::TEXT_INPUT
            ))
        })?;
        let (texts, layout) = read_texts(text_input, interface.batched)?;

        // The later overrides the earlier.
        let mut options = RequestOptions::default();
        for json in sampling_parameters(content, interface.batched)? {
            options.set_json(&json).map_err(|error| error.context(schema::SAMPLING_PARAMETERS))?;
        }
        for (name, value) in &content.parameters {
            set_parameter(&mut options, name, value)?;
        }
        for tensor in &content.inputs {
            if [schema::TEXT_INPUT, schema::SAMPLING_PARAMETERS].contains(&tensor.name.as_str()) {
                continue;
            }
            let spec = schema::input(&tensor.name).ok_or_else(|| unknown_input(&tensor.name))?;
            if let Some(value) = read_option(tensor, spec, interface.batched)? {
                options.set(spec.name, value)?;
            }
        }

        Ok(Self {
            texts,
            layout,
            options,
            outputs: named_outputs(&content.outputs, interface)?,
            timeout: Some(Duration::from_micros(content.timeout_us)).filter(|timeout| !timeout.is_zero()),
        })
    }
}

fn read_texts(tensor: &InputTensor, batched: bool) -> Result<(Vec<String>, TextLayout)> {
    let texts = tensor
        .strings()?
        .into_iter()
        .enumerate()
        .map(|(index, bytes)| utf8(&tensor.name, index, bytes))
        .collect::<Result<Vec<String>>>()?;
    if texts.is_empty() {
        return Err(Error::invalid_argument(format!(
            "input `{}`: the shape {:?} holds no text; send at least one",
            tensor.name, tensor.shape
        )));
    }
    let layout = if batched { TextLayout::Batch(rows(tensor, true)) } else { TextLayout::Flat };
    Ok((texts, layout))
}

/// The JSON objects of `sampling_parameters`, those that hold last.
fn sampling_parameters(content: &RequestContent, batched: bool) -> Result<Vec<String>> {
    let spec =
        TensorSpec { name: schema::SAMPLING_PARAMETERS, data_type: DataType::Bytes, arity: Arity::One };
    let parameter = content.parameters.iter().find(|(name, _)| name == spec.name);
    let input = content.inputs.iter().find(|tensor| tensor.name == spec.name);
    let values = [
        parameter.map(|(name, value)| option_of(name, value)).transpose()?,
        input.map(|tensor| read_option(tensor, &spec, batched)).transpose()?.flatten(),
    ];
    values
        .into_iter()
        .flatten()
        .map(|value| match value {
            OptionValue::Text(json) => Ok(json),
            other => Err(Error::invalid_argument(format!(
                "{}: got {other:?}, expected a string that holds a JSON object",
                spec.name
            ))),
        })
        .collect()
}

fn set_parameter(options: &mut RequestOptions, name: &str, value: &ParameterValue) -> Result<()> {
    if RequestOptions::knows(name) {
        return options.set(name, option_of(name, value)?);
    }
    let foreign = name == schema::SAMPLING_PARAMETERS
        || FOREIGN_PARAMETERS.contains(&name)
        || name.starts_with(FOREIGN_PREFIX)
        || is_header(name, value);
    if foreign { Ok(()) } else { Err(unknown_parameter(name)) }
}

/// A request header that the server was told to forward.
fn is_header(name: &str, value: &ParameterValue) -> bool {
    let shaped = name.contains(|c: char| c == '-' || c.is_ascii_uppercase()) && !name.contains('_');
    matches!(value, ParameterValue::Text(_)) && (shaped || HEADERS.contains(&name))
}

fn option_of(name: &str, value: &ParameterValue) -> Result<OptionValue> {
    Ok(match value {
        ParameterValue::Text(text) => OptionValue::Text(text.clone()),
        ParameterValue::Int(number) => OptionValue::Int((*number).into()),
        ParameterValue::Bool(truth) => OptionValue::Bool(*truth),
        ParameterValue::Double(number) => OptionValue::Float(*number),
        ParameterValue::Unknown => {
            return Err(Error::invalid_argument(format!(
                "parameter `{name}`: its type is not known; send a string, a number or a truth value"
            )));
        }
    })
}

/// The value of an option tensor; none when it has no elements.
fn read_option(tensor: &InputTensor, spec: &TensorSpec, batched: bool) -> Result<Option<OptionValue>> {
    let mut values = elements(tensor)?;
    let rows = rows(tensor, batched);
    if values.is_empty() {
        return Ok(None);
    }
    let width = values.len() / rows.max(1);
    if values.chunks(width).any(|row| row != &values[..width]) {
        return Err(Error::invalid_argument(format!(
            "input `{}` differs between the entries of the batch; options hold for a whole request, so send \
             requests with different options one by one",
            tensor.name
        )));
    }
    values.truncate(width);
    match spec.arity {
        Arity::Many => values
            .into_iter()
            .map(|value| match value {
                OptionValue::Text(text) => Ok(text),
                other => Err(Error::invalid_argument(format!(
                    "input `{}`: got {other:?}, expected strings",
                    tensor.name
                ))),
            })
            .collect::<Result<_>>()
            .map(|list| Some(OptionValue::List(list))),
        Arity::One if width == 1 => Ok(values.pop()),
        Arity::One => Err(Error::invalid_argument(format!(
            "input `{}` takes one value, got {width} (shape {:?})",
            tensor.name, tensor.shape
        ))),
    }
}

/// Entries of the batch; 1 without a batch dimension.
fn rows(tensor: &InputTensor, batched: bool) -> usize {
    match tensor.shape.first() {
        Some(&first) if batched => usize::try_from(first).unwrap_or(0),
        _ => 1,
    }
}

fn elements(tensor: &InputTensor) -> Result<Vec<OptionValue>> {
    macro_rules! numbers {
        ($type:ty, $variant:ident, $wide:ty) => {
            tensor
                .fixed()?
                .into_iter()
                .map(|bytes| OptionValue::$variant(<$wide>::from(<$type>::from_le_bytes(bytes))))
                .collect()
        };
    }
    Ok(match tensor.data_type {
        DataType::Bytes => tensor
            .strings()?
            .into_iter()
            .enumerate()
            .map(|(index, bytes)| utf8(&tensor.name, index, bytes).map(OptionValue::Text))
            .collect::<Result<_>>()?,
        DataType::Bool => {
            tensor.fixed::<1>()?.into_iter().map(|[byte]| OptionValue::Bool(byte != 0)).collect()
        }
        DataType::Int8 => numbers!(i8, Int, i128),
        DataType::Int16 => numbers!(i16, Int, i128),
        DataType::Int32 => numbers!(i32, Int, i128),
        DataType::Int64 => numbers!(i64, Int, i128),
        DataType::Uint8 => numbers!(u8, Int, i128),
        DataType::Uint16 => numbers!(u16, Int, i128),
        DataType::Uint32 => numbers!(u32, Int, i128),
        DataType::Uint64 => numbers!(u64, Int, i128),
        DataType::Fp32 => numbers!(f32, Float, f64),
        DataType::Fp64 => numbers!(f64, Float, f64),
        DataType::Fp16 | DataType::Bf16 => {
            return Err(Error::invalid_argument(format!(
                "input `{}` is {}, expected TYPE_FP32",
                tensor.name,
                tensor.data_type.config_name()
            )));
        }
    })
}

fn utf8(input: &str, index: usize, bytes: &[u8]) -> Result<String> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|error| {
        Error::invalid_argument(format!(
            "input `{input}`: text {index} is not UTF-8 at byte {}",
            error.valid_up_to()
        ))
    })
}

/// The outputs a client named, by the schema's own names. The server gives all of the model's when the client
/// named none.
fn named_outputs(asked: &[String], interface: &ModelInterface) -> Result<Option<Vec<&'static str>>> {
    let asked_for = |name: &&'static str| asked.iter().any(|asked| asked == name);
    if let Some(unknown) = asked.iter().find(|asked| !interface.outputs.contains(&asked.as_str())) {
        return Err(Error::invalid_argument(format!(
            "unknown output `{unknown}`; known are {}",
            interface.outputs.join(", ")
        )));
    }
    if interface.outputs.iter().all(|name| asked_for(&name)) {
        return Ok(None);
    }
    Ok(Some(interface.outputs.iter().copied().filter(asked_for).collect()))
}

fn option_names() -> String {
    let names: Vec<&str> =
        schema::INPUTS.iter().map(|spec| spec.name).filter(|&name| name != schema::TEXT_INPUT).collect();
    names.join(", ")
}

fn unknown_input(name: &str) -> Error {
    Error::invalid_argument(format!(
        "unknown input `{name}`; known are {}, {}",
        schema::TEXT_INPUT,
        option_names()
    ))
}

fn unknown_parameter(name: &str) -> Error {
    Error::invalid_argument(format!("unknown parameter `{name}`; known are {}", option_names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(batched: bool) -> ModelInterface {
        ModelInterface {
            batched,
            decoupled: true,
            outputs: schema::OUTPUTS.iter().map(|spec| spec.name).collect(),
        }
    }

    fn strings(name: &str, shape: &[i64], texts: &[&[u8]]) -> InputTensor {
        let mut data = Vec::new();
        for text in texts {
            data.extend((text.len() as u32).to_le_bytes());
            data.extend(*text);
        }
        InputTensor { name: name.into(), data_type: DataType::Bytes, shape: shape.into(), data }
    }

    fn ints(name: &str, shape: &[i64], values: &[i32]) -> InputTensor {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        InputTensor { name: name.into(), data_type: DataType::Int32, shape: shape.into(), data }
    }

    fn content(inputs: Vec<InputTensor>) -> RequestContent {
        RequestContent { inputs, ..Default::default() }
    }

    fn refused(content: &RequestContent, batched: bool, parts: &[&str]) {
        let error = ClientRequest::parse(content, &interface(batched)).unwrap_err();
        assert_eq!(error.kind, crate::error::ErrorKind::InvalidArgument);
        for part in parts {
            assert!(error.message.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn texts_are_read_in_order() {
        let flat = content(vec![strings("text_input", &[2], &["héé".as_bytes(), b""])]);
        let request = ClientRequest::parse(&flat, &interface(false)).unwrap();
        assert_eq!((request.texts, request.layout), (vec!["héé".into(), String::new()], TextLayout::Flat));
        let batch = content(vec![strings("text_input", &[2, 1], &[b"a", b"b"])]);
        let request = ClientRequest::parse(&batch, &interface(true)).unwrap();
        assert_eq!((request.texts.len(), request.layout), (2, TextLayout::Batch(2)));
    }

    #[test]
    fn texts_that_are_missing_empty_or_not_utf8_are_refused() {
        refused(&content(vec![]), false, &["text_input", "missing"]);
        refused(&content(vec![strings("text_input", &[0], &[])]), false, &["holds no text"]);
        refused(&content(vec![strings("text_input", &[0, 1], &[])]), true, &["holds no text"]);
        let broken = strings("text_input", &[2], &[b"fine", b"ab\xffc"]);
        refused(&content(vec![broken]), false, &["text 1", "byte 2"]);
    }

    #[test]
    fn an_option_takes_one_value_that_the_whole_batch_shares() {
        let spec = schema::input("max_tokens").unwrap();
        let read = |tensor, batched| read_option(&tensor, spec, batched);
        assert_eq!(read(ints("max_tokens", &[1], &[7]), false).unwrap(), Some(OptionValue::Int(7)));
        assert_eq!(read(ints("max_tokens", &[0], &[]), false).unwrap(), None);
        assert_eq!(read(ints("max_tokens", &[0, 1], &[]), true).unwrap(), None);
        assert_eq!(read(ints("max_tokens", &[2, 1], &[7, 7]), true).unwrap(), Some(OptionValue::Int(7)));
        assert!(read(ints("max_tokens", &[2], &[7, 7]), false).unwrap_err().message.contains("one value"));
        assert!(read(ints("max_tokens", &[2, 1], &[7, 8]), true).unwrap_err().message.contains("differs"));
        let words = schema::input("stop_words").unwrap();
        let read = |shape: &[i64], texts: &[&[u8]], batched| {
            read_option(&strings("stop_words", shape, texts), words, batched)
        };
        let list = OptionValue::List(vec!["a".into(), "b".into()]);
        assert_eq!(read(&[2], &[b"a", b"b"], false).unwrap(), Some(list.clone()));
        assert_eq!(read(&[2, 2], &[b"a", b"b", b"a", b"b"], true).unwrap(), Some(list));
    }

    #[test]
    fn named_outputs_are_honoured() {
        let all: Vec<String> = schema::OUTPUTS.iter().map(|spec| spec.name.to_owned()).collect();
        assert_eq!(named_outputs(&all, &interface(false)).unwrap(), None);
        let one = [schema::LOGPROBS.to_owned()];
        assert_eq!(named_outputs(&one, &interface(false)).unwrap(), Some(vec![schema::LOGPROBS]));
        assert!(named_outputs(&["text".to_owned()], &interface(false)).is_err());
    }

    #[test]
    fn headers_and_the_servers_own_parameters_pass() {
        let text = ParameterValue::Text(String::new());
        for header in ["X-Request-Id", "x-request-id", "Accept", "host"] {
            assert!(is_header(header, &text), "{header}");
        }
        for other in ["max_token", "Max_Tokens", "temperatur"] {
            assert!(!is_header(other, &text), "{other}");
        }
        assert!(!is_header("x-request-id", &ParameterValue::Int(1)));
    }

    #[test]
    fn unknown_names_are_refused_with_the_list_of_known_ones() {
        let mut request = content(vec![strings("text_input", &[1], &[b"a"])]);
        request.parameters = vec![("max_token".into(), ParameterValue::Int(1))];
        refused(&request, false, &["`max_token`", "max_tokens", "sampling_parameters"]);
        let request = content(vec![strings("text_input", &[1], &[b"a"]), ints("top", &[1], &[1])]);
        refused(&request, false, &["`top`", "top_k"]);
    }
}
