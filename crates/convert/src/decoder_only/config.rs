//! `config.json` of a decoder-only model.

use serde::Deserialize;
use serde_json::{Map, Value};
use textgen_artifact::{RotarySpec, ops::Activation};

use super::rope::{self, Rope};
use crate::error::{ConvertError, Result};

/// Member of the family: what sets it apart stands in [`Config`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
    Gemma3,
    HunYuan,
}

impl Family {
    const ALL: [Self; 7] =
        [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma, Self::Gemma2, Self::Gemma3, Self::HunYuan];

    /// The family of a `model_type`.
    pub fn of(model_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == model_type)
    }

    /// As `model_type` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma => "gemma",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::HunYuan => "hunyuan_v1_dense",
        }
    }

    fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }
}

/// Norm of each query and key head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNorm {
    None,
    BeforeRotation,
    AfterRotation,
}

/// What a layer's attention sees, and how it knows positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerKind {
    /// Tokens back, its own included; none for all.
    pub window: Option<usize>,
    /// Index into [`Config::rotary`].
    pub rotary: usize,
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub family: Family,
    pub vocab_size: usize,
    pub d_model: usize,
    pub d_ff: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub context: usize,
    pub epsilon: f32,
    pub activation: Activation,
    /// None where the tensors decide.
    pub tied_head: Option<bool>,
    /// Whether q, k and v have biases, and whether the attention's output has one.
    pub attention_bias: [bool; 2],
    pub mlp_bias: bool,
    pub head_norm: HeadNorm,
    /// Norms multiply by `1 + weight`.
    pub norm_offset: bool,
    /// Attention's and the feed-forward block's outputs are normalized before they are added.
    pub post_norms: bool,
    pub embedding_scale: f32,
    /// Factor of `q · k`.
    pub attention_scale: f32,
    pub attention_softcap: Option<f32>,
    pub final_softcap: Option<f32>,
    pub layers: Vec<LayerKind>,
    pub rotary: Vec<RotarySpec>,
}

/// The keys this program reads.
#[derive(Deserialize)]
struct Keys {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    attention_head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: Option<f32>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_qk_norm: Option<bool>,
    query_pre_attn_scalar: Option<f32>,
    use_sliding_window: Option<bool>,
    #[serde(default = "default_window")]
    sliding_window: Option<usize>,
    sliding_window_pattern: Option<usize>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    use_bidirectional_attention: Option<bool>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Where the key is absent; `null` is none.
fn default_window() -> Option<usize> {
    Some(4096)
}

/// Sizes larger than these are a mistake, not a model.
const MAX_SIZE: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;

impl Config {
    /// Reads the configuration; `path` is that of its file, for messages. None when its `model_type` is of
    /// another family.
    pub fn read(path: &str, json: &Value) -> Result<Option<Self>> {
        let Some(family) = json.get("model_type").and_then(Value::as_str).and_then(Family::of) else {
            return Ok(None);
        };
        let keys = Keys::deserialize(json)
            .map_err(|error| ConvertError::Syntax { path: path.to_owned(), reason: error.to_string() })?;
        check(path, family, keys).map(Some)
    }
}

fn check(path: &str, family: Family, keys: Keys) -> Result<Config> {
    let unsupported = |what: &str, got: String, expected: &str| ConvertError::Unsupported {
        path: path.to_owned(),
        what: format!("`{what}`"),
        got,
        expected: expected.to_owned(),
    };
    let heads = keys.num_attention_heads;
    let kv_heads = keys.num_key_value_heads.unwrap_or(heads);
    let head_dim = keys.head_dim.or(keys.attention_head_dim).unwrap_or_else(|| match family {
        Family::Gemma | Family::Gemma2 | Family::Gemma3 => 256,
        Family::Qwen3 => 128,
        _ => keys.hidden_size / heads.max(1),
    });
    let sizes = [
        ("vocab_size", keys.vocab_size, MAX_SIZE),
        ("hidden_size", keys.hidden_size, MAX_SIZE),
        ("intermediate_size", keys.intermediate_size, MAX_SIZE),
        ("num_hidden_layers", keys.num_hidden_layers, MAX_LAYERS),
        ("num_attention_heads", heads, MAX_LAYERS),
        ("num_key_value_heads", kv_heads, MAX_LAYERS),
        ("head_dim", head_dim, 1 << 16),
        ("max_position_embeddings", keys.max_position_embeddings, MAX_SIZE),
    ];
    for (name, size, limit) in sizes {
        if !(1..=limit).contains(&size) {
            return Err(unsupported(name, size.to_string(), &format!("1 to {limit}")));
        }
    }
    if !heads.is_multiple_of(kv_heads) {
        return Err(unsupported("num_key_value_heads", kv_heads.to_string(), "a divisor of the heads"));
    }
    let positive = |name: &str, value: Option<f32>| match value {
        Some(value) if !(value.is_finite() && value > 0.0) => {
            Err(unsupported(name, value.to_string(), "a positive number"))
        }
        value => Ok(value),
    };
    let epsilon = positive("rms_norm_eps", keys.rms_norm_eps)?.unwrap_or(match family {
        Family::HunYuan => 1e-5,
        _ => 1e-6,
    });
    let activation = keys.hidden_activation.or(keys.hidden_act);
    let activation = match activation.as_deref() {
        None if family.is_gemma() => Activation::GeluTanh,
        None | Some("silu" | "swish") => Activation::Silu,
        // Gemma's first release wrote `gelu` and meant the tanh form.
        Some("gelu") if family == Family::Gemma => Activation::GeluTanh,
        Some("gelu") => Activation::GeluErf,
        Some("gelu_pytorch_tanh" | "gelu_new") => Activation::GeluTanh,
        Some(other) => {
            let expected = "silu, gelu, gelu_pytorch_tanh, gelu_new";
            return Err(unsupported("hidden_act", other.to_owned(), expected));
        }
    };
    if keys.use_bidirectional_attention == Some(true) {
        return Err(unsupported("use_bidirectional_attention", "true".to_owned(), "false"));
    }
    if family == Family::HunYuan && keys.use_qk_norm == Some(false) {
        return Err(unsupported("use_qk_norm", "false".to_owned(), "true"));
    }
    let bias = keys.attention_bias.unwrap_or(false);
    let query_scalar = match family {
        Family::Gemma2 | Family::Gemma3 => {
            positive("query_pre_attn_scalar", keys.query_pre_attn_scalar)?.unwrap_or(256.0)
        }
        _ => head_dim as f32,
    };
    // An absent key is the family's default, `null` is none.
    let softcap = |name: &str, default: Option<f32>| match keys.others.get(name) {
        None => Ok(default),
        Some(value) => positive(name, value.as_f64().map(|value| value as f32)),
    };
    let (attention_softcap, final_softcap) = match family {
        Family::Gemma2 => {
            (softcap("attn_logit_softcapping", Some(50.0))?, softcap("final_logit_softcapping", Some(30.0))?)
        }
        // The reference reads a cap of the scores here too, and never applies it.
        Family::Gemma3 => (None, softcap("final_logit_softcapping", None)?),
        _ => (None, None),
    };
    let sliding = SlidingLayers {
        family,
        layers: keys.num_hidden_layers,
        window: keys.sliding_window,
        enabled: keys.use_sliding_window,
        pattern: keys.sliding_window_pattern,
        full_layers: keys.max_window_layers,
        types: keys.layer_types.as_deref(),
    };
    let windows = sliding.windows().map_err(|(name, got, expected)| unsupported(name, got, expected))?;
    let two_rotations = family == Family::Gemma3;
    let given = keys.max_position_embeddings;
    let Rope { rotary, context } = rope::read(path, &keys.others, head_dim, two_rotations, given)?;
    if !(1..=MAX_SIZE).contains(&context) {
        let expected = format!("for 1 to {MAX_SIZE} tokens");
        return Err(unsupported("rope_scaling", format!("for {context} tokens"), &expected));
    }
    let layers = windows
        .into_iter()
        .map(|window| LayerKind { window, rotary: usize::from(two_rotations && window.is_some()) })
        .collect();
    Ok(Config {
        family,
        vocab_size: keys.vocab_size,
        d_model: keys.hidden_size,
        d_ff: keys.intermediate_size,
        heads,
        kv_heads,
        head_dim,
        context,
        epsilon,
        activation,
        tied_head: keys.tie_word_embeddings.or(family.is_gemma().then_some(true)),
        attention_bias: if family == Family::Qwen2 { [true, false] } else { [bias; 2] },
        mlp_bias: keys.mlp_bias.unwrap_or(false) && family == Family::Llama,
        head_norm: match family {
            Family::Qwen3 | Family::Gemma3 => HeadNorm::BeforeRotation,
            Family::HunYuan => HeadNorm::AfterRotation,
            _ => HeadNorm::None,
        },
        norm_offset: family.is_gemma(),
        post_norms: matches!(family, Family::Gemma2 | Family::Gemma3),
        embedding_scale: if family.is_gemma() { (keys.hidden_size as f32).sqrt() } else { 1.0 },
        attention_scale: query_scalar.sqrt().recip(),
        attention_softcap,
        final_softcap,
        layers,
        rotary,
    })
}

/// Which layers see a window only.
struct SlidingLayers<'a> {
    family: Family,
    layers: usize,
    window: Option<usize>,
    enabled: Option<bool>,
    pattern: Option<usize>,
    full_layers: Option<usize>,
    types: Option<&'a [String]>,
}

impl SlidingLayers<'_> {
    /// The window of each layer; or the key that is wrong, its value, and what is expected.
    fn windows(&self) -> Result<Vec<Option<usize>>, (&'static str, String, &'static str)> {
        let can_slide = match self.family {
            Family::Gemma2 | Family::Gemma3 => true,
            Family::Qwen2 | Family::Qwen3 => self.enabled.unwrap_or(false),
            _ => false,
        };
        let Some(window) = self.window.filter(|_| can_slide) else { return Ok(vec![None; self.layers]) };
        if !(1..=MAX_SIZE).contains(&window) {
            return Err(("sliding_window", window.to_string(), "1 to 16777216"));
        }
        if let Some(types) = self.types {
            if types.len() != self.layers {
                return Err(("layer_types", format!("{} entries", types.len()), "one for each layer"));
            }
            let kinds = types.iter().map(|kind| match kind.as_str() {
                "full_attention" => Ok(None),
                "sliding_attention" => Ok(Some(window)),
                other => Err(("layer_types", other.to_owned(), "full_attention, sliding_attention")),
            });
            return kinds.collect();
        }
        let pattern = self.pattern.unwrap_or(6).max(1);
        let slides = |layer: usize| match self.family {
            Family::Gemma2 => layer.is_multiple_of(2),
            Family::Gemma3 => !(layer + 1).is_multiple_of(pattern),
            _ => layer >= self.full_layers.unwrap_or(28),
        };
        Ok((0..self.layers).map(|layer| slides(layer).then_some(window)).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(mut change: Value) -> Result<Config> {
        let mut json = json!({
            "model_type": "llama", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "rope_theta": 10000.0,
        });
        json.as_object_mut().unwrap().append(change.as_object_mut().unwrap());
        Config::read("config.json", &json).map(Option::unwrap)
    }

    #[test]
    fn other_models_are_not_ours() {
        assert_eq!(Config::read("", &json!({"model_type": "t5"})).unwrap(), None);
        assert_eq!(Config::read("", &json!([])).unwrap(), None);
    }

    #[test]
    fn windows_follow_the_pattern_of_each_family() {
        let sliding = |change| -> Vec<bool> {
            config(change).unwrap().layers.iter().map(|layer| layer.window.is_some()).collect()
        };
        assert_eq!(sliding(json!({"sliding_window": 8})), [false; 6]);
        let alternating = [true, false, true, false, true, false];
        assert_eq!(sliding(json!({"model_type": "gemma2", "sliding_window": 8})), alternating);
        let one_in_three = [true, true, false, true, true, false];
        let gemma3 = json!({"model_type": "gemma3_text", "sliding_window_pattern": 3});
        assert_eq!(sliding(gemma3), one_in_three);
        let qwen = json!({"model_type": "qwen2", "use_sliding_window": true, "max_window_layers": 4});
        assert_eq!(sliding(qwen), [false, false, false, false, true, true]);
        let types = ["full_attention"; 5].iter().chain(&["sliding_attention"]).collect::<Vec<_>>();
        let listed = json!({"model_type": "gemma3_text", "layer_types": types});
        assert_eq!(sliding(listed), [false, false, false, false, false, true]);
    }

    #[test]
    fn a_stretched_context_is_the_models() {
        let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128});
        let stretched = config(json!({"rope_scaling": yarn})).unwrap();
        assert_eq!(stretched.context, 512);
        let listed = config(json!({"rope_scaling": yarn, "max_position_embeddings": 512})).unwrap();
        assert_eq!((listed.context, listed.rotary), (512, stretched.rotary));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (change, name) in [
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"num_attention_heads": 0}), "num_attention_heads"),
            (json!({"hidden_size": 1u64 << 40}), "hidden_size"),
            (json!({"rms_norm_eps": -1.0}), "rms_norm_eps"),
            (json!({"hidden_act": "relu6"}), "hidden_act"),
            (json!({"model_type": "gemma2", "layer_types": ["full_attention"]}), "layer_types"),
            (json!({"model_type": "gemma2", "sliding_window": 0}), "sliding_window"),
            (json!({"model_type": "gemma2", "sliding_window": u64::MAX}), "sliding_window"),
            (json!({"rope_theta": 0.0}), "rope_theta"),
            (json!({"rope_scaling": {"type": "spiral"}}), "rope_type"),
            (json!({"rope_scaling": {"type": "yarn", "factor": 1e9}}), "rope_scaling"),
        ] {
            let error = config(change).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
