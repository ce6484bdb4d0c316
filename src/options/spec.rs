//! The table of all options: every name, type and range, once.

use super::OptionValue;
use crate::error::{Error, Result, SHOWN, shortened};

/// One option.
#[derive(Debug)]
pub struct OptionSpec {
    pub(super) key: Key,
    /// The name, then its aliases.
    pub names: &'static [&'static str],
    /// Type and range.
    pub kind: OptionKind,
    /// What becomes of its values.
    pub service: Service,
}

/// What becomes of an option's values.
#[derive(Debug, Clone, Copy)]
pub enum Service {
    /// Each value changes what is done, unless it equals the default.
    Full,
    /// Nothing is built for it. The idle values ask for nothing and are accepted; any other is refused.
    Idle {
        /// Those that ask for nothing.
        values: &'static [OptionValue],
        /// What to do rather than give another one.
        instead: &'static str,
    },
    /// All of them are idle: no value could change anything here.
    Immaterial,
}

/// Type and range of an option; both ends of a range are allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptionKind {
    /// A whole number.
    Int {
        /// Smallest.
        min: i128,
        /// Largest.
        max: i128,
    },
    /// A number, kept in single precision.
    Float {
        /// Smallest.
        min: f32,
        /// Largest.
        max: f32,
    },
    /// A truth value.
    Bool,
    /// A string.
    Text,
    /// A list of non-empty strings; one string is a list of one, the empty string alone an empty list.
    List {
        /// Words at most.
        max_words: usize,
        /// Bytes of each at most.
        max_bytes: usize,
    },
    /// A JSON object of other options.
    Json,
    /// A JSON object.
    Object,
}

/// An option within the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    MaxTokens,
    MinTokens,
    TopK,
    BeamWidth,
    NumReturnSequences,
    EndId,
    PadId,
    Temperature,
    TopP,
    MinP,
    LengthPenalty,
    RepetitionPenalty,
    PresencePenalty,
    FrequencyPenalty,
    RandomSeed,
    StopWords,
    BadWords,
    Stream,
    ExcludeInputInOutput,
    ReturnLogProbs,
    ReturnFinishReason,
    ReturnCumulativeLogprob,
    ReturnNumInputTokens,
    ReturnNumOutputTokens,
    ReturnChoiceProbabilities,
    SamplingParameters,
    DecoderTextInput,
    GuidedDecodingGuide,
    GuidedDecodingGuideType,
    ApplyChatTemplate,
    SrcLang,
    TgtLang,
    ChatTemplateKwargs,
    SkipSpecialTokens,
}

/// Triton's INT32 holds every count and id.
const INT_MAX: i128 = i32::MAX as i128;
const SMALLEST_POSITIVE: f32 = f32::MIN_POSITIVE;

const fn int(key: Key, names: &'static [&'static str], min: i128, max: i128) -> OptionSpec {
    OptionSpec { key, names, kind: OptionKind::Int { min, max }, service: Service::Full }
}

const fn float(key: Key, names: &'static [&'static str], min: f32, max: f32) -> OptionSpec {
    OptionSpec { key, names, kind: OptionKind::Float { min, max }, service: Service::Full }
}

const fn flag(key: Key, names: &'static [&'static str]) -> OptionSpec {
    OptionSpec { key, names, kind: OptionKind::Bool, service: Service::Full }
}

const fn text(key: Key, names: &'static [&'static str]) -> OptionSpec {
    OptionSpec { key, names, kind: OptionKind::Text, service: Service::Full }
}

const fn list(key: Key, names: &'static [&'static str], max_words: usize) -> OptionSpec {
    OptionSpec { key, names, kind: OptionKind::List { max_words, max_bytes: 1024 }, service: Service::Full }
}

const fn object(key: Key, names: &'static [&'static str]) -> OptionSpec {
    OptionSpec { key, names, kind: OptionKind::Object, service: Service::Full }
}

/// An option of which only these values are accepted.
const fn idle(spec: OptionSpec, values: &'static [OptionValue], instead: &'static str) -> OptionSpec {
    OptionSpec { service: Service::Idle { values, instead }, ..spec }
}

const fn immaterial(spec: OptionSpec) -> OptionSpec {
    OptionSpec { service: Service::Immaterial, ..spec }
}

/// All options.
pub static OPTIONS: &[OptionSpec] = &[
    int(Key::MaxTokens, &["max_tokens", "max_length", "max_new_tokens"], 1, INT_MAX),
    int(Key::MinTokens, &["min_tokens", "min_length", "min_new_tokens"], 0, INT_MAX),
    // -1 is how some clients say 0: no limit.
    int(Key::TopK, &["top_k"], -1, INT_MAX),
    idle(
        int(Key::BeamWidth, &["beam_width"], 1, INT_MAX),
        &[OptionValue::Int(1)],
        "leave it out, or sample with num_return_sequences",
    ),
    int(Key::NumReturnSequences, &["num_return_sequences"], 1, 128),
    int(Key::EndId, &["end_id"], 0, INT_MAX),
    // Nothing is padded, so that no id could make a difference.
    immaterial(int(Key::PadId, &["pad_id"], i32::MIN as i128, INT_MAX)),
    float(Key::Temperature, &["temperature"], 0.0, 100.0),
    float(Key::TopP, &["top_p"], SMALLEST_POSITIVE, 1.0),
    float(Key::MinP, &["min_p"], 0.0, 1.0),
    // An exponent of the length: 0 does not weigh it, and 1 is what clients send who leave it alone.
    idle(
        float(Key::LengthPenalty, &["length_penalty"], f32::MIN, f32::MAX),
        &[OptionValue::Float(0.0), OptionValue::Float(1.0)],
        "leave it out; it weighs beams against each other, and there is only one",
    ),
    float(Key::RepetitionPenalty, &["repetition_penalty"], 0.01, 100.0),
    float(Key::PresencePenalty, &["presence_penalty"], -100.0, 100.0),
    float(Key::FrequencyPenalty, &["frequency_penalty"], -100.0, 100.0),
    int(Key::RandomSeed, &["random_seed", "seed"], 0, u64::MAX as i128),
    list(Key::StopWords, &["stop_words", "stop"], 64),
    list(Key::BadWords, &["bad_words"], 1024),
    flag(Key::Stream, &["stream"]),
    flag(Key::ExcludeInputInOutput, &["exclude_input_in_output"]),
    flag(Key::ReturnLogProbs, &["return_log_probs"]),
    flag(Key::ReturnFinishReason, &["return_finish_reason"]),
    flag(Key::ReturnCumulativeLogprob, &["return_cumulative_logprob"]),
    flag(Key::ReturnNumInputTokens, &["return_num_input_tokens"]),
    flag(Key::ReturnNumOutputTokens, &["return_num_output_tokens"]),
    flag(Key::ReturnChoiceProbabilities, &["return_choice_probabilities"]),
    OptionSpec {
        key: Key::SamplingParameters,
        names: &["sampling_parameters"],
        kind: OptionKind::Json,
        service: Service::Full,
    },
    text(Key::DecoderTextInput, &["decoder_text_input"]),
    text(Key::GuidedDecodingGuide, &["guided_decoding_guide"]),
    text(Key::GuidedDecodingGuideType, &["guided_decoding_guide_type"]),
    flag(Key::ApplyChatTemplate, &["apply_chat_template"]),
    text(Key::SrcLang, &["src_lang"]),
    text(Key::TgtLang, &["tgt_lang"]),
    object(Key::ChatTemplateKwargs, &["chat_template_kwargs"]),
    idle(
        flag(Key::SkipSpecialTokens, &["skip_special_tokens"]),
        &[OptionValue::Bool(true)],
        "leave it out; special tokens are never part of the text",
    ),
];

impl OptionSpec {
    /// The option that has `name` for its name or alias.
    pub fn find(name: &str) -> Option<&'static OptionSpec> {
        OPTIONS.iter().find(|spec| spec.names.contains(&name))
    }

    /// The error for a name that no option has.
    pub(super) fn unknown(name: &str) -> Error {
        let known = OPTIONS.iter().flat_map(|spec| spec.names).copied();
        let closest = known.map(|known| (edit_distance(name, known), known)).min();
        // Further away than this, the names have nothing to do with each other.
        let remedy = match closest {
            Some((distance, known)) if distance <= 2 + known.len() / 8 => format!("did you mean {known}?"),
            _ => "leave it out".to_owned(),
        };
        Error::invalid_argument(format!("{}: no option has this name; {remedy}", shortened(name, SHOWN)))
    }

    /// `value` in the form it is kept in, or why it is refused. `name` is the one the client used.
    pub(super) fn check(&self, name: &str, value: OptionValue) -> Result<OptionValue> {
        let got = describe(&value);
        let refused =
            || Error::invalid_argument(format!("{name}: got {got}, expected {}", self.expectation()));
        let checked = match (self.kind, value) {
            (OptionKind::Int { min, max }, OptionValue::Int(int)) if (min..=max).contains(&int) => {
                OptionValue::Int(int)
            }
            (OptionKind::Float { min, max }, OptionValue::Int(int)) => {
                single(int as f64, min, max).ok_or_else(refused)?
            }
            (OptionKind::Float { min, max }, OptionValue::Float(float)) => {
                single(float, min, max).ok_or_else(refused)?
            }
            (OptionKind::Bool, value @ OptionValue::Bool(_)) => value,
            (OptionKind::Text | OptionKind::Json, value @ OptionValue::Text(_)) => value,
            (OptionKind::Object, value @ OptionValue::Object(_)) => value,
            (OptionKind::Object, OptionValue::Text(json)) => {
                let object = serde_json::from_str(&json).map_err(|error| {
                    Error::invalid_argument(format!("{name}: got {error}, expected {}", self.expectation()))
                })?;
                OptionValue::Object(object)
            }
            (OptionKind::List { max_words, max_bytes }, OptionValue::Text(text)) => {
                let words = if text.is_empty() { Vec::new() } else { vec![text] };
                list_of(words, max_words, max_bytes).ok_or_else(refused)?
            }
            (OptionKind::List { max_words, max_bytes }, OptionValue::List(words)) => {
                let words = if words == [""] { Vec::new() } else { words };
                list_of(words, max_words, max_bytes).ok_or_else(refused)?
            }
            _ => return Err(refused()),
        };
        if let Service::Idle { values, instead } = self.service
            && !values.contains(&checked)
        {
            return Err(Error::unsupported(format!(
                "{name}: got {got}, which this build does not serve; {instead}"
            )));
        }
        Ok(checked)
    }

    /// Reads `text` as a value of this option's type: some clients send numbers as strings.
    pub(super) fn parse(&self, text: String) -> OptionValue {
        let parsed = match self.kind {
            OptionKind::Int { .. } => text.parse().ok().map(OptionValue::Int),
            OptionKind::Float { .. } => text.parse().ok().map(OptionValue::Float),
            OptionKind::Bool => text.parse().ok().map(OptionValue::Bool),
            OptionKind::Text | OptionKind::List { .. } | OptionKind::Json | OptionKind::Object => None,
        };
        parsed.unwrap_or(OptionValue::Text(text))
    }

    fn expectation(&self) -> String {
        match self.kind {
            OptionKind::Int { min, max } => format!("a whole number from {min} to {max}"),
            OptionKind::Float { min: SMALLEST_POSITIVE, max } => format!("a number above 0, up to {max}"),
            OptionKind::Float { min, max } => format!("a number from {min} to {max}"),
            OptionKind::Bool => "true or false".to_owned(),
            OptionKind::Text => "a string".to_owned(),
            OptionKind::List { max_words, max_bytes } => {
                format!("at most {max_words} strings of 1 to {max_bytes} bytes")
            }
            OptionKind::Json | OptionKind::Object => "a string that holds a JSON object".to_owned(),
        }
    }
}

/// Rounded to single precision, so that the same number is equal by whichever way it came.
fn single(value: f64, min: f32, max: f32) -> Option<OptionValue> {
    let value = value as f32;
    (value.is_finite() && (min..=max).contains(&value)).then(|| OptionValue::Float(f64::from(value)))
}

fn list_of(words: Vec<String>, max_words: usize, max_bytes: usize) -> Option<OptionValue> {
    let fits = words.len() <= max_words && words.iter().all(|word| (1..=max_bytes).contains(&word.len()));
    fits.then_some(OptionValue::List(words))
}

/// A value as an error message shows it.
pub(super) fn describe(value: &OptionValue) -> String {
    match value {
        OptionValue::Int(int) => int.to_string(),
        // A client's 0.9 is not 0.8999999761581421 to it, and 1e300 would fill the line.
        OptionValue::Float(float) if (*float as f32).is_finite() => format!("{:?}", *float as f32),
        OptionValue::Float(float) => format!("{float:?}"),
        OptionValue::Bool(flag) => flag.to_string(),
        OptionValue::Text(text) => format!("the string {:?}", shortened(text, SHOWN)),
        OptionValue::List(words) => match words.iter().max_by_key(|word| word.len()) {
            None => "an empty list".to_owned(),
            Some(longest) => format!("{} strings, the longest of {} bytes", words.len(), longest.len()),
        },
        OptionValue::Object(object) => format!("an object of {} keys", object.len()),
    }
}

/// Characters to insert, delete or replace to get from one name to the other (Levenshtein); upper case
/// counts as lower.
fn edit_distance(from: &str, to: &str) -> usize {
    let from = shortened(from, SHOWN).to_lowercase();
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (b, cell) in to.chars().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (diagonal + usize::from(a != b)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}
