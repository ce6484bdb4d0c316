//! The keys of an OpenAI request: what is understood, what asks for nothing, and the rest, which is refused by name.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{
    doors::body,
    error::{ApiError, Result},
    services::{MAX_TEMPERATURE, MAX_TOP_K, Wanted},
    settings::Options,
};

/// Keys that tell about a request rather than ask for something.
const NO_MATTER: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];
/// Keys that are known and not served, each with the values, in JSON, that ask for nothing: what happens anyway, or what
/// clients send for what they do not use. Any other value is refused. Null is idle everywhere.
const IDLE: &[(&str, &[&str])] = &[
    ("add_generation_prompt", &["true"]),
    ("add_special_tokens", &["false"]),
    ("bad_words", &["[]"]),
    ("best_of", &["1"]),
    ("continue_final_message", &["false"]),
    ("documents", &["[]"]),
    ("early_stopping", &["false"]),
    ("echo", &["false"]),
    ("function_call", &[r#""none""#, r#""auto""#]),
    ("functions", &["[]"]),
    ("ignore_eos", &["false"]),
    ("include_stop_str_in_output", &["false"]),
    ("length_penalty", &["0", "1"]),
    ("logit_bias", &["{}", "[]"]),
    ("logprobs", &["false", "0"]),
    ("min_tokens", &["0"]),
    ("modalities", &[r#"["text"]"#, "[]"]),
    ("response_format", &[r#"{"type": "text"}"#]),
    ("return_tokens_as_token_ids", &["false"]),
    ("skip_special_tokens", &["true"]),
    ("stop_token_ids", &["[]"]),
    ("suffix", &[r#""""#]),
    ("tool_choice", &[r#""none""#, r#""auto""#]),
    ("tools", &["[]"]),
    ("top_logprobs", &["0"]),
    ("use_beam_search", &["false"]),
    ("verbosity", &[r#""medium""#]),
];
const UNKNOWN: &str = "is unknown, or not supported; leave it out";
/// Characters of an unknown key that an error repeats.
const SHOWN: usize = 64;
/// Samples of one request at most.
const MAX_SAMPLES: u32 = 20;
/// The backend's option with the arguments of the chat template.
const CHAT_TEMPLATE_KWARGS: &str = "chat_template_kwargs";
/// Keys of a chat request that stand for an argument of the chat template.
const TEMPLATE_FLAGS: [(&str, &str); 3] = [
    ("add_generation_prompt", "add_generation_prompt"),
    ("enable_thinking", "enable_thinking"),
    ("think", "enable_thinking"),
];

/// What has not been read yet of a request.
pub struct Fields {
    rest: Map<String, Value>,
    /// Arguments of the chat template by the keys that gave them.
    template_flags: BTreeMap<&'static str, &'static str>,
}

impl Fields {
    /// Nulls and what changes nothing are left out.
    pub fn new(mut object: Map<String, Value>) -> Self {
        object.retain(|name, value| !value.is_null() && !NO_MATTER.contains(&name.as_str()));
        Self { rest: object, template_flags: BTreeMap::new() }
    }

    /// The value of a key, if it is there.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let value = self.rest.remove(name);
        value.map(|value| body::of_value(value).map_err(|error| error.at(name))).transpose()
    }

    /// The value of a key that has to be there.
    pub fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        self.take(name)?.ok_or_else(|| ApiError::invalid_argument("is missing").at(name))
    }

    /// A text, or a list of them.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>> {
        match self.need(name)? {
            Value::String(text) => Ok(vec![text]),
            list => body::of_value(list).map_err(|error: ApiError| error.at(name)),
        }
    }

    /// The arguments of the chat template, as the backend's option takes them.
    pub fn chat_template_kwargs(&mut self) -> Result<Options> {
        let mut arguments: Map<String, Value> = self.take(CHAT_TEMPLATE_KWARGS)?.unwrap_or_default();
        for (key, argument) in TEMPLATE_FLAGS {
            let Some(flag) = self.take::<bool>(key)? else { continue };
            // It happens anyway, whatever the template.
            if key == "add_generation_prompt" && flag {
                continue;
            }
            match arguments.insert(argument.to_owned(), flag.into()) {
                Some(other) if other != flag => {
                    let earlier = self.template_flags.get(argument).copied();
                    let earlier = earlier.map_or(format!("{CHAT_TEMPLATE_KWARGS}.{argument}"), str::to_owned);
                    return Err(ApiError::invalid_argument(format!(
                        "got {flag}, but {earlier} is {other}; leave out one of the two"
                    ))
                    .at(key));
                }
                Some(_) => {}
                None => {
                    self.template_flags.insert(argument, key);
                }
            }
        }
        let mut options = Options::new();
        if !arguments.is_empty() {
            options.insert(CHAT_TEMPLATE_KWARGS.to_owned(), Value::Object(arguments));
        }
        Ok(options)
    }

    /// Whether a stream ends with the tokens that were used; an answer in one piece always has them.
    pub fn include_usage(&mut self) -> Result<bool> {
        let options: Map<String, Value> = self.take("stream_options")?.unwrap_or_default();
        let mut include_usage = false;
        for (name, value) in options {
            let error = match (name.as_str(), value) {
                (_, Value::Null) | ("include_obfuscation", Value::Bool(false)) => continue,
                ("include_usage", Value::Bool(include)) => {
                    include_usage = include;
                    continue;
                }
                ("include_usage", _) => "expected true or false",
                _ => UNKNOWN,
            };
            let name: String = name.chars().take(SHOWN).collect();
            return Err(ApiError::invalid_argument(error).at(&format!("stream_options.{name}")));
        }
        Ok(include_usage)
    }

    /// The options of sampling, as the backend names them.
    pub fn options(&mut self) -> Result<Options> {
        let mut wanted = Wanted::over(&Options::new());
        wanted.number("temperature", self.take("temperature")?, 0.0..=MAX_TEMPERATURE)?;
        wanted.share("top_p", self.take("top_p")?)?;
        wanted.integer("top_k", self.take("top_k")?, 0..=MAX_TOP_K)?;
        wanted.number("min_p", self.take("min_p")?, 0.0..=1.0)?;
        for name in ["presence_penalty", "frequency_penalty"] {
            wanted.number(name, self.take(name)?, -2.0..=2.0)?;
        }
        wanted.number("repetition_penalty", self.take("repetition_penalty")?, 0.01..=10.0)?;
        let max_tokens: [Option<u32>; 2] = [self.take("max_completion_tokens")?, self.take("max_tokens")?];
        if let [Some(new), Some(old)] = max_tokens
            && new != old
        {
            let error = format!("got {old}, but max_completion_tokens is {new}; leave out one of the two");
            return Err(ApiError::invalid_argument(error).at("max_tokens"));
        }
        wanted.integer("max_tokens", max_tokens[0].or(max_tokens[1]), 1..=1 << 20)?;
        wanted.seed(self.take("seed")?);
        let mut stops = if self.rest.contains_key("stop") { self.texts("stop")? } else { Vec::new() };
        stops.retain(|stop| !stop.is_empty());
        if !stops.is_empty() {
            wanted.put("stop_words", json!(stops));
        }
        wanted.integer("n", self.take("n")?, 1..=MAX_SAMPLES)?;
        let mut options = wanted.options();
        let samples = options.remove("n").unwrap_or(json!(1));
        // The API's own default, where the model's may be one answer only.
        if samples != 1 && !options.contains_key("temperature") {
            options.insert("temperature".to_owned(), json!(1.0));
        }
        options.insert("num_return_sequences".to_owned(), samples);
        Ok(options)
    }

    /// Refuses what is left, unless it asks for nothing.
    pub fn end(self) -> Result<Renamed> {
        for (name, value) in &self.rest {
            let error = match IDLE.iter().find(|(known, _)| known == name) {
                Some((_, idle)) if idle.iter().any(|idle| is_same(idle, value)) => continue,
                Some((_, idle)) => format!("only {} is supported; leave it out otherwise", idle.join(" or ")),
                None => UNKNOWN.to_owned(),
            };
            let name: String = name.chars().take(SHOWN).collect();
            return Err(ApiError::invalid_argument(error).at(&name));
        }
        Ok(Renamed(self.template_flags))
    }
}

/// True when `value` is what `json` says; 1 and 1.0 are the same.
fn is_same(json: &str, value: &Value) -> bool {
    let Ok(said) = serde_json::from_str::<Value>(json) else { return false };
    said == *value || said.is_number() && said.as_f64() == value.as_f64()
}

/// The client's keys behind the backend's names.
pub struct Renamed(BTreeMap<&'static str, &'static str>);

impl Renamed {
    /// An error of the backend about arguments of the chat template, in the client's words.
    pub fn told(&self, error: ApiError) -> ApiError {
        let prefix = format!("{CHAT_TEMPLATE_KWARGS}.");
        let Some((argument, reason)) =
            error.message.strip_prefix(&prefix).and_then(|rest| rest.split_once(": "))
        else {
            return error;
        };
        let told = ApiError { message: reason.to_owned(), ..error.clone() };
        match self.0.get(argument) {
            Some(key) => told.at(key),
            None => ApiError {
                param: Some(CHAT_TEMPLATE_KWARGS.to_owned()),
                ..told.at(&format!("{prefix}{argument}"))
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(object: Value) -> Fields {
        let Value::Object(object) = object else { panic!("{object} is no object") };
        Fields::new(object)
    }

    #[test]
    fn each_known_key_has_values_that_ask_for_nothing_and_others_are_refused() {
        for (name, idle) in IDLE {
            for value in *idle {
                let value: Value = serde_json::from_str(value).unwrap();
                assert!(fields(json!({(*name): value})).end().is_ok(), "{name} {value}");
            }
            for value in [json!(true), json!(false), json!(7), json!(["x"]), json!({"x": 1}), json!("x")] {
                let is_idle = idle.iter().any(|idle| is_same(idle, &value));
                let ended = fields(json!({(*name): value})).end();
                assert_eq!(ended.is_ok(), is_idle, "{name} {value}");
                assert_eq!(ended.err().and_then(|error| error.param), (!is_idle).then(|| (*name).to_owned()));
            }
        }
        let mut names: Vec<_> = IDLE.iter().map(|(name, _)| name).collect();
        names.dedup();
        assert!(names.len() == IDLE.len() && names.is_sorted(), "in order, each once");
        for value in [json!(false), json!([]), json!({}), json!(0), json!("")] {
            assert_eq!(fields(json!({"sing": value})).end().err().unwrap().param.as_deref(), Some("sing"));
        }
        assert!(fields(json!({"sing": null, "tools": null, "best_of": 1.0})).end().is_ok());
    }

    #[test]
    fn options_of_a_stream_are_known_or_refused() {
        let usage = |options: Value| fields(json!({"stream_options": options})).include_usage();
        assert!(usage(json!({"include_usage": true, "include_obfuscation": false})).unwrap());
        for options in
            [json!(null), json!({}), json!({"include_usage": false}), json!({"include_usage": null})]
        {
            assert!(!usage(options).unwrap());
        }
        for (options, param) in [
            (json!({"include_usage": "yes"}), "stream_options.include_usage"),
            (json!({"include_obfuscation": true}), "stream_options.include_obfuscation"),
            (json!({"usage": true}), "stream_options.usage"),
            (json!([]), "stream_options"),
        ] {
            assert_eq!(usage(options).unwrap_err().param.as_deref(), Some(param));
        }
    }

    #[test]
    fn two_limits_are_one() {
        let limit = |request: Value| fields(request).options().map(|options| options["max_tokens"].clone());
        assert_eq!(limit(json!({"max_tokens": 5, "max_completion_tokens": 5})).unwrap(), 5);
        assert_eq!(limit(json!({"max_completion_tokens": 7})).unwrap(), 7);
        for request in [
            json!({"max_tokens": 5, "max_completion_tokens": 7}),
            json!({"max_tokens": "x", "max_completion_tokens": 7}),
        ] {
            assert_eq!(limit(request).unwrap_err().param.as_deref(), Some("max_tokens"));
        }
    }

    #[test]
    fn flags_are_arguments_of_the_template() {
        for (request, expected) in [
            (json!({}), None),
            (json!({"enable_thinking": null, "add_generation_prompt": true}), None),
            (json!({"enable_thinking": false}), Some(json!({"enable_thinking": false}))),
            (json!({"think": true}), Some(json!({"enable_thinking": true}))),
            (json!({"think": true, "enable_thinking": true}), Some(json!({"enable_thinking": true}))),
            (json!({"add_generation_prompt": false}), Some(json!({"add_generation_prompt": false}))),
            (
                json!({"chat_template_kwargs": {"a": [1], "enable_thinking": false}, "think": false}),
                Some(json!({"a": [1], "enable_thinking": false})),
            ),
        ] {
            let options = fields(request.clone()).chat_template_kwargs().unwrap();
            assert_eq!(options.get(CHAT_TEMPLATE_KWARGS), expected.as_ref(), "{request}");
        }
        for (request, param) in [
            (json!({"think": "no"}), "think"),
            (json!({"enable_thinking": 0}), "enable_thinking"),
            (json!({"think": true, "enable_thinking": false}), "think"),
            (
                json!({"chat_template_kwargs": {"enable_thinking": true}, "enable_thinking": false}),
                "enable_thinking",
            ),
            (json!({"chat_template_kwargs": "{}"}), "chat_template_kwargs"),
        ] {
            let error = fields(request).chat_template_kwargs().unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
        }
    }

    #[test]
    fn errors_speak_of_the_client_s_keys() {
        let mut asked = fields(json!({"think": false, "chat_template_kwargs": {"a": 1}}));
        asked.chat_template_kwargs().unwrap();
        let renamed = asked.end().unwrap();
        for (message, told, param) in [
            ("chat_template_kwargs.enable_thinking: not used", "think: not used", Some("think")),
            (
                "chat_template_kwargs.a: not used",
                "chat_template_kwargs.a: not used",
                Some("chat_template_kwargs"),
            ),
            ("something else", "something else", None),
        ] {
            let error = renamed.told(ApiError::invalid_argument(message));
            assert_eq!((&*error.message, error.param.as_deref()), (told, param));
        }
    }
}
