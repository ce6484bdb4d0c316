//! Every key of the configuration that is one value, once: its name, type, default and meaning. A key can stand in the
//! file, in the environment and on the command line; the last of these holds.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::ValueEnum;
use serde::Deserialize;

/// Texts separated by commas; a list in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct List(pub Vec<String>);

impl FromStr for List {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Ok(Self(items.map(str::to_owned).collect()))
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
#[serde(rename_all = "UPPERCASE")]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSA with SHA-256.
    Rs256,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// An object a line.
    Json,
    /// For people.
    Text,
}

macro_rules! shown_as_given {
    ($($name:ty),+) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()).as_str())
            }
        })+
    };
}

shown_as_given!(JwtAlgorithm, LogFormat);

macro_rules! keys {
    ($($section:literal { $($name:ident: $type:ty $(= $default:expr)?, $env:literal, $doc:literal;)+ })+) => {
        /// The keys as one source gives them.
        #[derive(Debug, Clone, Default, Deserialize, clap::Args)]
        #[serde(default, deny_unknown_fields)]
        pub struct Keys {
            $($(
                #[doc = $doc]
                #[arg(long, env = $env, help_heading = $section)]
                pub $name: Option<$type>,
            )+)+
        }

        /// The keys as they hold.
        #[derive(Debug, Clone)]
        pub struct Operation {
            $($(#[doc = $doc] pub $name: keys!(@held $type $(= $default)?),)+)+
        }

        impl Operation {
            /// What the first source says, else the second, else the default.
            pub fn of(first: &Keys, second: &Keys) -> Self {
                Self {
                    $($($name: {
                        let given = first.$name.clone().or_else(|| second.$name.clone());
                        keys!(@resolve given $(= $default)?)
                    },)+)+
                }
            }
        }

        /// The rows of the documented table.
        #[cfg(test)]
        pub fn documented() -> Vec<String> {
            vec![$($({
                let default = keys!(@shown $($default)?);
                let default = if default.is_empty() { "none".to_owned() } else { default };
                format!("| `{}` | `{}` | {default} | {} |", stringify!($name), $env, $doc)
            },)+)+]
        }
    };
    (@held $type:ty = $default:expr) => { $type };
    (@held $type:ty) => { Option<$type> };
    (@resolve $given:ident = $default:expr) => { $given.unwrap_or_else(|| $default.into()) };
    (@resolve $given:ident) => { $given };
    (@shown $default:expr) => { $default.to_string() };
    (@shown) => { String::new() };
}

keys! {
    "Network" {
        triton: String = "127.0.0.1:8001", "TEXTGEN_TRITON", "Triton's gRPC door, host:port";
        host: String = "0.0.0.0", "TEXTGEN_HOST", "address to listen on";
        port: u16 = 7860u16, "WEB_PORT", "port to listen on; 0 takes a free one and logs it";
        tls_cert: PathBuf, "TEXTGEN_TLS_CERT", "certificate chain in PEM; with tls_key, the gateway speaks TLS only";
        tls_key: PathBuf, "TEXTGEN_TLS_KEY", "private key in PEM";
        cors_origins: List = List::default(), "TEXTGEN_CORS_ORIGINS", "origins whose pages may call the API and open WebSockets, beside the gateway's own; * is any";
        trusted_proxies: u8 = 0u8, "TEXTGEN_TRUSTED_PROXIES", "proxies in front, each of which adds to X-Forwarded-For: a client's address is taken from there";
    }
    "Services" {
        augment_model: String, "TEXTGEN_AUGMENT_MODEL", "model of the augmentation; stands for augment.model in the file";
        translate_model: String, "TEXTGEN_TRANSLATE_MODEL", "one model for all pairs of languages; stands for translate.model in the file";
        chat_models: List, "TEXTGEN_CHAT_MODELS", "models of the OpenAI-compatible API; stands for chat.models in the file";
    }
    "Access" {
        jwt_algorithm: JwtAlgorithm = JwtAlgorithm::Hs256, "TEXTGEN_JWT_ALGORITHM", "HS256 or RS256";
        jwt_key_file: PathBuf, "TEXTGEN_JWT_KEY_FILE", "the secret of HS256 (32 bytes or more), or the public key of RS256 in PEM; with it or a JWKS file, requests need a token";
        jwt_jwks_file: PathBuf, "TEXTGEN_JWT_JWKS_FILE", "keys by their id, as a JSON Web Key Set";
        jwt_audience: String, "TEXTGEN_JWT_AUDIENCE", "the `aud` a token must have";
        jwt_issuer: String, "TEXTGEN_JWT_ISSUER", "the `iss` a token must have";
        requests_per_minute: u32 = 0u32, "TEXTGEN_REQUESTS_PER_MINUTE", "requests of one client address; 0 is no limit";
        messages_per_minute: u32 = 0u32, "TEXTGEN_MESSAGES_PER_MINUTE", "WebSocket messages of one client address; 0 is no limit";
        token_requests_per_minute: u32 = 0u32, "TEXTGEN_TOKEN_REQUESTS_PER_MINUTE", "requests and WebSocket messages of one token's `sub`; 0 is no limit";
    }
    "Limits" {
        max_body_bytes: usize = 1_048_576usize, "TEXTGEN_MAX_BODY_BYTES", "bytes of a request's body, or of a WebSocket message";
        max_text_chars: usize = 5_000usize, "TEXTGEN_MAX_TEXT_CHARS", "characters of a text to augment";
        max_translation_chars: usize = 20_000usize, "TEXTGEN_MAX_TRANSLATION_CHARS", "characters of a text to translate";
        max_batch_texts: usize = 256usize, "TEXTGEN_MAX_BATCH_TEXTS", "texts of one batch";
        max_active: usize = 64usize, "TEXTGEN_MAX_ACTIVE", "requests at work at once; a batch counts as one";
        max_queue: usize = 256usize, "TEXTGEN_MAX_QUEUE", "requests that may wait; one more is answered `overloaded` at once";
        max_sockets: usize = 1_024usize, "TEXTGEN_MAX_SOCKETS", "open WebSockets";
        request_timeout_s: u64 = 120u64, "TEXTGEN_REQUEST_TIMEOUT_S", "seconds for a request, waiting included";
        socket_ping_s: u64 = 30u64, "TEXTGEN_SOCKET_PING_S", "seconds between pings of a WebSocket";
        socket_idle_s: u64 = 300u64, "TEXTGEN_SOCKET_IDLE_S", "seconds after which an idle WebSocket is closed";
        cache_entries: u64 = 1_024u64, "TEXTGEN_CACHE_ENTRIES", "answers kept for the same deterministic question; 0 keeps none";
        cache_ttl_s: u64 = 3_600u64, "TEXTGEN_CACHE_TTL_S", "seconds for which an answer is kept";
        drain_s: u64 = 20u64, "TEXTGEN_DRAIN_S", "seconds that requests get to end when the gateway is stopped";
    }
    "Log" {
        log_dir: PathBuf, "TEXTGEN_LOG_DIR", "folder of log files, one a day; without it the log goes to standard error";
        log_keep_days: usize = 7usize, "TEXTGEN_LOG_KEEP_DAYS", "log files that are kept";
        log_level: String = "info", "TEXTGEN_LOG_LEVEL", "error, warn, info, debug or trace; or tracing's filter syntax";
        log_format: LogFormat = LogFormat::Json, "TEXTGEN_LOG_FORMAT", "json or text";
    }
}
