//! Contract: whatever the plugin does with a request, the host sees exactly one FINAL, after at least one
//! response, and gets back all that it gave.

use super::{
    fake_host::{self as host, Event, FakeInput, stream},
    sys::*,
    *,
};
use crate::error::{Error, ErrorKind};

fn text(text: &str) -> OutputTensor {
    OutputTensor::strings("text_output", &[1], [text]).unwrap()
}

fn sent(text: &str, is_final: bool) -> Event {
    let mut data = (text.len() as u32).to_le_bytes().to_vec();
    data.extend(text.as_bytes());
    Event::Sent { outputs: vec![("text_output".into(), vec![1], data)], error: None, is_final }
}

fn failed(events: &[Event]) -> (u32, String) {
    let [Event::Sent { outputs, error: Some(error), is_final: true }, Event::FactoryDeleted] = events else {
        panic!("expected one error with FINAL, then the end: {events:?}");
    };
    assert!(outputs.is_empty());
    error.clone()
}

#[test]
fn final_comes_with_the_last_response_and_the_factory_goes_last() {
    let mut stream = stream();
    stream.send(&[text("a")]).unwrap();
    stream.send(&[text("é")]).unwrap();
    stream.finish(&[text("")]);
    assert_eq!(host::events(), [sent("a", false), sent("é", false), sent("", true), Event::FactoryDeleted]);
    assert_eq!(host::alive(), 0);
}

#[test]
fn final_without_a_response_comes_only_after_one() {
    let mut answered = stream();
    answered.send(&[text("a")]).unwrap();
    answered.finish_empty();
    assert_eq!(host::events(), [sent("a", false), Event::Final, Event::FactoryDeleted]);

    stream().finish_empty();
    let empty = Event::Sent { outputs: Vec::new(), error: None, is_final: true };
    assert_eq!(host::events(), [empty, Event::FactoryDeleted]);
    assert_eq!(host::alive(), 0);
}

#[test]
fn a_dropped_stream_answers_an_error() {
    drop(stream());
    let (code, message) = failed(&host::events());
    assert_eq!(code, TRITONSERVER_Error_Code::TRITONSERVER_ERROR_INTERNAL.0);
    assert!(message.contains("dropped"), "{message}");
    assert_eq!(host::alive(), 0);
}

#[test]
fn a_response_that_cannot_be_built_is_replaced_by_the_reason() {
    host::refuse_output("text_output");
    let mut inner = stream();
    assert_eq!(inner.send(&[text("a")]).unwrap_err().kind, ErrorKind::InvalidArgument);
    inner.fail(&Error::internal("x"));
    failed(&host::events());

    stream().finish(&[text("a")]);
    assert_eq!(failed(&host::events()).1, "unexpected output");
    assert_eq!(host::alive(), 0);
}

#[test]
fn every_kind_of_error_has_its_code() {
    use TRITONSERVER_Error_Code as Code;
    for (error, code) in [
        (Error::invalid_argument("x"), Code::TRITONSERVER_ERROR_INVALID_ARG),
        (Error::not_found("x"), Code::TRITONSERVER_ERROR_NOT_FOUND),
        (Error::unsupported("x"), Code::TRITONSERVER_ERROR_UNSUPPORTED),
        (Error::unavailable("x"), Code::TRITONSERVER_ERROR_UNAVAILABLE),
        (Error::cancelled("x"), Code::TRITONSERVER_ERROR_CANCELLED),
        (Error::internal("a\0b"), Code::TRITONSERVER_ERROR_INTERNAL),
    ] {
        stream().fail(&error);
        assert_eq!(failed(&host::events()), (code.0, error.message.replace('\0', "\u{fffd}")));
        let raw = guard::call("test", || Err(error.clone()));
        assert_eq!(super::error::check(raw).unwrap_err().kind, error.kind);
    }
    assert_eq!(host::alive(), 0);
}

#[test]
fn a_probe_outlives_the_stream_and_keeps_the_factory() {
    let stream = stream();
    let probe = stream.cancel_probe();
    assert!(!probe.is_cancelled());
    stream.fail(&Error::internal("x"));
    host::cancel();
    assert!(probe.is_cancelled());
    assert_eq!(host::events().len(), 1);
    drop(probe);
    assert_eq!(host::events(), [Event::FactoryDeleted]);
}

#[test]
fn no_panic_leaves_the_guard_and_execute_returns_no_error() {
    let raw = guard::call("TRITONBACKEND_Initialize", || panic!("boom"));
    let error = super::error::check(raw).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(error.message.contains("boom") && error.message.contains("Initialize"), "{error}");

    let accepted = unsafe { accept(host::request(Vec::new())) }.unwrap();
    let returned = guard::execute(move || {
        let (_request, _stream) = accepted;
        panic!("boom");
    });
    assert!(returned.is_null());
    let events = host::events();
    assert_eq!(events.iter().filter(|event| **event == Event::Released).count(), 1);
    assert!(events.iter().any(|event| matches!(event, Event::Sent { error: Some(_), is_final: true, .. })));
    assert_eq!(host::alive(), 0);
}

fn input(buffers: Vec<Option<Vec<u8>>>) -> FakeInput {
    FakeInput {
        name: c"text_input",
        data_type: TRITONSERVER_DataType::TRITONSERVER_TYPE_BYTES,
        shape: vec![1],
        byte_size: buffers.iter().flatten().map(|buffer| buffer.len() as u64).sum(),
        buffers,
        memory: TRITONSERVER_MemoryType::TRITONSERVER_MEMORY_CPU,
    }
}

fn read(inputs: Vec<FakeInput>, max_bytes: usize) -> crate::error::Result<RequestContent> {
    let (request, stream) = unsafe { accept(host::request(inputs)) }.unwrap();
    let content = request.read(max_bytes);
    drop((request, stream));
    content
}

#[test]
fn a_request_is_copied_whole() {
    let split = input(vec![Some(b"\x03\0".to_vec()), None, Some(b"\0\0abc".to_vec())]);
    let empty = FakeInput { shape: vec![0], ..input(Vec::new()) };
    let content = read(vec![split, empty], 7).unwrap();
    assert_eq!(content.inputs[0].strings().unwrap(), [b"abc"]);
    assert_eq!(content.inputs[1].strings().unwrap(), Vec::<&[u8]>::new());
    assert_eq!(content.outputs, ["text_output"]);
    assert_eq!(content.timeout_us, 5);
    let expected = [
        ("text", ParameterValue::Text("value".into())),
        ("int", ParameterValue::Int(-7)),
        ("bool", ParameterValue::Bool(true)),
        ("double", ParameterValue::Double(0.5)),
    ];
    assert_eq!(content.parameters, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn inputs_that_cannot_be_read_are_refused() {
    let data = || vec![Some(b"\x01\0\0\0a".to_vec())];
    let gpu = FakeInput { memory: TRITONSERVER_MemoryType::TRITONSERVER_MEMORY_GPU, ..input(data()) };
    let error = read(vec![gpu], 100).unwrap_err();
    assert!(error.kind == ErrorKind::Unsupported && error.message.contains("GPU 3"), "{error}");

    let error = read(vec![input(data()), input(data())], 9).unwrap_err();
    assert!(error.message.contains("max_input_bytes"), "{error}");

    for byte_size in [4, 6] {
        let error = read(vec![FakeInput { byte_size, ..input(data()) }], 100).unwrap_err();
        assert!(error.message.contains("text_input"), "{error}");
    }
    let strange = FakeInput { data_type: TRITONSERVER_DataType(99), ..input(data()) };
    assert_eq!(read(vec![strange], 100).unwrap_err().kind, ErrorKind::InvalidArgument);
    assert_eq!(host::alive(), 0);
}
