//! `config.json` of a T5-like model.

use std::path::Path;

use serde::Deserialize;
use textgen_artifact::ops::Activation;

use crate::{
    error::{ConvertError, Result},
    huggingface::{CONFIG_FILE, read_json},
};

/// The bias beyond this distance is one value; a larger table would be a mistake, not a model.
const MAX_DISTANCE: usize = 1 << 16;

/// Larger sizes are mistakes too.
const MAX_SIZE: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;

/// The keys this program reads. Sizes have no default here although transformers has some: a file without
/// them is not that of a checkpoint.
#[derive(Deserialize)]
struct Keys {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_decoder_layers: Option<usize>,
    num_heads: usize,
    relative_attention_num_buckets: Option<usize>,
    relative_attention_max_distance: Option<usize>,
    layer_norm_epsilon: Option<f32>,
    feed_forward_proj: Option<String>,
    tie_word_embeddings: Option<bool>,
    scale_decoder_outputs: Option<bool>,
}

/// Member of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    T5,
    Mt5,
    Umt5,
}

impl Variant {
    pub fn name(self) -> &'static str {
        match self {
            Self::T5 => "t5",
            Self::Mt5 => "mt5",
            Self::Umt5 => "umt5",
        }
    }
}

/// Relative-position buckets of self-attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets {
    pub count: usize,
    /// From here on all distances are in the last bucket.
    pub max_distance: usize,
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub variant: Variant,
    pub vocab_size: usize,
    pub d_model: usize,
    pub head_dim: usize,
    pub d_ff: usize,
    pub encoder_layers: usize,
    pub decoder_layers: usize,
    pub heads: usize,
    /// `heads · head_dim`, which need not be `d_model`.
    pub inner: usize,
    pub buckets: Buckets,
    pub epsilon: f32,
    pub activation: Activation,
    /// `act(wi_0) ∘ wi_1` rather than `act(wi)`.
    pub gated: bool,
    /// The decoder's output is multiplied by `d_model^−0.5` before the head.
    pub scaled_output: bool,
}

impl Config {
    /// Reads `config.json`; none when there is no such file, or its `model_type` is of another family.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Family {
            model_type: Option<String>,
        }
        let path = dir.join(CONFIG_FILE);
        let model_type = read_json::<Family>(&path)?.and_then(|family| family.model_type);
        if model_type.and_then(|name| variant(&name)).is_none() {
            return Ok(None);
        }
        let keys: Option<Keys> = read_json(&path)?;
        keys.map(|keys| check(&path.display().to_string(), keys)).transpose()
    }
}

fn variant(model_type: &str) -> Option<Variant> {
    [Variant::T5, Variant::Mt5, Variant::Umt5].into_iter().find(|variant| variant.name() == model_type)
}

fn check(path: &str, keys: Keys) -> Result<Config> {
    let unsupported = |what: &str, got: String, expected: &str| ConvertError::Unsupported {
        path: path.to_owned(),
        what: format!("`{what}`"),
        got,
        expected: expected.to_owned(),
    };
    let model_type = keys.model_type.unwrap_or_default();
    let Some(variant) = variant(&model_type) else {
        return Err(unsupported("model_type", model_type, "t5, mt5, umt5"));
    };
    let generates = |name: &String| name.ends_with("ForConditionalGeneration") || name == "T5WithLMHeadModel";
    if let Some(names) = keys.architectures.filter(|names| !names.is_empty() && !names.iter().any(generates))
    {
        return Err(unsupported("architectures", names.join(", "), "a model with ForConditionalGeneration"));
    }
    let decoder_layers = keys.num_decoder_layers.unwrap_or(keys.num_layers);
    let sizes = [
        ("vocab_size", keys.vocab_size),
        ("d_model", keys.d_model),
        ("d_kv", keys.d_kv),
        ("d_ff", keys.d_ff),
        ("num_layers", keys.num_layers),
        ("num_decoder_layers", decoder_layers),
        ("num_heads", keys.num_heads),
    ];
    for (name, size) in sizes {
        let limit = if name.ends_with("_layers") { MAX_LAYERS } else { MAX_SIZE };
        if !(1..=limit).contains(&size) {
            return Err(unsupported(name, size.to_string(), &format!("1 to {limit}")));
        }
    }
    let Some(inner) = keys.num_heads.checked_mul(keys.d_kv) else {
        return Err(unsupported("num_heads", keys.num_heads.to_string(), "a number that d_kv can be times"));
    };
    let buckets = Buckets {
        count: keys.relative_attention_num_buckets.unwrap_or(32),
        max_distance: keys.relative_attention_max_distance.unwrap_or(128),
    };
    if buckets.count < 4 || !buckets.count.is_multiple_of(2) {
        let got = buckets.count.to_string();
        return Err(unsupported("relative_attention_num_buckets", got, "an even number from 4"));
    }
    if buckets.max_distance <= buckets.count / 2 || buckets.max_distance > MAX_DISTANCE {
        let got = buckets.max_distance.to_string();
        let expected = format!("more than half the buckets, at most {MAX_DISTANCE}");
        return Err(unsupported("relative_attention_max_distance", got, &expected));
    }
    let epsilon = keys.layer_norm_epsilon.unwrap_or(1e-6);
    if !(epsilon >= 0.0 && epsilon.is_finite()) {
        return Err(unsupported("layer_norm_epsilon", epsilon.to_string(), "a finite number from 0"));
    }
    let default = if variant == Variant::T5 { "relu" } else { "gated-gelu" };
    let feed_forward = keys.feed_forward_proj.as_deref().unwrap_or(default);
    let Some((activation, gated)) = feed_forward_of(feed_forward) else {
        let expected = "relu, gelu, silu, or gated- and one of these";
        return Err(unsupported("feed_forward_proj", feed_forward.to_owned(), expected));
    };
    Ok(Config {
        variant,
        vocab_size: keys.vocab_size,
        d_model: keys.d_model,
        head_dim: keys.d_kv,
        d_ff: keys.d_ff,
        encoder_layers: keys.num_layers,
        decoder_layers,
        heads: keys.num_heads,
        inner,
        buckets,
        epsilon,
        activation,
        gated,
        // transformers 4 writes one flag, which it reads as "tied" and as "scaled". transformers 5 writes it as true
        // always, and the scaling under a name of its own. The tensors say whether the head is tied.
        scaled_output: match variant {
            Variant::T5 | Variant::Umt5 => {
                keys.scale_decoder_outputs.unwrap_or(keys.tie_word_embeddings != Some(false))
            }
            Variant::Mt5 => false,
        },
    })
}

fn feed_forward_of(name: &str) -> Option<(Activation, bool)> {
    let (activation, gated) = match name.strip_prefix("gated-") {
        Some(activation) => (activation, true),
        None => (name, false),
    };
    let activation = match activation {
        "relu" => Activation::Relu,
        // An old name: the gate of T5 v1.1 has always been the tanh form.
        "gelu" if gated => Activation::GeluTanh,
        "gelu" => Activation::GeluErf,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "silu" | "swish" => Activation::Silu,
        _ => return None,
    };
    Some((activation, gated))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(changes: &str) -> Result<Option<Config>> {
        let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(
            r#"{"model_type": "t5", "vocab_size": 100, "d_model": 16, "d_kv": 8, "d_ff": 32,
                "num_layers": 2, "num_heads": 3}"#,
        )
        .unwrap();
        json.extend(serde_json::from_str::<serde_json::Map<_, _>>(changes).unwrap());
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG_FILE), serde_json::to_string(&json).unwrap()).unwrap();
        Config::read(dir.path())
    }

    fn config(changes: &str) -> Config {
        read(changes).unwrap().unwrap()
    }

    #[test]
    fn absent_keys_have_the_defaults_of_the_variant() {
        let t5 = config("{}");
        assert_eq!((t5.encoder_layers, t5.decoder_layers, t5.inner), (2, 2, 24));
        assert_eq!(t5.buckets, Buckets { count: 32, max_distance: 128 });
        assert_eq!((t5.activation, t5.gated, t5.epsilon), (Activation::Relu, false, 1e-6));
        let mt5 = config(r#"{"model_type": "mt5"}"#);
        assert_eq!((mt5.activation, mt5.gated), (Activation::GeluTanh, true));
    }

    #[test]
    fn the_output_is_scaled_unless_a_flag_says_no() {
        let scaled = |variant: &str, tie: &str, scale: &str| {
            let flags = format!(r#""tie_word_embeddings": {tie}, "scale_decoder_outputs": {scale}"#);
            config(&format!(r#"{{"model_type": "{variant}", {flags}}}"#)).scaled_output
        };
        for variant in ["t5", "umt5"] {
            let of_tie = ["null", "true", "false"].map(|tie| scaled(variant, tie, "null"));
            assert_eq!(of_tie, [true, true, false], "{variant}");
            for tie in ["null", "true", "false"] {
                assert!(scaled(variant, tie, "true"), "{variant}, {tie}");
                assert!(!scaled(variant, tie, "false"), "{variant}, {tie}");
            }
        }
        for (tie, scale) in [("null", "null"), ("true", "null"), ("false", "null"), ("true", "true")] {
            assert!(!scaled("mt5", tie, scale), "{tie}, {scale}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let message = |changes: &str| read(changes).unwrap_err().to_string();
        assert!(
            message(r#"{"feed_forward_proj": "gated-tanh"}"#).contains("`feed_forward_proj` is gated-tanh")
        );
        assert!(message(r#"{"architectures": ["T5EncoderModel"]}"#).contains("T5EncoderModel"));
        assert!(message(r#"{"num_heads": 0}"#).contains("`num_heads` is 0"));
        assert!(message(r#"{"relative_attention_num_buckets": 5}"#).contains("is 5"));
        assert!(message(r#"{"relative_attention_max_distance": 16}"#).contains("is 16"));
        assert!(message(r#"{"d_model": "wide"}"#).contains("cannot be parsed"));
        assert!(message(r#"{"d_model": null}"#).contains("cannot be parsed"));
    }

    #[test]
    fn other_families_are_not_ours() {
        assert_eq!(read(r#"{"model_type": "bart"}"#).unwrap(), None);
        assert_eq!(read(r#"{"model_type": null}"#).unwrap(), None);
        assert_eq!(Config::read(Path::new("/nonexistent")).unwrap(), None);
    }
}
