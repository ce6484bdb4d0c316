//! Every configuration key, once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use serde_json::{Map, Value};
use textgen_languages::Languages;

use crate::{
    engine::{EngineOptions, ExecutorLimits, PromptLookup},
    error::{Error, Result},
    model::{ArenaExtendStrategy, CudaOptions, ExecutorOptions, MayShrink, Placement, locate_runtime},
    options::RequestOptions,
    prompt::{self, PromptSettings, PromptTemplate},
    text_model::{ModelOptions, TextSide},
};

/// A key whose value is a whole number.
struct Key {
    name: &'static str,
    min: u64,
    max: u64,
    /// None where it depends on the machine.
    default: Option<u64>,
    scope: Scope,
}

/// Where a key may be set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// In a model's configuration, or for all models on the server's command line.
    Model,
    /// On the server's command line only: it bounds the process.
    Process,
}

/// Threads of one model step, per instance. More help until the memory bandwidth is used up; more than the
/// processors that the process may use slow every step down. Default: those processors.
const INTRA_OP_THREADS: Key = model("intra_op_threads", 1, 1024, None);
/// Sequences decoded at once, per instance. Each holds its caches all the time, so memory grows with it; more
/// share one reading of the weights, so throughput grows until arithmetic is the bound. On a GPU without the memory, and
/// when it is not set, as many as fit; then the lengths below, when they are not set, may be lower too.
const MAX_SEQUENCES: Key = model("max_sequences", 1, 4096, Some(32));
/// Longest source in tokens; a longer one is refused. Memory of the cross-attention caches grows with it.
const MAX_SOURCE_TOKENS: Key = model("max_source_tokens", 1, 1 << 20, Some(512));
/// Longest target in tokens, a forced prefix included. Memory of the self-attention caches grows with it.
const MAX_TARGET_TOKENS: Key = model("max_target_tokens", 1, 1 << 20, Some(256));
/// Longest context of a decoder-only model in tokens, prompt and generated text together; the model may allow
/// less. Memory of the caches grows with it.
const MAX_CONTEXT_TOKENS: Key = model("max_context_tokens", 2, 1 << 20, Some(4096));
/// Requests that may wait, per instance; one more is answered UNAVAILABLE at once.
const MAX_QUEUE_REQUESTS: Key = model("max_queue_requests", 1, 1 << 20, Some(1024));
/// Source tokens that one run of the encoder may hold. More let waiting requests start sooner; running
/// streams stand still meanwhile.
const MAX_ENCODE_TOKENS: Key = model("max_encode_tokens", 1, 1 << 24, Some(512));
/// Prompt tokens that one step of a decoder-only model may hold beside streams that wait for their next token, at
/// most. The engine takes as many as make a step about twice as long as one without; a lower bound here keeps the
/// streams' pace steadier, and a long prompt waiting longer. While no stream waits, `max_encode_tokens` is the bound.
const MAX_PREFILL_TOKENS: Key = model("max_prefill_tokens", 1, 1 << 24, Some(256));
/// Tokens that one sequence may draft in a step, at most: where it repeats its source, its prompt or itself, what
/// followed there is fed along and kept as far as the model says the same. No answer changes. 0 drafts nothing. Not
/// for models with recurrent states.
const PROMPT_LOOKUP_NUM_TOKENS: Key = model("prompt_lookup_num_tokens", 0, 1024, Some(0));
/// How many of the last tokens, at most, are compared to find the place that is repeated.
const MAX_MATCHING_NGRAM_SIZE: Key = model("max_matching_ngram_size", 1, 1024, Some(3));
/// Sequences (texts × `num_return_sequences`) that one request may ask for.
const MAX_REQUEST_SEQUENCES: Key = model("max_request_sequences", 1, 1 << 20, Some(1024));
/// Bytes of all inputs of one request together.
const MAX_INPUT_BYTES: Key = model("max_input_bytes", 1, 1 << 32, Some(1 << 20));
/// Time for a whole request in milliseconds, waiting included; past it the request is answered UNAVAILABLE.
/// A request's own `timeout` can only shorten it. 0 means no limit: then only a cancelled request ends early.
/// Keep it below the server's `--exit-timeout-secs`: nothing tells the plugin of a shutdown while HTTP requests
/// run, and a server that cuts them off then crashes on its way out.
const REQUEST_TIMEOUT_MS: Key = model("request_timeout_ms", 0, 1 << 40, Some(25_000));
/// Time in milliseconds that running requests get to finish once the model is being unloaded; what is left is
/// answered UNAVAILABLE. A server that shuts down first lets its HTTP connections finish, for up to its
/// `--exit-timeout-secs`, and then closes them, which cancels their requests.
const DRAIN_TIMEOUT_MS: Key = model("drain_timeout_ms", 0, 1 << 40, Some(20_000));
/// Responses that all models together send in a second; pieces of text that come faster are merged into
/// fewer responses. The server's HTTP door loses responses, without a word, when they come much faster than
/// it writes them.
const MAX_RESPONSES_PER_SECOND: Key = Key {
    name: "max_responses_per_second",
    min: 1,
    max: 1_000_000,
    default: Some(10_000),
    scope: Scope::Process,
};
/// Path of ONNX Runtime's shared library; a relative one starts at the model's folder. Default: the file
/// `libonnxruntime.so`, or the last `libonnxruntime.so.*`, beside the plugin.
const RUNTIME_LIBRARY: &str = "runtime_library";
/// Jinja template around plain texts, with the variables `text`, `src_lang` and `tgt_lang`. A language has `.code`,
/// `.name` (English), `.chinese` and `.native`, and is undefined when the request does not give it; a variable that
/// is used and undefined is an error. A chat model takes the result for the user's turn.
const PROMPT_TEMPLATE: &str = "prompt_template";
/// Languages that `prompt_template` can name: codes separated by commas, and others as `code=English name=Chinese
/// name`. Default: all that [`Languages`] knows.
const LANGUAGES: &str = "languages";
/// JSON object: arguments of the model's chat template, below those of a request, key by key. One that the template does
/// not use fails the load.
const CHAT_TEMPLATE_KWARGS: &str = prompt::CHAT_TEMPLATE_KWARGS;
/// Whether special tokens in a client's messages, and in texts that a template goes around, are what they stand for. If
/// not, they are tokenized as text, and cannot end a turn or begin another one. Default: false. Encoder-decoder models
/// always parse them, as plain prompts do.
const PARSE_SPECIAL_TOKENS: &str = "parse_special_tokens";
/// JSON object of request options: defaults of this model, below what a request says and above what the
/// checkpoint's generation configuration does.
const SAMPLING_PARAMETERS: &str = "sampling_parameters";
/// Whether a prompt of a decoder-only model starts from the cache of an earlier sequence that begins alike.
/// Default: true.
const PREFIX_REUSE: &str = "prefix_reuse";
/// Bytes that one instance may take of a GPU's memory when it loads: weights, caches and what its steps need. With a limit and
/// without `max_sequences`, as many sequences are decoded at once as fit, at most 256. 0 means no limit.
const GPU_MEM_LIMIT: Key = model("gpu_mem_limit", 0, 1 << 48, Some(0));
/// How ONNX Runtime's memory on a GPU grows: `kSameAsRequested` takes what is needed, `kNextPowerOfTwo` twice as much in fewer steps.
const ARENA_EXTEND_STRATEGY: &str = "arena_extend_strategy";
/// Whether a GPU multiplies fp32 with 10 bits of mantissa, several times as fast. Default: true.
const USE_TF32: &str = "use_tf32";
/// Whether a GPU replays a recorded step instead of having each kernel launched. Each number of rows is recorded on
/// its own, which takes memory. Default: false.
const ENABLE_CUDA_GRAPH: &str = "enable_cuda_graph";
/// Whether a GPU computes with cuDNN what it can; then that library must be there. Default: false.
const ENABLE_CUDNN: &str = "enable_cudnn";
/// Bit mask of the attention kernels that a GPU may use, as ONNX Runtime numbers them; 0 leaves the choice to it.
const SDPA_KERNEL: Key = model("sdpa_kernel", 0, 1 << 20, Some(0));
/// Whether a GPU encodes sources between the steps of the decoder rather than beside them, all on one stream. Default:
/// false.
const SHARE_STREAM: &str = "share_stream";

/// Keys whose value is no number, with their defaults as the README says them where it gives a value.
const TEXTS: [(&str, Option<&str>); 12] = [
    (RUNTIME_LIBRARY, None),
    (PROMPT_TEMPLATE, None),
    (LANGUAGES, None),
    (CHAT_TEMPLATE_KWARGS, None),
    (PARSE_SPECIAL_TOKENS, Some("false")),
    (SAMPLING_PARAMETERS, None),
    (PREFIX_REUSE, Some("true")),
    (ARENA_EXTEND_STRATEGY, Some("kSameAsRequested")),
    (USE_TF32, Some("true")),
    (ENABLE_CUDA_GRAPH, Some("false")),
    (ENABLE_CUDNN, Some("false")),
    (SHARE_STREAM, Some("false")),
];

const NUMBERS: [&Key; 17] = [
    &INTRA_OP_THREADS,
    &MAX_SEQUENCES,
    &MAX_SOURCE_TOKENS,
    &MAX_TARGET_TOKENS,
    &MAX_CONTEXT_TOKENS,
    &MAX_QUEUE_REQUESTS,
    &MAX_ENCODE_TOKENS,
    &MAX_PREFILL_TOKENS,
    &PROMPT_LOOKUP_NUM_TOKENS,
    &MAX_MATCHING_NGRAM_SIZE,
    &MAX_REQUEST_SEQUENCES,
    &MAX_INPUT_BYTES,
    &REQUEST_TIMEOUT_MS,
    &DRAIN_TIMEOUT_MS,
    &MAX_RESPONSES_PER_SECOND,
    &GPU_MEM_LIMIT,
    &SDPA_KERNEL,
];

const fn model(name: &'static str, min: u64, max: u64, default: Option<u64>) -> Key {
    Key { name, min, max, default, scope: Scope::Model }
}

/// What the server's command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendConfig {
    settings: BTreeMap<String, String>,
}

impl BackendConfig {
    /// Reads the backend's configuration, `{"cmdline": {key: value}}`.
    pub fn parse(json: &Value) -> Result<Self> {
        let mut settings = BTreeMap::new();
        for (key, value) in json.get("cmdline").and_then(Value::as_object).into_iter().flatten() {
            // The server puts its own keys beside ours; they have hyphens, and ours never do.
            if key.contains('-') && check_name(&key.replace('-', "_")).is_err() {
                continue;
            }
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            check_name(key)
                .and_then(|()| check_value(key, &value))
                .map_err(|error| error.context(format_args!("--backend-config=textgen,{key}={value}")))?;
            settings.insert(key.clone(), value);
        }
        Ok(Self { settings })
    }

    /// See [`MAX_RESPONSES_PER_SECOND`].
    pub fn max_responses_per_second(&self) -> Result<u64> {
        Settings { model: &BTreeMap::new(), process: &self.settings }.number(&MAX_RESPONSES_PER_SECOND)
    }
}

/// How one model is served.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// For the model itself.
    pub options: ModelOptions,
    /// Sequences that one request may ask for.
    pub max_request_sequences: usize,
    /// Bytes of all inputs of one request together.
    pub max_input_bytes: usize,
    /// Time for a whole request; none is no limit.
    pub request_timeout: Option<Duration>,
    /// See [`SAMPLING_PARAMETERS`].
    pub option_defaults: RequestOptions,
    /// The model's own configuration wants drafts, rather than the command line's for all models.
    wants_drafts: bool,
    /// The model's own configuration wants special tokens taken for text.
    wants_plain_text: bool,
}

impl ModelConfig {
    /// Reads the `parameters` of a model's configuration, `{key: {"string_value": value}}`, over the command
    /// line's defaults. `plugin` is the path of the plugin's library, `model_folder` that of the model.
    pub fn parse(
        config: &Value,
        backend: &BackendConfig,
        plugin: &Path,
        model_folder: &Path,
    ) -> Result<Self> {
        let mut own = BTreeMap::new();
        for (key, value) in config.get("parameters").and_then(Value::as_object).into_iter().flatten() {
            let context = format!("config.pbtxt, parameters[{key}]");
            check_name(key).map_err(|error| error.context(&context))?;
            if NUMBERS.iter().any(|number| number.name == key && number.scope == Scope::Process) {
                return Err(Error::invalid_argument(format!(
                    "{context}: it bounds the whole server; give it as --backend-config=textgen,{key}=VALUE"
                )));
            }
            let value = value.get("string_value").and_then(Value::as_str).ok_or_else(|| {
                Error::invalid_argument(format!("{context}: expected {{ string_value: \"…\" }}"))
            })?;
            check_value(key, value).map_err(|error| error.context(&context))?;
            own.insert(key.clone(), value.to_owned());
        }

        let settings = Settings { model: &own, process: &backend.settings };
        let count = |key| Ok::<_, Error>(settings.number(key)? as usize);
        let duration = |key| Ok::<_, Error>(Duration::from_millis(settings.number(key)?));
        let prompt_template = settings.prompt_template()?;
        if own.contains_key(LANGUAGES)
            && !prompt_template.as_ref().is_some_and(PromptTemplate::uses_languages)
        {
            return Err(Error::invalid_argument(format!(
                "config.pbtxt, parameters[{LANGUAGES}]: no prompt names a language; set `{PROMPT_TEMPLATE}` to a \
                 template that uses src_lang or tgt_lang, or leave it out"
            )));
        }
        let runtime_library = match settings.text(RUNTIME_LIBRARY) {
            Some(path) => model_folder.join(path),
            None => runtime_beside(plugin)?,
        };
        Ok(Self {
            options: ModelOptions {
                runtime_library,
                executor: ExecutorOptions {
                    intra_op_threads: count(&INTRA_OP_THREADS)?,
                    max_sequences: count(&MAX_SEQUENCES)?,
                    max_source_tokens: count(&MAX_SOURCE_TOKENS)?,
                    max_target_tokens: count(&MAX_TARGET_TOKENS)?,
                    max_context_tokens: count(&MAX_CONTEXT_TOKENS)?,
                    may_shrink: MayShrink {
                        sequences: settings.text(MAX_SEQUENCES.name).is_none(),
                        sources: settings.text(MAX_SOURCE_TOKENS.name).is_none(),
                        targets: settings.text(MAX_TARGET_TOKENS.name).is_none(),
                        contexts: settings.text(MAX_CONTEXT_TOKENS.name).is_none(),
                    },
                    placement: Placement::default(),
                    cuda: settings.cuda()?,
                },
                engine: EngineOptions {
                    max_queue_requests: count(&MAX_QUEUE_REQUESTS)?,
                    max_encode_tokens: count(&MAX_ENCODE_TOKENS)?,
                    max_prefill_tokens: count(&MAX_PREFILL_TOKENS)?,
                    prefix_reuse: settings.flag(PREFIX_REUSE)?,
                    prompt_lookup: PromptLookup {
                        num_tokens: count(&PROMPT_LOOKUP_NUM_TOKENS)?,
                        max_ngram_size: count(&MAX_MATCHING_NGRAM_SIZE)?,
                    },
                    drain_timeout: duration(&DRAIN_TIMEOUT_MS)?,
                },
                prompt: PromptSettings {
                    template: prompt_template.map(Arc::new),
                    chat_template_kwargs: settings
                        .text(CHAT_TEMPLATE_KWARGS)
                        .map_or(Ok(Map::new()), object)?,
                    parse_special_tokens: settings.flag(PARSE_SPECIAL_TOKENS)?,
                },
            },
            max_request_sequences: count(&MAX_REQUEST_SEQUENCES)?,
            max_input_bytes: count(&MAX_INPUT_BYTES)?,
            request_timeout: Some(duration(&REQUEST_TIMEOUT_MS)?).filter(|timeout| !timeout.is_zero()),
            wants_drafts: own.contains_key(PROMPT_LOOKUP_NUM_TOKENS.name)
                && settings.number(&PROMPT_LOOKUP_NUM_TOKENS)? > 0,
            wants_plain_text: own.contains_key(PARSE_SPECIAL_TOKENS)
                && !settings.flag(PARSE_SPECIAL_TOKENS)?,
            option_defaults: settings
                .text(SAMPLING_PARAMETERS)
                .map_or(Ok(RequestOptions::default()), options)?,
        })
    }

    /// Refuses what was asked of this model in particular and an executor of such limits cannot do.
    pub fn check_limits(&self, limits: ExecutorLimits) -> Result<()> {
        if !self.wants_drafts || limits.can_rewind {
            return Ok(());
        }
        let (name, got) = (PROMPT_LOOKUP_NUM_TOKENS.name, self.options.engine.prompt_lookup.num_tokens);
        Err(Error::invalid_argument(format!(
            "config.pbtxt, parameters[{name}]: got {got}, expected 0, since the model has a recurrent state, which \
             cannot go back behind a draft that was wrong; leave the key out"
        )))
    }

    /// Refuses what the texts of this model could not have.
    pub fn check_texts(&self, model: &TextSide) -> Result<()> {
        if self.wants_plain_text && !model.manifest.is_decoder_only() {
            return Err(Error::invalid_argument(format!(
                "config.pbtxt, parameters[{PARSE_SPECIAL_TOKENS}]: got false, but an encoder's texts always have their \
                 special tokens; leave the key out"
            )));
        }
        self.check_option_defaults(model)
    }

    /// Refuses option defaults that a request of this model could not have.
    fn check_option_defaults(&self, model: &TextSide) -> Result<()> {
        if self.option_defaults == RequestOptions::default() {
            return Ok(());
        }
        self.option_defaults
            .resolve(&model.manifest.generation, &model.tokenizer)
            .and_then(|resolved| model.prompts.check(&resolved.prompt))
            .map_err(|error| error.context(format_args!("configuration key `{SAMPLING_PARAMETERS}`")))
    }
}

/// A model's own settings over those of the process.
struct Settings<'a> {
    model: &'a BTreeMap<String, String>,
    process: &'a BTreeMap<String, String>,
}

impl Settings<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.model.get(name).or_else(|| self.process.get(name)).map(String::as_str)
    }

    fn prompt_template(&self) -> Result<Option<PromptTemplate>> {
        let languages = self.text(LANGUAGES).map_or(Ok(Languages::default()), languages)?;
        self.text(PROMPT_TEMPLATE).map(|source| PromptTemplate::compile(source, languages)).transpose()
    }

    /// True or false; absent, what [`TEXTS`] says.
    fn flag(&self, name: &str) -> Result<bool> {
        let default = TEXTS.iter().find(|(key, _)| *key == name).and_then(|(_, default)| *default);
        self.text(name).or(default).map_or(Ok(false), truth)
    }

    fn cuda(&self) -> Result<CudaOptions> {
        Ok(CudaOptions {
            gpu_mem_limit: Some(self.number(&GPU_MEM_LIMIT)?).filter(|&bytes| bytes > 0),
            arena_extend_strategy: self
                .text(ARENA_EXTEND_STRATEGY)
                .map_or(Ok(CudaOptions::default().arena_extend_strategy), strategy)?,
            use_tf32: self.flag(USE_TF32)?,
            enable_cuda_graph: self.flag(ENABLE_CUDA_GRAPH)?,
            enable_cudnn: self.flag(ENABLE_CUDNN)?,
            sdpa_kernel: self.number(&SDPA_KERNEL)? as u32,
            share_stream: self.flag(SHARE_STREAM)?,
        })
    }

    fn number(&self, key: &Key) -> Result<u64> {
        match self.text(key.name) {
            Some(text) => key.parse(text),
            None => Ok(key.default.unwrap_or_else(|| available_threads() as u64)),
        }
    }
}

impl Key {
    fn parse(&self, text: &str) -> Result<u64> {
        let Self { name, min, max, .. } = self;
        text.trim().parse().ok().filter(|number| (min..=max).contains(&number)).ok_or_else(|| {
            Error::invalid_argument(format!(
                "`{name}` is {text:?}, expected a whole number from {min} to {max}"
            ))
        })
    }
}

fn check_name(name: &str) -> Result<()> {
    let mut known = NUMBERS.iter().map(|key| key.name).chain(TEXTS.map(|(name, _)| name));
    if known.clone().any(|key| key == name) {
        return Ok(());
    }
    let mut list: Vec<&str> = known.by_ref().collect();
    list.sort_unstable();
    Err(Error::invalid_argument(format!("unknown key; known are {}", list.join(", "))))
}

fn languages(list: &str) -> Result<Languages> {
    Languages::parse(list).map_err(|error| Error::invalid_argument(error.to_string()))
}

fn check_value(name: &str, value: &str) -> Result<()> {
    match name {
        PROMPT_TEMPLATE => PromptTemplate::compile(value, Languages::default()).map(drop),
        LANGUAGES => languages(value).map(drop),
        SAMPLING_PARAMETERS => options(value).map(drop),
        CHAT_TEMPLATE_KWARGS => object(value).map(drop),
        PARSE_SPECIAL_TOKENS | PREFIX_REUSE | USE_TF32 | ENABLE_CUDA_GRAPH | ENABLE_CUDNN | SHARE_STREAM => {
            truth(value).map(drop)
        }
        ARENA_EXTEND_STRATEGY => strategy(value).map(drop),
        _ => NUMBERS.iter().find(|key| key.name == name).map_or(Ok(()), |key| key.parse(value).map(drop)),
    }
}

fn options(json: &str) -> Result<RequestOptions> {
    let mut options = RequestOptions::default();
    options.set_json(json)?;
    if options.have_chat_template_kwargs() {
        return Err(Error::invalid_argument(format!(
            "{CHAT_TEMPLATE_KWARGS}: it is a configuration key of its own; set that one"
        )));
    }
    Ok(options)
}

fn object(json: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(json).map_err(|error| {
        Error::invalid_argument(format!(
            "got {error}, expected a JSON object, such as {{\"enable_thinking\": false}}"
        ))
    })
}

fn strategy(text: &str) -> Result<ArenaExtendStrategy> {
    let found = ArenaExtendStrategy::NAMES.iter().find(|(name, _)| *name == text.trim());
    found.map(|&(_, strategy)| strategy).ok_or_else(|| {
        let names = ArenaExtendStrategy::NAMES.map(|(name, _)| name);
        Error::invalid_argument(format!("got {text:?}, expected {}", names.join(" or ")))
    })
}

fn truth(text: &str) -> Result<bool> {
    text.trim().parse().map_err(|_| Error::invalid_argument(format!("got {text:?}, expected true or false")))
}

/// Processors that this process may use: its affinity and its control group's quota, both.
pub fn available_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// ONNX Runtime's library in the folder of the plugin.
fn runtime_beside(plugin: &Path) -> Result<PathBuf> {
    let folder = plugin.parent().unwrap_or(Path::new("")).to_owned();
    locate_runtime(&[folder]).map_err(|error| {
        error.context(format_args!("put it there, or set the configuration key `{RUNTIME_LIBRARY}`"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(parameters: &[(&str, &str)], cmdline: Value) -> Result<ModelConfig> {
        let mut all = serde_json::Map::new();
        all.insert(RUNTIME_LIBRARY.into(), json!({"string_value": "/ort.so"}));
        for (key, value) in parameters {
            all.insert((*key).into(), json!({"string_value": value}));
        }
        let backend = BackendConfig::parse(&json!({ "cmdline": cmdline }))?;
        ModelConfig::parse(&json!({ "parameters": all }), &backend, Path::new("/plugin.so"), Path::new("/m"))
    }

    #[test]
    fn a_model_overrides_the_command_line_which_overrides_the_default() {
        let cmdline = json!({"max_sequences": "8", "max_input_bytes": "100", "backend-directory": "/b"});
        let config = parse(&[("max_sequences", " 4 ")], cmdline).unwrap();
        assert_eq!(config.options.executor.max_sequences, 4);
        assert_eq!(config.max_input_bytes, 100);
        assert_eq!(config.options.executor.max_source_tokens, 512);
        assert_eq!(config.request_timeout, Some(Duration::from_secs(25)));
        assert_eq!(config.options.engine.drain_timeout, Duration::from_secs(20));
        assert!(config.options.executor.intra_op_threads >= 1);
    }

    #[test]
    fn zero_means_no_timeout() {
        assert_eq!(parse(&[("request_timeout_ms", "0")], json!({})).unwrap().request_timeout, None);
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (key, value, part) in [
            ("max_sequence", "4", "max_sequences"),
            ("max_sequences", "0", "from 1 to 4096"),
            ("max_sequences", "-1", "from 1 to 4096"),
            ("max_sequences", "many", "\"many\""),
            ("max_responses_per_second", "10", "--backend-config"),
        ] {
            let error = parse(&[(key, value)], json!({})).unwrap_err();
            assert!(error.message.contains(part) && error.message.contains(key), "{error}");
        }
        let error = parse(&[], json!({"max_sequences": "0"})).unwrap_err();
        assert!(error.message.contains("--backend-config=textgen,max_sequences=0"), "{error}");
        assert!(parse(&[], json!({"nonsense": "0"})).is_err());
        assert!(parse(&[], json!({"max-sequences": "4"})).is_err());
        assert!(parse(&[], json!({"min-compute-capability": "6.0"})).is_ok());
    }

    #[test]
    fn keys_that_are_no_numbers_are_checked_too() {
        let template = ("prompt_template", "{{ tgt_lang.name }}: {{ text }}");
        let config = parse(
            &[
                template,
                ("languages", "en, de"),
                ("sampling_parameters", r#"{"top_k": 20}"#),
                ("prefix_reuse", "false"),
                ("chat_template_kwargs", r#"{"enable_thinking": false}"#),
                ("parse_special_tokens", "true"),
            ],
            json!({}),
        )
        .unwrap();
        assert_eq!(config.options.prompt.chat_template_kwargs["enable_thinking"], json!(false));
        assert!(config.options.prompt.parse_special_tokens);
        assert!(config.options.prompt.template.is_some() && !config.options.engine.prefix_reuse);
        let mut options = RequestOptions::default();
        options.set("top_k", crate::options::OptionValue::Int(20)).unwrap();
        assert_eq!(config.option_defaults, options);
        let nothing = parse(&[], json!({})).unwrap();
        assert!(nothing.options.prompt.template.is_none() && nothing.options.engine.prefix_reuse);
        assert_eq!(nothing.option_defaults, RequestOptions::default());
        assert!(!nothing.options.prompt.parse_special_tokens);

        for (keys, part) in [
            (&[("prompt_template", "a\n{{ text }")][..], "line 2"),
            (&[("prompt_template", "a")], "{{ text }}"),
            (&[template, ("languages", "en, klingon")], "klingon"),
            (&[("languages", "en, de")], "prompt_template"),
            (&[("prompt_template", "{{ text }}"), ("languages", "en, de")], "tgt_lang"),
            (&[("sampling_parameters", r#"{"top_p": 2}"#)], "top_p"),
            (&[("sampling_parameters", r#"{"temprature": 1}"#)], "temperature"),
            (&[("sampling_parameters", "0.7")], "JSON object"),
            (&[("sampling_parameters", r#"{"chat_template_kwargs": {}}"#)], "configuration key of its own"),
            (&[("chat_template_kwargs", "[]")], "JSON object"),
            (&[("parse_special_tokens", "1")], "true or false"),
            (&[("prefix_reuse", "yes")], "true or false"),
            (&[("enable_cuda_graph", "1")], "true or false"),
            (&[("arena_extend_strategy", "kDouble")], "kSameAsRequested"),
            (&[("gpu_mem_limit", "4GB")], "whole number"),
        ] {
            let (key, _) = keys.last().unwrap();
            let error = parse(keys, json!({})).unwrap_err();
            assert!(error.message.contains(&format!("parameters[{key}]")), "{error}");
            assert!(error.message.contains(part), "{part} is not in: {error}");
        }
        let error = parse(&[], json!({"sampling_parameters": "{"})).unwrap_err();
        assert!(error.message.contains("--backend-config=textgen,sampling_parameters"), "{error}");
    }

    #[test]
    fn a_gpu_gets_its_options() {
        let defaults = parse(&[], json!({})).unwrap().options.executor.cuda;
        assert_eq!(defaults, CudaOptions::default());
        let keys = [
            ("gpu_mem_limit", "4294967296"),
            ("arena_extend_strategy", "kNextPowerOfTwo"),
            ("use_tf32", "false"),
            ("enable_cuda_graph", "true"),
            ("enable_cudnn", "true"),
            ("sdpa_kernel", "3"),
            ("share_stream", "true"),
        ];
        let expected = CudaOptions {
            gpu_mem_limit: Some(1 << 32),
            arena_extend_strategy: ArenaExtendStrategy::NextPowerOfTwo,
            use_tf32: false,
            enable_cuda_graph: true,
            enable_cudnn: true,
            sdpa_kernel: 3,
            share_stream: true,
        };
        assert_eq!(parse(&keys, json!({})).unwrap().options.executor.cuda, expected);
    }

    #[test]
    fn sizes_that_are_asked_for_do_not_shrink() {
        let of = |keys: &[_]| parse(keys, json!({})).unwrap().options.executor.may_shrink;
        let all = MayShrink { sequences: true, sources: true, targets: true, contexts: true };
        assert_eq!(of(&[]), all);
        assert_eq!(of(&[("max_sequences", "8")]), MayShrink { sequences: false, ..all });
        assert_eq!(
            of(&[("max_source_tokens", "8"), ("max_context_tokens", "9")]),
            MayShrink { sources: false, contexts: false, ..all }
        );
        assert_eq!(of(&[("max_target_tokens", "8")]), MayShrink { targets: false, ..all });
    }

    /// The README's table is what users know of the keys.
    #[test]
    fn the_readme_has_a_row_for_each_key_with_its_default() {
        let readme = include_str!("../../README.md");
        let row = |name: &str| {
            let begin = format!("| `{name}` | ");
            let row = readme.lines().find(|line| line.starts_with(&begin));
            row.unwrap_or_else(|| panic!("README.md has no row for {name}"))[begin.len()..].to_owned()
        };
        for key in NUMBERS {
            let row = row(key.name);
            if let Some(default) = key.default {
                assert!(row.starts_with(&format!("{default} | ")), "{}: {row}", key.name);
            }
        }
        for (name, default) in TEXTS {
            let row = row(name);
            if let Some(default) = default {
                assert!(row.starts_with(&format!("{default} | ")), "{name}: {row}");
            }
        }
    }

    #[test]
    fn drafts_are_refused_where_a_model_that_cannot_have_them_asks_itself() {
        let limits = |can_rewind| ExecutorLimits {
            slots: 1,
            max_target_tokens: 1,
            vocab_size: 1,
            can_rewind,
            encoder: None,
        };
        let own = parse(&[("prompt_lookup_num_tokens", "5")], json!({})).unwrap();
        assert_eq!(own.options.engine.prompt_lookup, PromptLookup { num_tokens: 5, max_ngram_size: 3 });
        assert_eq!(own.check_limits(limits(true)), Ok(()));
        let error = own.check_limits(limits(false)).unwrap_err();
        assert!(error.message.contains("parameters[prompt_lookup_num_tokens]: got 5"), "{error}");

        let all = json!({"prompt_lookup_num_tokens": "5", "max_matching_ngram_size": "2"});
        let config = parse(&[], all.clone()).unwrap();
        assert_eq!(config.options.engine.prompt_lookup, PromptLookup { num_tokens: 5, max_ngram_size: 2 });
        assert_eq!(config.check_limits(limits(false)), Ok(()));
        let off = parse(&[("prompt_lookup_num_tokens", "0")], all).unwrap();
        assert_eq!(off.options.engine.prompt_lookup.num_tokens, 0);
        assert_eq!(off.check_limits(limits(false)), Ok(()));
        assert!(parse(&[("max_matching_ngram_size", "0")], json!({})).is_err());
    }

    #[test]
    fn defaults_are_in_range_and_names_unique() {
        for (index, key) in NUMBERS.iter().enumerate() {
            if let Some(default) = key.default {
                assert_eq!(key.parse(&default.to_string()).unwrap(), default);
            }
            assert!(NUMBERS[..index].iter().all(|other| other.name != key.name), "{}", key.name);
        }
    }
}
