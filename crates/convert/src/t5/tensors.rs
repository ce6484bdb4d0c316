//! Which tensors a checkpoint must hold, by name and shape, and what they say that the configuration does not.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{Config, Variant};
use crate::{
    error::{ConvertError, Result},
    weights::TensorSource,
};

/// One of the two stacks of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    Encoder,
    Decoder,
}

impl Stack {
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
        }
    }

    pub fn layers(self, config: &Config) -> usize {
        match self {
            Self::Encoder => config.encoder_layers,
            Self::Decoder => config.decoder_layers,
        }
    }

    fn part(self, layer: usize, part: usize, name: &str) -> String {
        format!("{}.block.{layer}.layer.{part}.{name}", self.name())
    }

    /// Prefix of a self-attention.
    pub fn self_attention(self, layer: usize) -> String {
        self.part(layer, 0, "SelfAttention")
    }

    pub fn self_attention_norm(self, layer: usize) -> String {
        self.part(layer, 0, "layer_norm.weight")
    }

    pub fn bias_table(self, layer: usize) -> String {
        self.part(layer, 0, "SelfAttention.relative_attention_bias.weight")
    }

    fn feed_forward_part(self) -> usize {
        match self {
            Self::Encoder => 1,
            Self::Decoder => 2,
        }
    }

    /// Prefix of a feed-forward block.
    pub fn feed_forward(self, layer: usize) -> String {
        self.part(layer, self.feed_forward_part(), "DenseReluDense")
    }

    pub fn feed_forward_norm(self, layer: usize) -> String {
        self.part(layer, self.feed_forward_part(), "layer_norm.weight")
    }

    pub fn final_norm(self) -> String {
        format!("{}.final_layer_norm.weight", self.name())
    }

    fn embedding(self) -> String {
        format!("{}.embed_tokens.weight", self.name())
    }
}

/// Prefix of the decoder's cross-attention.
pub fn cross_attention(layer: usize) -> String {
    Stack::Decoder.part(layer, 1, "EncDecAttention")
}

pub fn cross_attention_norm(layer: usize) -> String {
    Stack::Decoder.part(layer, 1, "layer_norm.weight")
}

const SHARED: &str = "shared.weight";
const HEAD: &str = "lm_head.weight";

/// What the tensors decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Tensor of the encoder's embedding.
    pub encoder_embedding: String,
    /// The same one, unless the decoder's holds other values.
    pub decoder_embedding: String,
    /// Tensor of the head; none when it is the decoder's embedding.
    pub head: Option<String>,
    /// Each layer of the encoder has its own bias table, rather than that of the first.
    pub encoder_tables: bool,
    pub decoder_tables: bool,
}

impl Layout {
    /// Checks that every tensor is there, with its shape, and that there is none that would be left out.
    pub fn of(tensors: &dyn TensorSource, config: &Config) -> Result<Self> {
        let (encoder_embedding, decoder_embedding) = embeddings(tensors)?;
        let head = if tensors.same(HEAD, &decoder_embedding)? { None } else { Some(HEAD) };
        let layout = Self {
            encoder_embedding,
            decoder_embedding,
            head: head.filter(|head| tensors.contains(head)).map(str::to_owned),
            encoder_tables: has_own_tables(tensors, Stack::Encoder, config),
            decoder_tables: has_own_tables(tensors, Stack::Decoder, config),
        };
        let required = layout.required(config);
        for (name, shape) in &required {
            match tensors.shape(name) {
                None => {
                    return Err(ConvertError::MissingTensor {
                        path: tensors.path().display().to_string(),
                        tensor: name.clone(),
                    });
                }
                Some(got) if got != shape => {
                    return Err(ConvertError::Shape {
                        path: tensors.path().display().to_string(),
                        tensor: name.clone(),
                        got: got.to_vec(),
                        expected: shape.clone(),
                    });
                }
                Some(_) => {}
            }
        }
        let copies =
            [SHARED.to_owned(), HEAD.to_owned(), Stack::Encoder.embedding(), Stack::Decoder.embedding()];
        let copies = BTreeSet::from(copies);
        // Old checkpoints have a bias table in a cross-attention; nothing has ever read it.
        let stray = |name: &str| name.ends_with(".EncDecAttention.relative_attention_bias.weight");
        let surplus = tensors
            .names()
            .find(|&name| !required.contains_key(name) && !copies.contains(name) && !stray(name));
        match surplus {
            None => Ok(layout),
            Some(name) => Err(ConvertError::Unsupported {
                path: tensors.path().display().to_string(),
                what: format!("the tensor `{name}`"),
                got: "one that the configuration leaves no place for".to_owned(),
                expected: "a checkpoint that agrees with its configuration".to_owned(),
            }),
        }
    }

    pub fn has_own_tables(&self, stack: Stack) -> bool {
        match stack {
            Stack::Encoder => self.encoder_tables,
            Stack::Decoder => self.decoder_tables,
        }
    }

    fn required(&self, config: &Config) -> BTreeMap<String, Vec<usize>> {
        let &Config { d_model, d_ff, inner, vocab_size, .. } = config;
        let mut shapes = BTreeMap::new();
        let mut add = |name: String, shape: &[usize]| _ = shapes.insert(name, shape.to_vec());
        for name in [Some(&self.encoder_embedding), Some(&self.decoder_embedding), self.head.as_ref()] {
            name.into_iter().for_each(|name| add(name.clone(), &[vocab_size, d_model]));
        }
        for stack in [Stack::Encoder, Stack::Decoder] {
            for layer in 0..stack.layers(config) {
                let mut attentions = vec![stack.self_attention(layer)];
                add(stack.self_attention_norm(layer), &[d_model]);
                if stack == Stack::Decoder {
                    attentions.push(cross_attention(layer));
                    add(cross_attention_norm(layer), &[d_model]);
                }
                for attention in attentions {
                    for name in ["q", "k", "v"] {
                        add(format!("{attention}.{name}.weight"), &[inner, d_model]);
                    }
                    add(format!("{attention}.o.weight"), &[d_model, inner]);
                }
                if layer == 0 || self.has_own_tables(stack) {
                    add(stack.bias_table(layer), &[config.buckets.count, config.heads]);
                }
                let feed_forward = stack.feed_forward(layer);
                for name in if config.gated { ["wi_0", "wi_1"].as_slice() } else { &["wi"] } {
                    add(format!("{feed_forward}.{name}.weight"), &[d_ff, d_model]);
                }
                add(format!("{feed_forward}.wo.weight"), &[d_model, d_ff]);
                add(stack.feed_forward_norm(layer), &[d_model]);
            }
            add(stack.final_norm(), &[d_model]);
        }
        shapes
    }
}

/// A stack's own embedding goes before the shared one, and the other stack's serves where both are missing.
fn embeddings(tensors: &dyn TensorSource) -> Result<(String, String)> {
    let (encoder, decoder) = (Stack::Encoder.embedding(), Stack::Decoder.embedding());
    let first = |names: [&str; 3]| names.into_iter().find(|name| tensors.contains(name)).map(str::to_owned);
    let (Some(of_encoder), Some(of_decoder)) =
        (first([&encoder, SHARED, &decoder]), first([&decoder, SHARED, &encoder]))
    else {
        return Err(ConvertError::MissingTensor {
            path: tensors.path().display().to_string(),
            tensor: SHARED.to_owned(),
        });
    };
    if of_encoder != of_decoder && tensors.same(&of_encoder, &of_decoder)? {
        return Ok((of_encoder.clone(), of_encoder));
    }
    Ok((of_encoder, of_decoder))
}

fn has_own_tables(tensors: &dyn TensorSource, stack: Stack, config: &Config) -> bool {
    config.variant == Variant::Umt5
        || (1..stack.layers(config)).any(|layer| tensors.contains(&stack.bias_table(layer)))
}
