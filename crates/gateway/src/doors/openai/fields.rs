//! The keys of an OpenAI request: what is understood, what changes nothing, and the rest, which is refused by name.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{
    doors::body,
    error::{ApiError, Result},
    services::Wanted,
    settings::Options,
};

/// Keys that tell about a request rather than ask for something.
const NO_MATTER: [&str; 9] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "verbosity",
];
/// Samples of one request at most.
const MAX_SAMPLES: u32 = 20;

/// What has not been read yet of a request.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Nulls and what changes nothing are left out.
    pub fn new(mut object: Map<String, Value>) -> Self {
        object.retain(|name, value| !value.is_null() && !NO_MATTER.contains(&name.as_str()));
        Self(object)
    }

    /// The value of a key, if it is there.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let value = self.0.remove(name);
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

    /// Refuses a key unless it has the value that asks for nothing.
    pub fn only(&mut self, name: &str, idle: &Value) -> Result<()> {
        match self.0.remove(name) {
            Some(value) if value != *idle => {
                Err(ApiError::invalid_argument("is not supported; leave it out").at(name))
            }
            _ => Ok(()),
        }
    }

    /// The options of sampling, as the backend names them.
    pub fn options(&mut self) -> Result<Options> {
        let mut wanted = Wanted::over(&Options::new());
        wanted.number("temperature", self.take("temperature")?, 0.0..=2.0)?;
        wanted.share("top_p", self.take("top_p")?)?;
        wanted.integer("top_k", self.take("top_k")?, 0..=1000)?;
        wanted.number("min_p", self.take("min_p")?, 0.0..=1.0)?;
        for name in ["presence_penalty", "frequency_penalty"] {
            wanted.number(name, self.take(name)?, -2.0..=2.0)?;
        }
        wanted.number("repetition_penalty", self.take("repetition_penalty")?, 0.01..=10.0)?;
        let max_tokens = match self.take("max_completion_tokens")? {
            Some(count) => {
                self.0.remove("max_tokens");
                Some(count)
            }
            None => self.take("max_tokens")?,
        };
        wanted.integer("max_tokens", max_tokens, 1..=1 << 20)?;
        wanted.seed(self.take("seed")?);
        let mut stops = if self.0.contains_key("stop") { self.texts("stop")? } else { Vec::new() };
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

    /// Refuses what is left.
    pub fn end(self) -> Result<()> {
        match self.0.into_iter().find(|(_, value)| !asks_nothing(value)) {
            Some((name, _)) => {
                let name: String = name.chars().take(64).collect();
                Err(ApiError::invalid_argument("is unknown, or not supported; leave it out").at(&name))
            }
            None => Ok(()),
        }
    }
}

/// Clients send empty lists and objects for what they do not use.
fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(truth) => !truth,
        _ => false,
    }
}
