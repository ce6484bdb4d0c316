//! Architectures, and what their tensors are called in GGUF and on the hub.

use super::header::Header;
use crate::error::Result;

const ARCHITECTURE: &str = "general.architecture";

/// Model family of a file.
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

/// A family, and the prefix of its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    pub family: Family,
    pub name: &'static str,
    pub model_type: &'static str,
}

const ARCHITECTURES: [Architecture; 7] = [
    Architecture { family: Family::Llama, name: "llama", model_type: "llama" },
    Architecture { family: Family::Qwen2, name: "qwen2", model_type: "qwen2" },
    Architecture { family: Family::Qwen3, name: "qwen3", model_type: "qwen3" },
    Architecture { family: Family::Gemma, name: "gemma", model_type: "gemma" },
    Architecture { family: Family::Gemma2, name: "gemma2", model_type: "gemma2" },
    Architecture { family: Family::Gemma3, name: "gemma3", model_type: "gemma3_text" },
    Architecture { family: Family::HunYuan, name: "hunyuan-dense", model_type: "hunyuan_v1_dense" },
];

/// Divisors of the rotation's frequencies; [`super::config`] has them.
pub const ROPE_DIVISORS: &str = "rope_freqs.weight";

impl Architecture {
    pub fn of(header: &Header) -> Result<Self> {
        let name = header.required(ARCHITECTURE, header.text(ARCHITECTURE)?)?;
        ARCHITECTURES.into_iter().find(|architecture| architecture.name == name).ok_or_else(|| {
            let known = ARCHITECTURES.map(|architecture| architecture.name).join(", ");
            header.unsupported("the architecture", format!("`{name}`"), &known)
        })
    }

    /// The key of one of the family's own metadata entries.
    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    pub fn is_gemma(&self) -> bool {
        matches!(self.family, Family::Gemma | Family::Gemma2 | Family::Gemma3)
    }

    /// Whether each block's output is normalized too.
    fn has_post_norms(&self) -> bool {
        matches!(self.family, Family::Gemma2 | Family::Gemma3)
    }

    /// The hub's name of a tensor; none when the family has none such.
    pub fn hub_name(&self, name: &str) -> Option<String> {
        match name {
            "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
            "output_norm.weight" => return Some("model.norm.weight".to_owned()),
            "output.weight" => return Some("lm_head.weight".to_owned()),
            _ => {}
        }
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        // In one spelling only, so that no two tensors get one name.
        let layer = layer.parse::<usize>().ok().filter(|number| number.to_string() == layer)?;
        let (module, part) = rest.rsplit_once('.')?;
        let (module, has_bias) = match module {
            "attn_q" => ("self_attn.q_proj", true),
            "attn_k" => ("self_attn.k_proj", true),
            "attn_v" => ("self_attn.v_proj", true),
            "attn_output" => ("self_attn.o_proj", true),
            "ffn_gate" => ("mlp.gate_proj", true),
            "ffn_up" => ("mlp.up_proj", true),
            "ffn_down" => ("mlp.down_proj", true),
            "attn_norm" => ("input_layernorm", false),
            "ffn_norm" if self.has_post_norms() => ("pre_feedforward_layernorm", false),
            "ffn_norm" => ("post_attention_layernorm", false),
            "post_attention_norm" if self.has_post_norms() => ("post_attention_layernorm", false),
            "post_ffw_norm" if self.has_post_norms() => ("post_feedforward_layernorm", false),
            "attn_q_norm" | "attn_k_norm" => match (self.family, module) {
                (Family::Qwen3 | Family::Gemma3, "attn_q_norm") => ("self_attn.q_norm", false),
                (Family::Qwen3 | Family::Gemma3, _) => ("self_attn.k_norm", false),
                (Family::HunYuan, "attn_q_norm") => ("self_attn.query_layernorm", false),
                (Family::HunYuan, _) => ("self_attn.key_layernorm", false),
                _ => return None,
            },
            _ => return None,
        };
        match part {
            "weight" => {}
            "bias" if has_bias => {}
            _ => return None,
        }
        Some(format!("model.layers.{layer}.{module}.{part}"))
    }
}
