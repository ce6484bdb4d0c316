//! What a client asks for, read from a request's tensors and parameters.

use std::time::Duration;

use super::{
    ModelInterface,
    schema::{self, Arity, TensorSpec},
};
use crate::{
    engine::FinishReason,
    error::{Error, Result, SHOWN, shortened},
    options::{OptionKind, OptionSpec, OptionValue, RequestOptions},
    prompt::{Conversation, PromptInput},
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

const INPUT: &str = "input";
const PARAMETER: &str = "parameter";

/// A request as its client meant it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientRequest {
    /// What the prompts are made of, at least one.
    pub inputs: Vec<PromptInput>,
    /// Which of them were cut short where they come from; empty when none was.
    pub cut_inputs: Vec<bool>,
    /// How they were laid out.
    pub layout: TextLayout,
    /// Options, from wherever they came.
    pub options: RequestOptions,
    /// Outputs that the client named; none when it left the choice to the model.
    pub outputs: Option<Vec<&'static str>>,
    /// The client's own limit on the whole request.
    pub timeout: Option<Duration>,
}

/// Shape of the texts or conversations.
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
        let source = match schema::SOURCES.map(find) {
            [Some(texts), None] => texts,
            [None, Some(messages)] => messages,
            [None, None] => {
                return Err(Error::invalid_argument(format!(
                    "the input `{}` is missing, and `{}` as well; send at least one text, or one conversation",
                    schema::TEXT_INPUT,
                    schema::MESSAGES
                )));
            }
            [Some(_), Some(_)] => {
                return Err(Error::invalid_argument(format!(
                    "the inputs `{}` and `{}` are both there; send one of them",
                    schema::TEXT_INPUT,
                    schema::MESSAGES
                )));
            }
        };
        let (inputs, layout) = read_source(source, interface.batched)?;
        let cut_inputs = match find(schema::SOURCE_FINISH_REASON) {
            Some(reasons) => read_reasons(reasons, inputs.len())?,
            None => Vec::new(),
        };

        let (mut tensors, mut parameters) = (Source::default(), Source::default());
        let is_option = |tensor: &&InputTensor| {
            !schema::SOURCES.contains(&tensor.name.as_str()) && tensor.name != schema::SOURCE_FINISH_REASON
        };
        for tensor in content.inputs.iter().filter(is_option) {
            let spec = schema::input(&tensor.name).ok_or_else(|| unknown(INPUT, &tensor.name))?;
            if let Some(value) = read_option(tensor, &spec, interface.batched)? {
                tensors.set(spec.name, value)?;
            }
        }
        for (name, value) in &content.parameters {
            if RequestOptions::knows(name) {
                parameters.set(name, option_of(name, value)?)?;
            } else if !is_foreign(name, value) {
                return Err(unknown(PARAMETER, name));
            }
        }
        let options = tensors.direct.over(parameters.direct).over(tensors.json).over(parameters.json);

        Ok(Self {
            inputs,
            cut_inputs,
            layout,
            options,
            outputs: named_outputs(&content.outputs, interface)?,
            timeout: Some(Duration::from_micros(content.timeout_us)).filter(|timeout| !timeout.is_zero()),
        })
    }
}

fn read_source(tensor: &InputTensor, batched: bool) -> Result<(Vec<PromptInput>, TextLayout)> {
    let read = |(index, bytes)| {
        let text = utf8(&tensor.name, index, bytes)?;
        if tensor.name != schema::MESSAGES {
            return Ok(PromptInput::Text(text));
        }
        let conversation = Conversation::parse(&text)
            .map_err(|error| error.context(format_args!("input `{}`: conversation {index}", tensor.name)))?;
        Ok(PromptInput::Conversation(conversation))
    };
    let inputs = tensor.strings()?.into_iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;
    if inputs.is_empty() {
        return Err(Error::invalid_argument(format!(
            "input `{}`: the shape {:?} holds nothing; send at least one",
            tensor.name, tensor.shape
        )));
    }
    let layout = if batched { TextLayout::Batch(rows(tensor, true)) } else { TextLayout::Flat };
    Ok((inputs, layout))
}

/// Which of so many texts were cut short.
fn read_reasons(tensor: &InputTensor, texts: usize) -> Result<Vec<bool>> {
    let known = [FinishReason::Stop, FinishReason::Length];
    let is_cut = |reason: &[u8]| match known.iter().find(|known| known.as_str().as_bytes() == reason) {
        Some(reason) => Ok(*reason == FinishReason::Length),
        None => Err(Error::invalid_argument(format!(
            "input `{}`: got {:?}, expected {}, as a model gives it",
            tensor.name,
            shortened(&String::from_utf8_lossy(reason), SHOWN),
            known.map(FinishReason::as_str).join(" or ")
        ))),
    };
    let cut: Vec<bool> = tensor.strings()?.into_iter().map(is_cut).collect::<Result<_>>()?;
    if cut.len() != texts {
        return Err(Error::invalid_argument(format!(
            "input `{}`: got {} reasons, expected {texts}, one for each text; leave it out where they are not known",
            tensor.name,
            cut.len()
        )));
    }
    Ok(cut)
}

/// Options from one place.
#[derive(Default)]
struct Source {
    /// Given by their own names.
    direct: RequestOptions,
    /// Given inside `sampling_parameters`.
    json: RequestOptions,
}

impl Source {
    fn set(&mut self, name: &str, value: OptionValue) -> Result<()> {
        let is_json = OptionSpec::find(name).is_some_and(|spec| spec.kind == OptionKind::Json);
        let options = if is_json { &mut self.json } else { &mut self.direct };
        options.set(name, value)
    }
}

/// A parameter that is not for us.
fn is_foreign(name: &str, value: &ParameterValue) -> bool {
    FOREIGN_PARAMETERS.contains(&name) || name.starts_with(FOREIGN_PREFIX) || is_header(name, value)
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
    if interface.outputs.iter().all(asked_for) {
        return Ok(None);
    }
    Ok(Some(interface.outputs.iter().copied().filter(asked_for).collect()))
}

fn unknown(kind: &str, name: &str) -> Error {
    let inputs = schema::inputs().map(|spec| spec.name);
    let known: Vec<&str> = inputs.filter(|known| kind == INPUT || !schema::SOURCES.contains(known)).collect();
    Error::invalid_argument(format!("unknown {kind} `{name}`; known are {}", known.join(", ")))
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

    const HELLO: &[u8] = br#"[{"role": "user", "content": "Hello"}]"#;

    fn text(text: &str) -> PromptInput {
        PromptInput::Text(text.to_owned())
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
        assert_eq!((request.inputs, request.layout), (vec![text("héé"), text("")], TextLayout::Flat));
        let batch = content(vec![strings("text_input", &[2, 1], &[b"a", b"b"])]);
        let request = ClientRequest::parse(&batch, &interface(true)).unwrap();
        assert_eq!((request.inputs.len(), request.layout), (2, TextLayout::Batch(2)));
    }

    #[test]
    fn texts_that_are_missing_empty_or_not_utf8_are_refused() {
        refused(&content(vec![]), false, &["text_input", "missing"]);
        refused(&content(vec![strings("text_input", &[0], &[])]), false, &["holds nothing"]);
        refused(&content(vec![strings("text_input", &[0, 1], &[])]), true, &["holds nothing"]);
        let broken = strings("text_input", &[2], &[b"fine", b"ab\xffc"]);
        refused(&content(vec![broken]), false, &["text 1", "byte 2"]);
        let both = vec![strings("text_input", &[1], &[b"a"]), strings("messages", &[1], &[HELLO])];
        refused(&content(both), false, &["text_input", "messages", "one of them"]);
    }

    #[test]
    fn texts_that_were_cut_are_known() {
        let texts = || strings("text_input", &[2], &[b"a", b"b"]);
        let cut = |reasons| ClientRequest::parse(&content(vec![texts(), reasons]), &interface(false));
        let reasons = strings("source_finish_reason", &[2], &[b"stop", b"length"]);
        assert_eq!(cut(reasons).unwrap().cut_inputs, [false, true]);
        let few = strings("source_finish_reason", &[1], &[b"stop"]);
        refused(&content(vec![texts(), few]), false, &["source_finish_reason", "got 1", "expected 2"]);
        let unknown = strings("source_finish_reason", &[2], &[b"stop", b"lenght"]);
        refused(
            &content(vec![texts(), unknown]),
            false,
            &["source_finish_reason", "\"lenght\"", "stop or length"],
        );
    }

    #[test]
    fn conversations_are_read_in_order() {
        let flat =
            content(vec![strings("messages", &[2], &[HELLO, br#"[{"role": "user", "content": "a"}]"#])]);
        let request = ClientRequest::parse(&flat, &interface(false)).unwrap();
        let hello = PromptInput::Conversation(Conversation::of_user("Hello".into()));
        assert_eq!((request.inputs.len(), &request.inputs[0]), (2, &hello));
        let batch = content(vec![strings("messages", &[2, 1], &[HELLO, HELLO])]);
        let request = ClientRequest::parse(&batch, &interface(true)).unwrap();
        assert_eq!((request.inputs, request.layout), (vec![hello; 2], TextLayout::Batch(2)));

        refused(&content(vec![strings("messages", &[0], &[])]), false, &["messages", "holds nothing"]);
        let broken = strings("messages", &[2], &[HELLO, b"[{}]"]);
        refused(&content(vec![broken]), false, &["messages", "conversation 1", "message 0", "`role`"]);
        let broken = strings("messages", &[2], &[HELLO, b"[\xff]"]);
        refused(&content(vec![broken]), false, &["messages", "text 1", "byte 1"]);
    }

    #[test]
    fn an_option_takes_one_value_that_the_whole_batch_shares() {
        let spec = schema::input("max_tokens").unwrap();
        let read = |tensor, batched| read_option(&tensor, &spec, batched);
        assert_eq!(read(ints("max_tokens", &[1], &[7]), false).unwrap(), Some(OptionValue::Int(7)));
        assert_eq!(read(ints("max_tokens", &[0], &[]), false).unwrap(), None);
        assert_eq!(read(ints("max_tokens", &[0, 1], &[]), true).unwrap(), None);
        assert_eq!(read(ints("max_tokens", &[2, 1], &[7, 7]), true).unwrap(), Some(OptionValue::Int(7)));
        assert!(read(ints("max_tokens", &[2], &[7, 7]), false).unwrap_err().message.contains("one value"));
        assert!(read(ints("max_tokens", &[2, 1], &[7, 8]), true).unwrap_err().message.contains("differs"));
        let words = schema::input("stop_words").unwrap();
        let read = |shape: &[i64], texts: &[&[u8]], batched| {
            read_option(&strings("stop_words", shape, texts), &words, batched)
        };
        let list = OptionValue::List(vec!["a".into(), "b".into()]);
        assert_eq!(read(&[2], &[b"a", b"b"], false).unwrap(), Some(list.clone()));
        assert_eq!(read(&[2, 2], &[b"a", b"b", b"a", b"b"], true).unwrap(), Some(list));
    }

    #[test]
    fn inputs_override_parameters_which_override_the_json() {
        let int = |number| ParameterValue::Int(number);
        let json = |text: &str| strings("sampling_parameters", &[1], &[text.as_bytes()]);
        let mut request = content(vec![
            strings("text_input", &[1], &[b"a"]),
            ints("top_k", &[1], &[1]),
            json(r#"{"top_k": 3, "max_tokens": 3, "seed": "3", "min_tokens": 3}"#),
        ]);
        request.parameters = vec![
            ("top_k".into(), int(2)),
            ("max_new_tokens".into(), int(2)),
            ("sampling_parameters".into(), ParameterValue::Text(r#"{"min_tokens": 4, "end_id": 4}"#.into())),
            ("priority".into(), int(1)),
        ];
        let mut expected = RequestOptions::default();
        for (name, value) in
            [("top_k", 1), ("max_new_tokens", 2), ("seed", 3), ("min_tokens", 3), ("end_id", 4)]
        {
            expected.set(name, OptionValue::Int(value)).unwrap();
        }
        assert_eq!(ClientRequest::parse(&request, &interface(false)).unwrap().options, expected);
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
