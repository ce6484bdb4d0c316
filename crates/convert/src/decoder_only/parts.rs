//! The weights of the family, by what they are for, whatever graph and format they go to.

use super::{
    EMBEDDING, HEAD,
    config::{Config, HeadNorm},
};
use crate::{
    error::{ConvertError, Result},
    graph::{Heads, Linear, Norm, RotaryNorm},
    weights::{TensorSource, Weight},
};

/// See the module.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub config: &'a Config,
    pub tensors: &'a dyn TensorSource,
}

/// One of the stacked parts of a linear layer: its tensor and its number of outputs.
type Stacked<'a> = (&'a str, usize);

impl<'a> Parts<'a> {
    pub fn heads(&self) -> Heads {
        let Config { heads, kv_heads, attention_scale, .. } = *self.config;
        Heads { query: heads, kv: kv_heads, scale: attention_scale }
    }

    pub fn norm(&self, tensor: &str, width: usize) -> Result<Norm> {
        let mut scale = self.tensors.vector(&format!("{tensor}.weight"), width)?;
        if self.config.norm_offset {
            scale.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(Norm { scale, bias: None, epsilon: self.config.epsilon })
    }

    /// Address and tensor of the norm behind a layer: the next one's first, or the last of all.
    pub fn next_norm(&self, layer: usize) -> (String, String) {
        let next = layer + 1;
        if next == self.config.layers.len() {
            ("/decoder/final_norm".to_owned(), "model.norm".to_owned())
        } else {
            (format!("/decoder/layers.{next}/input_norm"), format!("model.layers.{next}.input_layernorm"))
        }
    }

    /// Norms of query and key heads, where the family has them, and when they come.
    pub fn head_norms(&self, prefix: &str) -> Result<Option<([Norm; 2], RotaryNorm)>> {
        let (order, [query, key]) = match self.config.head_norm {
            HeadNorm::None => return Ok(None),
            HeadNorm::BeforeRotation => (RotaryNorm::First, ["q_norm", "k_norm"]),
            HeadNorm::AfterRotation => (RotaryNorm::Last, ["query_layernorm", "key_layernorm"]),
        };
        let norm = |name: &str| self.norm(&format!("{prefix}.{name}"), self.config.head_dim);
        Ok(Some(([norm(query)?, norm(key)?], order)))
    }

    /// Queries, keys and values of an attention.
    pub fn qkv<F>(&self, prefix: &str, format: F) -> Result<Linear<'a, F>> {
        let Config { heads, kv_heads, head_dim, d_model, .. } = *self.config;
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{prefix}.{name}"));
        let parts = [
            (q.as_str(), heads * head_dim),
            (k.as_str(), kv_heads * head_dim),
            (v.as_str(), kv_heads * head_dim),
        ];
        self.layer(&parts, d_model, self.config.attention_bias[0], format)
    }

    /// Output of an attention.
    pub fn output<F>(&self, prefix: &str, format: F) -> Result<Linear<'a, F>> {
        let Config { heads, head_dim, d_model, attention_bias, .. } = *self.config;
        let output = format!("{prefix}.o_proj");
        self.layer(&[(output.as_str(), d_model)], heads * head_dim, attention_bias[1], format)
    }

    /// Gate and values of a feed-forward block.
    pub fn gate_up<F>(&self, prefix: &str, format: F) -> Result<Linear<'a, F>> {
        let Config { d_model, d_ff, mlp_bias, .. } = *self.config;
        let [gate, up] = ["gate_proj", "up_proj"].map(|name| format!("{prefix}.{name}"));
        self.layer(&[(gate.as_str(), d_ff), (up.as_str(), d_ff)], d_model, mlp_bias, format)
    }

    /// Output of a feed-forward block.
    pub fn down<F>(&self, prefix: &str, format: F) -> Result<Linear<'a, F>> {
        let Config { d_model, d_ff, mlp_bias, .. } = *self.config;
        self.layer(&[(format!("{prefix}.down_proj").as_str(), d_model)], d_ff, mlp_bias, format)
    }

    pub fn head<F>(&self, is_tied: bool, format: F) -> Result<Linear<'a, F>> {
        let tensor = if is_tied { EMBEDDING } else { HEAD };
        self.layer(&[(tensor, self.config.vocab_size)], self.config.d_model, false, format)
    }

    /// A linear layer whose outputs are those of `parts`, one after the other.
    fn layer<F>(&self, parts: &[Stacked], inputs: usize, has_bias: bool, format: F) -> Result<Linear<'a, F>> {
        let mut weights = Vec::with_capacity(parts.len());
        let mut bias = Vec::new();
        for &(tensor, outputs) in parts {
            weights.push(Weight::stored(self.tensors, &format!("{tensor}.weight"), outputs, inputs));
            let name = format!("{tensor}.bias");
            if has_bias {
                bias.extend(self.tensors.vector(&name, outputs)?);
            } else if self.tensors.contains(&name) {
                return Err(ConvertError::Unsupported {
                    path: name,
                    what: "the bias".to_owned(),
                    got: "in the checkpoint".to_owned(),
                    expected: "none by its configuration; correct one of them".to_owned(),
                });
            }
        }
        let bias = has_bias.then_some(bias);
        Ok(Linear { weight: Weight::stack(weights), bias, format })
    }
}
