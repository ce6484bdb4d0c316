//! The graph: embedded tokens and the caches to logits.
//!
//! ```text
//! x ─ norm ─ qkv ─ RotaryHeads ─ CachedAttention ─ o ─ (norm) ─ add+norm ─ gate, up ─ act·mul ─ down ─ (norm) ─ …
//!   … ─ add+norm ─ Gather(logit_rows) ─ head ─ (softcap)
//! ```

use textgen_artifact::{Geometry, Part};

use super::{
    EMBEDDING, HEAD,
    config::{Config, HeadNorm},
};
use crate::{
    checkpoint::Precision,
    error::{ConvertError, Result},
    graph::{
        DecoderInputs, GraphBuilder, Heads, Linear, LinearFormat, Norm, RotaryNorm, RotaryNorms, SelfCaches,
        Sight, Value,
    },
    weights::{StoredTable, TensorSource, Weight, WeightsWriter},
};

/// Reads the weights of a layer and adds its nodes to the graph.
pub struct Layers<'a> {
    pub config: &'a Config,
    pub tensors: &'a dyn TensorSource,
    pub precision: Precision,
    /// The embedding, where the head is tied to it.
    pub tied_head: Option<&'a StoredTable>,
}

/// One of the stacked parts of a linear layer: its tensor and its number of outputs.
type Stacked<'a> = (&'a str, usize);

impl Layers<'_> {
    pub fn graph<'w>(&self, geometry: &Geometry, weights: &'w mut WeightsWriter) -> Result<GraphBuilder<'w>> {
        let config = self.config;
        let mut graph = GraphBuilder::new(Part::Decoder, weights);
        let graph_ref = &mut graph;
        let inputs = DecoderInputs::declare(graph_ref, geometry);
        let caches = SelfCaches::declare(graph_ref, geometry, inputs.row_offsets);
        let rotary = inputs.rotary(graph_ref, &config.rotary);
        let mut present = Vec::with_capacity(config.layers.len());
        let mut residual = inputs.x;
        let mut normed = graph_ref.rms_norm(
            "/decoder/layers.0/input_norm",
            residual,
            &self.norm("model.layers.0.input_layernorm", config.d_model)?,
        )?;
        for (layer, kind) in config.layers.iter().enumerate() {
            let address = format!("/decoder/layers.{layer}");
            let tensor = |name: &str| format!("model.layers.{layer}.{name}");

            let at = format!("{address}/self_attn");
            let qkv = self.qkv(graph_ref, &at, normed, &tensor("self_attn"))?;
            let norms = self.head_norms(graph_ref, &at, &tensor("self_attn"))?;
            let qkv = graph_ref.rotary_heads(&at, qkv, rotary[kind.rotary], norms, self.heads());
            let sight = Sight { softcap: config.attention_softcap, window: kind.window };
            let (mixed, cache) = graph_ref.cached_attention(
                &at,
                qkv,
                caches.rows,
                caches.past[layer],
                None,
                self.heads(),
                sight,
            );
            present.push(cache);
            let inner = config.heads * config.head_dim;
            let output = [(tensor("self_attn.o_proj"), config.d_model)];
            let branch = self.linear(
                graph_ref,
                &format!("{at}/o"),
                mixed,
                &output.each_ref().map(|(name, outputs)| (name.as_str(), *outputs)),
                inner,
                config.attention_bias[1],
                self.format(),
            )?;
            // The same tensor name means the norm before the feed-forward block, unless branches have their own.
            let (after, before) = if config.post_norms {
                (Some("post_attention_layernorm"), "pre_feedforward_layernorm")
            } else {
                (None, "post_attention_layernorm")
            };
            let branch =
                self.branch_norm(graph_ref, &format!("{at}/post_norm"), branch, after.map(tensor))?;
            let norm = self.norm(&tensor(before), config.d_model)?;
            (normed, residual) =
                graph_ref.add_rms_norm(&format!("{address}/mlp_norm"), residual, branch, &norm)?;

            let at = format!("{address}/mlp");
            let branch = self.feed_forward(graph_ref, &at, normed, &tensor("mlp"))?;
            let after = config.post_norms.then(|| tensor("post_feedforward_layernorm"));
            let branch = self.branch_norm(graph_ref, &format!("{at}/post_norm"), branch, after)?;
            let next = layer + 1;
            let (address, name) = if next == config.layers.len() {
                ("/decoder/final_norm".to_owned(), "model.norm".to_owned())
            } else {
                (format!("/decoder/layers.{next}/input_norm"), format!("model.layers.{next}.input_layernorm"))
            };
            let norm = self.norm(&name, config.d_model)?;
            (normed, residual) = graph_ref.add_rms_norm(&address, residual, branch, &norm)?;
        }
        let hidden = graph_ref.gather_rows("/decoder/Gather", normed, inputs.logit_rows);
        let logits = self.head(graph_ref, hidden)?;
        SelfCaches::finish(graph_ref, geometry, &present);
        DecoderInputs::finish(graph_ref, geometry, logits);
        Ok(graph)
    }

    fn heads(&self) -> Heads {
        let Config { heads, kv_heads, attention_scale, .. } = *self.config;
        Heads { query: heads, kv: kv_heads, scale: attention_scale }
    }

    /// Format of a product whose inputs are well behaved.
    fn format(&self) -> LinearFormat {
        match self.precision {
            Precision::Fp32 => LinearFormat::F32,
            Precision::Int8 => LinearFormat::Int8Column,
            Precision::Int4 => LinearFormat::Int4Block,
        }
    }

    /// Format of the feed-forward output, whose inputs have outliers.
    fn outlier_format(&self) -> LinearFormat {
        match self.precision {
            Precision::Int8 => LinearFormat::Int8Outlier,
            _ => self.format(),
        }
    }

    /// Format of the head, whose errors nothing evens out.
    fn head_format(&self) -> LinearFormat {
        match self.precision {
            Precision::Fp32 => LinearFormat::F32,
            Precision::Int8 | Precision::Int4 => LinearFormat::Int8Column,
        }
    }

    fn norm(&self, tensor: &str, width: usize) -> Result<Norm> {
        let mut scale = self.tensors.vector(&format!("{tensor}.weight"), width)?;
        if self.config.norm_offset {
            scale.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(Norm { scale, bias: None, epsilon: self.config.epsilon })
    }

    /// The norm of a block's output, where the family has one.
    fn branch_norm(
        &self,
        graph: &mut GraphBuilder,
        address: &str,
        branch: Value<f32>,
        tensor: Option<String>,
    ) -> Result<Value<f32>> {
        match tensor {
            None => Ok(branch),
            Some(tensor) => graph.rms_norm(address, branch, &self.norm(&tensor, self.config.d_model)?),
        }
    }

    fn qkv(&self, graph: &mut GraphBuilder, at: &str, x: Value<f32>, prefix: &str) -> Result<Value<f32>> {
        let Config { heads, kv_heads, head_dim, d_model, .. } = *self.config;
        let names = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{prefix}.{name}"));
        let parts = [
            (names[0].as_str(), heads * head_dim),
            (names[1].as_str(), kv_heads * head_dim),
            (names[2].as_str(), kv_heads * head_dim),
        ];
        let bias = self.config.attention_bias[0];
        self.linear(graph, &format!("{at}/qkv"), x, &parts, d_model, bias, self.format())
    }

    fn head_norms(&self, graph: &mut GraphBuilder, at: &str, prefix: &str) -> Result<Option<RotaryNorms>> {
        let (order, names) = match self.config.head_norm {
            HeadNorm::None => return Ok(None),
            HeadNorm::BeforeRotation => (RotaryNorm::First, ["q_norm", "k_norm"]),
            HeadNorm::AfterRotation => (RotaryNorm::Last, ["query_layernorm", "key_layernorm"]),
        };
        let width = self.config.head_dim;
        let [query, key] = names.map(|name| self.norm(&format!("{prefix}.{name}"), width));
        graph.rotary_norms(at, &query?, &key?, order).map(Some)
    }

    fn feed_forward(
        &self,
        graph: &mut GraphBuilder,
        at: &str,
        x: Value<f32>,
        prefix: &str,
    ) -> Result<Value<f32>> {
        let Config { d_model, d_ff, mlp_bias, activation, .. } = *self.config;
        let [gate, up, down] = ["gate_proj", "up_proj", "down_proj"].map(|name| format!("{prefix}.{name}"));
        let parts = [(gate.as_str(), d_ff), (up.as_str(), d_ff)];
        let gate_up = self.layer(&parts, d_model, mlp_bias, self.format())?;
        let hidden = graph.gated_linear(&format!("{at}/gate_up"), x, gate_up, activation)?;
        let parts = [(down.as_str(), d_model)];
        self.linear(graph, &format!("{at}/down"), hidden, &parts, d_ff, mlp_bias, self.outlier_format())
    }

    fn head(&self, graph: &mut GraphBuilder, hidden: Value<f32>) -> Result<Value<f32>> {
        const ADDRESS: &str = "/lm_head";
        let shape @ [outputs, inputs] = [self.config.vocab_size, self.config.d_model];
        let logits = match self.tied_head {
            Some(table) if self.precision == Precision::Fp32 => {
                graph.tied_linear(ADDRESS, hidden, table, shape, None)?
            }
            // In 8 bits the head has a matrix of its own: it wants another layout than the lookup table.
            tied => {
                let tensor = if tied.is_some() { EMBEDDING } else { HEAD };
                self.linear(graph, ADDRESS, hidden, &[(tensor, outputs)], inputs, false, self.head_format())?
            }
        };
        Ok(match self.config.final_softcap {
            Some(cap) => graph.softcap("/lm_head/softcap", logits, cap),
            None => logits,
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn linear(
        &self,
        graph: &mut GraphBuilder,
        address: &str,
        x: Value<f32>,
        parts: &[Stacked],
        inputs: usize,
        has_bias: bool,
        format: LinearFormat,
    ) -> Result<Value<f32>> {
        graph.linear(address, x, self.layer(parts, inputs, has_bias, format)?)
    }

    /// A linear layer whose outputs are those of `parts`, one after the other.
    fn layer(
        &self,
        parts: &[Stacked],
        inputs: usize,
        has_bias: bool,
        format: LinearFormat,
    ) -> Result<Linear<'_>> {
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
