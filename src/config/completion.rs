//! Auto-completion: `backend: "textgen"` alone is a whole configuration.

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    protocol::{
        ModelInterface,
        schema::{self, TensorSpec},
    },
    triton::DataType,
};

/// Reads and checks a configuration that is complete.
pub fn interface(config: &Value) -> Result<ModelInterface> {
    for (section, names) in [(INPUT, &schema::SOURCES[..]), (OUTPUT, &[schema::TEXT_OUTPUT])] {
        if !tensors(config, section).any(|tensor| names.contains(&tensor_name(tensor))) {
            return Err(Error::invalid_argument(format!(
                "config.pbtxt has no {section} `{}`; declare it, or declare nothing and let the server \
                 complete the configuration (no --disable-auto-complete-config)",
                names.join("` or `")
            )));
        }
    }
    check_declared(config, INPUT, &input_specs())?;
    check_declared(config, OUTPUT, schema::OUTPUTS)?;
    let declared = |name| tensors(config, OUTPUT).any(|tensor| tensor_name(tensor) == name);
    Ok(ModelInterface {
        batched: config.get("max_batch_size").and_then(Value::as_i64).unwrap_or(0) > 0,
        decoupled: config[POLICY]["decoupled"].as_bool().unwrap_or(false),
        outputs: schema::OUTPUTS.iter().map(|spec| spec.name).filter(|&name| declared(name)).collect(),
    })
}

const INPUT: &str = "input";
const OUTPUT: &str = "output";
const POLICY: &str = "model_transaction_policy";

/// Adds what the user did not declare: every input and output of a text model, and decoupled responses.
/// What is declared stays as it is; a declaration that cannot work is an error.
pub fn complete(mut config: Value) -> Result<Value> {
    check_declared(&config, INPUT, &input_specs())?;
    check_declared(&config, OUTPUT, schema::OUTPUTS)?;
    let fields = config
        .as_object_mut()
        .ok_or_else(|| Error::internal("the server's model configuration is not a JSON object"))?;
    // Not even the texts are required: a request may have a conversation in their place.
    add_missing(fields.entry(INPUT).or_insert(Value::Null), &input_specs(), |tensor| {
        tensor["optional"] = json!(true);
    });
    add_missing(fields.entry(OUTPUT).or_insert(Value::Null), schema::OUTPUTS, |_| {});
    // The message is absent unless the user wrote it, so `decoupled: false` is told from silence.
    if fields.get(POLICY).is_none_or(Value::is_null) {
        fields.insert(POLICY.into(), json!({"decoupled": true}));
    }
    Ok(config)
}

fn input_specs() -> Vec<TensorSpec> {
    schema::inputs().collect()
}

fn add_missing(list: &mut Value, specs: &[TensorSpec], finish: impl Fn(&mut Value)) {
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    for spec in specs {
        if list.iter().any(|tensor| tensor_name(tensor) == spec.name) {
            continue;
        }
        let mut tensor = json!({
            "name": spec.name,
            "data_type": spec.data_type.config_name(),
            "dims": [spec.arity.dim()],
        });
        finish(&mut tensor);
        list.push(tensor);
    }
}

/// Refuses tensors that the backend does not know, and types that it could not serve.
fn check_declared(config: &Value, section: &str, specs: &[TensorSpec]) -> Result<()> {
    for tensor in tensors(config, section) {
        let name = tensor_name(tensor);
        let Some(spec) = specs.iter().find(|spec| spec.name == name) else {
            let known: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
            return Err(Error::invalid_argument(format!(
                "config.pbtxt: {section} `{name}` is not known; known are {}",
                known.join(", ")
            )));
        };
        let got = tensor.get("data_type").and_then(Value::as_str).unwrap_or("no type");
        // Options are read from any number type that can hold them; what is sent has one type only.
        let accepted = if section == INPUT { readable(spec.data_type) } else { &[] };
        let fits = got == spec.data_type.config_name()
            || accepted.iter().any(|accepted| accepted.config_name() == got);
        if !fits {
            return Err(Error::invalid_argument(format!(
                "config.pbtxt: {section} `{name}` is {got}, expected {}",
                spec.data_type.config_name()
            )));
        }
    }
    Ok(())
}

/// Types that serve as well as the one that would be declared.
fn readable(data_type: DataType) -> &'static [DataType] {
    use DataType::*;
    match data_type {
        Int32 | Uint64 => &[Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64],
        Fp32 => &[Fp32, Fp64],
        _ => &[],
    }
}

fn tensors<'a>(config: &'a Value, section: &str) -> impl Iterator<Item = &'a Value> {
    config.get(section).and_then(Value::as_array).into_iter().flatten()
}

fn tensor_name(tensor: &Value) -> &str {
    tensor.get("name").and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_configuration_becomes_whole() {
        let config = complete(json!({"backend": "textgen", "max_batch_size": 0, "input": []})).unwrap();
        assert_eq!(config["input"].as_array().unwrap().len(), input_specs().len());
        assert_eq!(config["output"].as_array().unwrap().len(), schema::OUTPUTS.len());
        let optional = tensors(&config, INPUT).filter(|tensor| tensor["optional"] == json!(true)).count();
        assert_eq!(optional, input_specs().len());
        let interface = interface(&config).unwrap();
        assert_eq!((interface.batched, interface.decoupled), (false, true));
        assert_eq!(interface.outputs.len(), schema::OUTPUTS.len());
    }

    #[test]
    fn what_is_declared_stays() {
        let declared =
            json!({"name": "text_input", "data_type": "TYPE_STRING", "dims": [1], "optional": true});
        let config = complete(json!({
            "max_batch_size": 8,
            "model_transaction_policy": {"decoupled": false},
            "input": [declared, {"name": "max_tokens", "data_type": "TYPE_INT64", "dims": [1]}],
        }))
        .unwrap();
        assert_eq!(config["input"][0], declared);
        assert_eq!(config["input"].as_array().unwrap().len(), input_specs().len());
        let interface = interface(&config).unwrap();
        assert_eq!((interface.batched, interface.decoupled), (true, false));
    }

    #[test]
    fn declarations_that_cannot_work_are_refused() {
        for (section, name, data_type) in [
            ("input", "text_input", "TYPE_INT32"),
            ("input", "max_tokens", "TYPE_STRING"),
            ("input", "prompt", "TYPE_STRING"),
            ("output", "text_output", "TYPE_FP32"),
            ("output", "num_output_tokens", "TYPE_INT64"),
        ] {
            let error = complete(json!({section: [{"name": name, "data_type": data_type}]})).unwrap_err();
            assert!(error.message.contains(name), "{error}");
        }
        let error = interface(&json!({})).unwrap_err();
        assert!(error.message.contains("text_input"), "{error}");
        let declared = |input| {
            json!({"input": [{"name": input, "data_type": "TYPE_STRING"}],
                   "output": [{"name": "text_output", "data_type": "TYPE_STRING"}]})
        };
        assert!(interface(&declared("messages")).is_ok());
        assert!(interface(&declared("stop_words")).is_err());
    }
}
