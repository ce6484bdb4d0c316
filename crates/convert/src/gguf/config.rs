//! The metadata as `config.json` would say it.

use serde_json::{Map, Value as Json, json};

use super::{
    Gguf,
    header::{Header, Value},
    names::{Architecture, Family, ROPE_DIVISORS},
};
use crate::{error::Result, weights::TensorSource};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Layers of the 27B models, whose scale of attention llama.cpp knows by their number.
const GEMMA2_27B_LAYERS: u64 = 46;
const GEMMA3_27B_LAYERS: u64 = 62;
/// Of so many layers, the last sees everything.
const GEMMA2_PATTERN: usize = 2;
const GEMMA3_PATTERN: usize = 6;
/// Of attention and of the logits, where a file does not say.
const GEMMA2_SOFTCAPS: [f64; 2] = [50.0, 30.0];

impl Architecture {
    pub fn heads(&self, header: &Header) -> Result<usize> {
        let key = self.key("attention.head_count");
        let heads = header.required(&key, header.same_everywhere(&key)?)?;
        self.size(header, &key, heads)
    }

    pub fn kv_heads(&self, header: &Header) -> Result<usize> {
        let key = self.key("attention.head_count_kv");
        match header.same_everywhere(&key)? {
            Some(heads) => self.size(header, &key, heads),
            None => self.heads(header),
        }
    }

    fn size(&self, header: &Header, key: &str, size: u64) -> Result<usize> {
        let fits = usize::try_from(size).ok().filter(|size| (1..=1 << 24).contains(size));
        fits.ok_or_else(|| header.unsupported(&format!("`{key}`"), size.to_string(), "1 to 16777216"))
    }
}

impl Gguf {
    /// What `config.json` would say.
    pub fn config(&self) -> Result<Json> {
        let (header, architecture) = (&self.header, &self.architecture);
        let key = |name: &str| architecture.key(name);
        let unsigned = |name: &str| header.unsigned(&key(name));
        let size = |name: &str| {
            let value = header.required(&key(name), header.same_everywhere(&key(name))?)?;
            architecture.size(header, &key(name), value)
        };
        let number = |name: &str| header.number(&key(name));

        if let Some(experts) = unsigned("expert_count")?.filter(|&experts| experts > 0) {
            return Err(header.unsupported(
                "the feed-forward block",
                format!("{experts} experts"),
                "a dense one",
            ));
        }
        let hidden = size("embedding_length")?;
        let layers = size("block_count")?;
        let heads = architecture.heads(header)?;
        let head_dim = match unsigned("attention.key_length")? {
            Some(width) => architecture.size(header, &key("attention.key_length"), width)?,
            None => hidden / heads,
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(width) = unsigned(name)?.filter(|&width| width != head_dim as u64) {
                let expected = format!("{head_dim}, the width of a head");
                return Err(header.unsupported(&format!("`{}`", key(name)), width.to_string(), &expected));
            }
        }
        let Some(&[vocab_size, _]) = self.shape(EMBEDDING) else {
            return Err(header.damaged(
                "the tensor `token_embd.weight`",
                "missing or of another shape",
                "a matrix",
            ));
        };
        let has_bias = |module: &str| self.contains(&format!("model.layers.0.{module}.bias"));
        let mut config = Map::new();
        let mut set = |name: &str, value: Json| _ = config.insert(name.to_owned(), value);
        set("model_type", json!(architecture.model_type));
        set("vocab_size", json!(vocab_size));
        set("hidden_size", json!(hidden));
        set("intermediate_size", json!(size("feed_forward_length")?));
        set("num_hidden_layers", json!(layers));
        set("num_attention_heads", json!(heads));
        set("num_key_value_heads", json!(architecture.kv_heads(header)?));
        set("head_dim", json!(head_dim));
        set("max_position_embeddings", json!(size("context_length")?));
        let epsilon = key("attention.layer_norm_rms_epsilon");
        set("rms_norm_eps", json!(header.required(&epsilon, header.number(&epsilon)?)?));
        set("hidden_act", json!(if architecture.is_gemma() { "gelu_pytorch_tanh" } else { "silu" }));
        set("attention_bias", json!(has_bias("self_attn.q_proj")));
        set("mlp_bias", json!(has_bias("mlp.gate_proj")));
        set("tie_word_embeddings", json!(!self.contains(HEAD)));
        for (name, id) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
            if let Some(id) = self.special_id(id)? {
                set(name, json!(id));
            }
        }
        // HunYuan's alpha is in the base already.
        set("rope_theta", json!(number("rope.freq_base")?.unwrap_or(10_000.0)));
        if let Some(scaling) = self.rope_scaling()? {
            set("rope_scaling", scaling);
        }
        if matches!(architecture.family, Family::Gemma2 | Family::Gemma3) {
            let deep = match architecture.family {
                Family::Gemma2 => GEMMA2_27B_LAYERS,
                _ => GEMMA3_27B_LAYERS,
            };
            let scalar = match number("attention.scale")? {
                Some(scale) => scale.powi(-2),
                None if layers as u64 == deep => hidden as f64 / heads as f64,
                None => head_dim as f64,
            };
            set("query_pre_attn_scalar", json!(scalar));
            for (name, cap) in
                ["attn_logit_softcapping", "final_logit_softcapping"].into_iter().zip(GEMMA2_SOFTCAPS)
            {
                let cap = (architecture.family == Family::Gemma2).then_some(cap);
                set(name, json!(number(name)?.or(cap)));
            }
            let window = unsigned("attention.sliding_window")?.filter(|&window| window > 0);
            if let Some(window) = window {
                set("sliding_window", json!(window));
            }
            let slides = self.sliding_layers(layers)?;
            let kind = |slides: &bool| match *slides && window.is_some() {
                true => "sliding_attention",
                false => "full_attention",
            };
            set("layer_types", json!(slides.iter().map(kind).collect::<Vec<_>>()));
        }
        if architecture.family == Family::Gemma3 {
            set("rope_local_base_freq", json!(number("rope.freq_base_swa")?.unwrap_or(10_000.0)));
        }
        Ok(Json::Object(config))
    }

    /// Which layers see a window only.
    fn sliding_layers(&self, layers: usize) -> Result<Vec<bool>> {
        let key = self.architecture.key("attention.sliding_window_pattern");
        let pattern = match self.header.value(&key) {
            Some(Value::Bools(listed)) if listed.len() == layers => return Ok(listed.clone()),
            Some(Value::Integer(pattern)) if (1..=layers as i128).contains(pattern) => *pattern as usize,
            Some(_) => {
                let expected = "a number of layers, or true or false for each";
                return Err(self.header.unsupported(
                    &format!("`{key}`"),
                    "something else".to_owned(),
                    expected,
                ));
            }
            None if self.architecture.family == Family::Gemma2 => GEMMA2_PATTERN,
            None => GEMMA3_PATTERN,
        };
        Ok((1..=layers).map(|layer| !layer.is_multiple_of(pattern)).collect())
    }

    fn rope_scaling(&self) -> Result<Option<Json>> {
        let header = &self.header;
        let key = |name: &str| self.architecture.key(&format!("rope.{name}"));
        let kind = header.text(&key("scaling.type"))?.unwrap_or("none");
        let old_factor = header.number(&key("scale_linear"))?;
        let factor = header.number(&key("scaling.factor"))?.or(old_factor);
        let scaling = match kind {
            // Old files have the factor alone.
            "none" => old_factor.filter(|&factor| factor != 1.0).map(|factor| ("linear", factor)),
            "linear" => factor.filter(|&factor| factor != 1.0).map(|factor| ("linear", factor)),
            "yarn" => Some(("yarn", header.required(&key("scaling.factor"), factor)?)),
            other => {
                return Err(header.unsupported(
                    &format!("`{}`", key("scaling.type")),
                    format!("`{other}`"),
                    "none, linear, yarn",
                ));
            }
        };
        if let Some(info) = header.tensors.get(ROPE_DIVISORS) {
            if scaling.is_some() || info.shape.len() != 1 {
                let got = format!("of shape {:?} beside a scaling `{kind}`", info.shape);
                return Err(header.unsupported(
                    &format!("the tensor `{ROPE_DIVISORS}`"),
                    got,
                    "a list, and no other scaling",
                ));
            }
            let divisors = self.values(ROPE_DIVISORS, info, 0..info.shape[0])?;
            return Ok(Some(json!({ "rope_type": "divisors", "divisors": divisors })));
        }
        let Some((kind, factor)) = scaling else { return Ok(None) };
        let mut scaling = json!({ "rope_type": kind, "factor": factor });
        if kind == "yarn" {
            for (name, idle) in
                [("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0), ("yarn_log_multiplier", 0.0)]
            {
                let key = key(&format!("scaling.{name}"));
                if let Some(value) = header.number(&key)?.filter(|&value| value != idle) {
                    return Err(header.unsupported(
                        &format!("`{key}`"),
                        value.to_string(),
                        &idle.to_string(),
                    ));
                }
            }
            // llama.cpp multiplies its own factor by this one.
            let attention = header.number(&key("scaling.attn_factor"))?;
            let attention = attention.map(|by| by * (1.0 + 0.1 * factor.max(1.0).ln()));
            let context = header.unsigned(&key("scaling.original_context_length"))?;
            for (name, value) in [
                ("original_max_position_embeddings", context.map(|context| context as f64)),
                ("attention_factor", attention),
                ("beta_fast", header.number(&key("scaling.yarn_beta_fast"))?),
                ("beta_slow", header.number(&key("scaling.yarn_beta_slow"))?),
            ] {
                if let Some(value) = value {
                    scaling[name] = json!(value);
                }
            }
        }
        Ok(Some(scaling))
    }
}
