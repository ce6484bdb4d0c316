//! What the gateway has to know of a model before it can ask it.

use serde_json::Value;

use super::{reply::FINISH_REASON, wire};

/// Defaults of the backend's keys of the same names.
const MAX_SOURCE_TOKENS: usize = 512;
const MAX_TARGET_TOKENS: usize = 256;
const MAX_CONTEXT_TOKENS: usize = 4096;

/// Bytes of source text for each token of the target's limit; the translation is expected to fit.
const BYTES_PER_TARGET_TOKEN: usize = 2;

/// From a model's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// Counts how often the model became ready: what was cached for an earlier load is not for this one.
    pub epoch: u64,
    /// True for an ensemble: it has no options of its own, but hands on a request's parameters to its members.
    pub ensemble: bool,
    /// True when it can say why a text ends: an ensemble does where its configuration names the output.
    pub tells_end: bool,
    /// True when tensors have a batch dimension first.
    pub batched: bool,
    /// True when it can give its answer in pieces.
    pub streams: bool,
    /// True when it takes conversations.
    pub takes_messages: bool,
    /// True when its prompt names languages.
    pub names_languages: bool,
    /// Its key `languages`.
    pub languages: Option<String>,
    /// Bytes of a text that surely fit, source and target: a token is a byte or more of what it was made from.
    pub segment_bytes: usize,
}

impl ModelFacts {
    pub(super) fn of(config: &wire::ModelConfiguration, epoch: u64) -> Self {
        let key = |name: &str| config.parameters.get(name).map(|value| value.string_value.as_str());
        let number =
            |name: &str, default| key(name).and_then(|text| text.trim().parse().ok()).unwrap_or(default);
        let sampling = key("sampling_parameters").and_then(|text| serde_json::from_str::<Value>(text).ok());
        let asked =
            ["max_tokens", "max_length"].iter().find_map(|name| sampling.as_ref()?.get(name)?.as_u64());
        // A decoder-only model shares one context between prompt, template and answer; the others have limits for each.
        let context = number("max_context_tokens", MAX_CONTEXT_TOKENS) / 3;
        let source = number("max_source_tokens", MAX_SOURCE_TOKENS).saturating_sub(16);
        let target = asked.map_or(usize::MAX, |tokens| tokens as usize);
        let target =
            number("max_target_tokens", MAX_TARGET_TOKENS).min(target).saturating_mul(BYTES_PER_TARGET_TOKEN);
        Self {
            epoch,
            ensemble: config.platform == "ensemble",
            tells_end: config.output.iter().any(|output| output.name == FINISH_REASON),
            batched: config.max_batch_size > 0,
            streams: config.model_transaction_policy.is_some_and(|policy| policy.decoupled),
            takes_messages: config.input.iter().any(|input| input.name == "messages"),
            names_languages: key("prompt_template").is_some_and(|template| template.contains("tgt_lang")),
            languages: key("languages").map(str::to_owned),
            segment_bytes: context.min(source).min(target).max(32),
        }
    }
}
