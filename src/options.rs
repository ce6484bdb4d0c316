//! The options of a request by name: one table for Triton inputs, request parameters, `sampling_parameters`
//! and the command line.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use serde_json::{Map, Value};
use textgen_artifact::GenerationSpec;

use crate::{
    decoding::SamplingParams,
    error::{Error, Result},
    prompt::PromptOptions,
    tokenizer::Tokenizer,
};

mod guide;
mod spec;

use spec::{Key, describe};
pub use spec::{OPTIONS, OptionKind, OptionSpec, Service};

/// Tokens that sampling chooses from when neither the request nor the model says: Hugging Face's default.
const DEFAULT_TOP_K: i128 = 50;

/// A value as a client sent it.
#[derive(Debug, Clone, PartialEq)]
pub enum OptionValue {
    /// An integer of any width.
    Int(i128),
    /// A floating-point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list of strings, as stop words.
    List(Vec<String>),
    /// A JSON object, as the arguments of a template.
    Object(Map<String, Value>),
}

/// Options as the client gave them, checked one by one; what was not given is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestOptions {
    given: BTreeMap<Key, Given>,
}

#[derive(Debug, Clone, PartialEq)]
struct Given {
    /// The alias that was used.
    name: &'static str,
    value: OptionValue,
}

impl RequestOptions {
    /// True for a name that [`RequestOptions::set`] knows, aliases included.
    pub fn knows(name: &str) -> bool {
        OptionSpec::find(name).is_some()
    }

    /// Sets one option; refuses unknown names, wrong types and values out of range, and a second value that
    /// differs from the first, under whichever alias. `sampling_parameters` sets what it holds.
    pub fn set(&mut self, name: &str, value: OptionValue) -> Result<()> {
        let spec = OptionSpec::find(name).ok_or_else(|| OptionSpec::unknown(name))?;
        let value = spec.check(name, value)?;
        if let (OptionKind::Json, OptionValue::Text(json)) = (spec.kind, &value) {
            return self.set_json(json).map_err(|error| error.context(name));
        }
        let name = spec.names.iter().copied().find(|known| *known == name).unwrap_or_default();
        if let Some(earlier) = self.given.get(&spec.key)
            && earlier.value != value
        {
            return Err(Error::invalid_argument(format!(
                "{name}: got {}, but {} has already given {}; give it once",
                describe(&value),
                earlier.name,
                describe(&earlier.value)
            )));
        }
        self.given.insert(spec.key, Given { name, value });
        Ok(())
    }

    /// These options without those that only texts have: defaults of a model must not lock out conversations.
    pub fn of_conversations(mut self) -> Self {
        for key in [Key::SrcLang, Key::TgtLang, Key::ApplyChatTemplate, Key::ExcludeInputInOutput] {
            self.given.remove(&key);
        }
        self
    }

    /// These options, and those of `weaker` that are not among them. Of two objects each key counts for itself.
    pub fn over(mut self, weaker: Self) -> Self {
        for (key, given) in weaker.given {
            match self.given.entry(key) {
                Entry::Vacant(vacant) => {
                    vacant.insert(given);
                }
                Entry::Occupied(mut held) => {
                    if let (OptionValue::Object(ours), OptionValue::Object(theirs)) =
                        (&mut held.get_mut().value, given.value)
                    {
                        theirs.into_iter().for_each(|(name, value)| {
                            ours.entry(name).or_insert(value);
                        });
                    }
                }
            }
        }
        self
    }

    /// True when arguments of the chat template are among them.
    pub fn have_chat_template_kwargs(&self) -> bool {
        self.given.contains_key(&Key::ChatTemplateKwargs)
    }

    /// Sets every option of a JSON object (`sampling_parameters`). Numbers and truth values may be strings; null
    /// means not given.
    pub fn set_json(&mut self, json: &str) -> Result<()> {
        let object: Map<String, Value> = serde_json::from_str(json).map_err(|error| {
            Error::invalid_argument(format!(
                "got {error}, expected a JSON object of options, such as {{\"top_k\": 5}}"
            ))
        })?;
        for (name, value) in object {
            let spec = OptionSpec::find(&name).ok_or_else(|| OptionSpec::unknown(&name))?;
            if spec.kind == OptionKind::Json {
                return Err(Error::invalid_argument(format!(
                    "{name}: it cannot hold itself; give the options directly"
                )));
            }
            let value = match value {
                Value::Null => continue,
                Value::Bool(flag) => OptionValue::Bool(flag),
                Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                    (Some(int), _, _) => OptionValue::Int(int.into()),
                    (_, Some(int), _) => OptionValue::Int(int.into()),
                    (_, _, float) => OptionValue::Float(float.unwrap_or(f64::NAN)),
                },
                Value::String(text) => spec.parse(text),
                // Within JSON a guide need not be JSON in a string.
                Value::Array(_) if spec.key == Key::GuidedDecodingGuide => {
                    OptionValue::Text(value.to_string())
                }
                Value::Array(items) => OptionValue::List(strings(&name, items)?),
                Value::Object(object) => OptionValue::Object(object),
            };
            self.set(&name, value)?;
        }
        Ok(())
    }

    /// Fills in the model's defaults and checks what depends on more than one option.
    ///
    /// Sampling happens at a temperature above 0. Without one in the request it is the model's, if the model
    /// samples by default; else it is 1 when the request asks for a choice among tokens (`top_k` above 1,
    /// `top_p` below 1 or `min_p` above 0), and 0, greedy, when it does not. `top_k` 1 is greedy always.
    pub fn resolve(&self, defaults: &GenerationSpec, tokenizer: &Tokenizer) -> Result<ResolvedOptions> {
        let mut params = SamplingParams {
            max_new_tokens: self.count_or(Key::MaxTokens, defaults.max_new_tokens)?.unwrap_or(usize::MAX),
            min_new_tokens: self.count(Key::MinTokens).unwrap_or(0),
            repetition_penalty: self.float_or(Key::RepetitionPenalty, defaults.repetition_penalty, 1.0)?,
            presence_penalty: self.float_or(Key::PresencePenalty, None, 0.0)?,
            frequency_penalty: self.float_or(Key::FrequencyPenalty, None, 0.0)?,
            bad_words: self.bad_words(tokenizer)?,
            suppress_tokens: defaults.suppress_tokens.clone(),
            eos_token_ids: self.end_tokens(defaults, tokenizer)?,
            stop_words: self.list(Key::StopWords).to_vec(),
            seed: self.int(Key::RandomSeed).and_then(|seed| u64::try_from(seed).ok()),
            num_return_sequences: self.count(Key::NumReturnSequences).unwrap_or(1),
            logprobs: self.flag(Key::ReturnLogProbs, false) || self.flag(Key::ReturnCumulativeLogprob, false),
            choice_probabilities: self.flag(Key::ReturnChoiceProbabilities, false),
            ..SamplingParams::default()
        };
        self.resolve_sampling(defaults, &mut params)?;
        let choices = guide::choices(self)?;
        if choices.is_none() && params.choice_probabilities {
            return Err(Error::invalid_argument(
                "return_choice_probabilities: got true without choices, expected them in guided_decoding_guide, with \
                 guided_decoding_guide_type \"choice\"; give them, or leave it out",
            ));
        }
        if let Some(choices) = &choices {
            guide::guide(choices, self.count(Key::MaxTokens), &mut params, tokenizer)?;
        }
        if params.min_new_tokens > params.max_new_tokens {
            return Err(Error::invalid_argument(format!(
                "min_tokens: got {}, which is more than max_tokens, {}; raise the one or lower the other",
                params.min_new_tokens, params.max_new_tokens
            )));
        }
        if params.num_return_sequences > 1 && params.temperature == 0.0 {
            return Err(Error::invalid_argument(format!(
                "num_return_sequences: got {}, but greedy decoding has one result only; give a temperature above 0, \
                 and a top_k other than 1",
                params.num_return_sequences
            )));
        }
        let choice_probabilities = params.choice_probabilities;
        Ok(ResolvedOptions {
            params,
            choices,
            decoder_prefix: match self.non_empty(Key::DecoderTextInput) {
                Some(text) => tokenizer.encode_target(text)?,
                None => Vec::new(),
            },
            prompt: PromptOptions {
                apply_chat_template: self.bool(Key::ApplyChatTemplate),
                src_lang: self.non_empty(Key::SrcLang).map(str::to_owned),
                tgt_lang: self.non_empty(Key::TgtLang).map(str::to_owned),
                chat_template_kwargs: self.object(Key::ChatTemplateKwargs),
            },
            stream: self.flag(Key::Stream, false),
            exclude_input_in_output: self.flag(Key::ExcludeInputInOutput, true),
            outputs: OutputOptions {
                log_probs: self.flag(Key::ReturnLogProbs, false),
                finish_reason: self.flag(Key::ReturnFinishReason, false),
                cumulative_logprob: self.flag(Key::ReturnCumulativeLogprob, false),
                num_input_tokens: self.flag(Key::ReturnNumInputTokens, false),
                num_output_tokens: self.flag(Key::ReturnNumOutputTokens, false),
                choice_probabilities,
            },
        })
    }

    fn resolve_sampling(&self, defaults: &GenerationSpec, params: &mut SamplingParams) -> Result<()> {
        let top_p = self.float_or(Key::TopP, defaults.top_p, 1.0)?;
        let min_p = self.float_or(Key::MinP, defaults.min_p, 0.0)?;
        let wants_choice = self.int(Key::TopK).is_some_and(|top_k| top_k > 1)
            || self.float(Key::TopP).is_some_and(|top_p| top_p < 1.0)
            || self.float(Key::MinP).is_some_and(|min_p| min_p > 0.0);
        let temperature = if defaults.do_sample {
            self.float_or(Key::Temperature, defaults.temperature, 1.0)?
        } else {
            self.float_or(Key::Temperature, None, if wants_choice { 1.0 } else { 0.0 })?
        };
        let model_top_k = defaults.top_k.map(|top_k| i128::try_from(top_k).unwrap_or(i128::MAX));
        let top_k = self.int(Key::TopK).or(model_top_k).unwrap_or(DEFAULT_TOP_K);
        if temperature > 0.0 && top_k != 1 {
            params.temperature = temperature;
            // A negative one means no limit, as 0 does.
            params.top_k = usize::try_from(top_k).unwrap_or(0);
            params.top_p = top_p;
            params.min_p = min_p;
        }
        Ok(())
    }

    fn end_tokens(&self, defaults: &GenerationSpec, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let Some(id) = self.int(Key::EndId) else { return Ok(defaults.eos_token_ids.clone()) };
        match u32::try_from(id) {
            Ok(token) if (token as usize) < tokenizer.vocab_size() => Ok(vec![token]),
            _ => Err(Error::invalid_argument(format!(
                "end_id: got {id}, expected a token of the model, below {}; leave it out for the model's own",
                tokenizer.vocab_size()
            ))),
        }
    }

    /// A word has other tokens at the start of a word than within one, so both are forbidden.
    fn bad_words(&self, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
        let mut sequences = Vec::new();
        for word in self.list(Key::BadWords) {
            for text in [word.clone(), format!(" {word}")] {
                let tokens = tokenizer.encode_target(&text)?;
                if !tokens.is_empty() && !sequences.contains(&tokens) {
                    sequences.push(tokens);
                }
            }
        }
        Ok(sequences)
    }

    fn value(&self, key: Key) -> Option<&OptionValue> {
        self.given.get(&key).map(|given| &given.value)
    }

    fn int(&self, key: Key) -> Option<i128> {
        match self.value(key) {
            Some(OptionValue::Int(int)) => Some(*int),
            _ => None,
        }
    }

    fn count(&self, key: Key) -> Option<usize> {
        self.int(key).and_then(|int| usize::try_from(int).ok())
    }

    fn float(&self, key: Key) -> Option<f32> {
        match self.value(key) {
            Some(OptionValue::Float(float)) => Some(*float as f32),
            _ => None,
        }
    }

    /// The request's number, else the model's, else `fallback`.
    fn float_or(&self, key: Key, model: Option<f32>, fallback: f32) -> Result<f32> {
        match (self.float(key), model) {
            (Some(float), _) => Ok(float),
            (None, Some(model)) => {
                check_default(key, OptionValue::Float(model.into()))?;
                Ok(model)
            }
            (None, None) => Ok(fallback),
        }
    }

    /// The request's count, else the model's; limits of the model beyond a request's range are cut to it.
    fn count_or(&self, key: Key, model: Option<usize>) -> Result<Option<usize>> {
        match (self.count(key), model) {
            (None, Some(model)) => {
                let model = i32::try_from(model).unwrap_or(i32::MAX);
                check_default(key, OptionValue::Int(model.into()))?;
                Ok(usize::try_from(model).ok())
            }
            (count, _) => Ok(count),
        }
    }

    fn bool(&self, key: Key) -> Option<bool> {
        match self.value(key) {
            Some(OptionValue::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    fn flag(&self, key: Key, default: bool) -> bool {
        self.bool(key).unwrap_or(default)
    }

    /// An empty text is how some clients say nothing.
    fn non_empty(&self, key: Key) -> Option<&str> {
        match self.value(key) {
            Some(OptionValue::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn object(&self, key: Key) -> Map<String, Value> {
        match self.value(key) {
            Some(OptionValue::Object(object)) => object.clone(),
            _ => Map::new(),
        }
    }

    fn list(&self, key: Key) -> &[String] {
        match self.value(key) {
            Some(OptionValue::List(words)) => words,
            _ => &[],
        }
    }
}

/// A default of the model has to be in range like a client's value.
fn check_default(key: Key, value: OptionValue) -> Result<()> {
    let Some(spec) = OPTIONS.iter().find(|spec| spec.key == key) else { return Ok(()) };
    let name = spec.names.first().copied().unwrap_or_default();
    spec.check(name, value).map_err(|error| error.context("generation defaults of the model"))?;
    Ok(())
}

fn strings(name: &str, items: Vec<Value>) -> Result<Vec<String>> {
    let text = |item| match item {
        Value::String(text) => Ok(text),
        _ => {
            Err(Error::invalid_argument(format!("{name}: got a list of other things, expected strings only")))
        }
    };
    items.into_iter().map(text).collect()
}

/// Options ready for the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedOptions {
    /// For the engine.
    pub params: SamplingParams,
    /// The texts of `params.guide`, in the client's order; none without one.
    pub choices: Option<Arc<[String]>>,
    /// A forced prefix of the target (`decoder_text_input`).
    pub decoder_prefix: Vec<u32>,
    /// How texts become prompts.
    pub prompt: PromptOptions,
    /// One response for each piece of text, rather than one at the end.
    pub stream: bool,
    /// False repeats the source text before the target's.
    pub exclude_input_in_output: bool,
    /// Which extra outputs the client wants.
    pub outputs: OutputOptions,
}

/// Outputs beyond the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputOptions {
    /// `logprobs`
    pub log_probs: bool,
    /// `finish_reason`
    pub finish_reason: bool,
    /// `cumulative_logprob`
    pub cumulative_logprob: bool,
    /// `num_input_tokens`
    pub num_input_tokens: bool,
    /// `num_output_tokens`
    pub num_output_tokens: bool,
    /// `choice_probabilities`
    pub choice_probabilities: bool,
}

#[cfg(test)]
mod tests;
