//! The stack of layers, the same in the graphs of all devices: which block comes after which, and where the norms are.

use super::parts::Parts;
use crate::{
    error::Result,
    graph::{Norm, Stream, Value},
};

/// What a layer is made of, as nodes of one kind of graph. Residual, norms and branches are f32 in each.
pub trait Blocks {
    /// RMSNorm of tokens.
    fn norm(&mut self, address: &str, x: Value<f32>, norm: &Norm) -> Result<Value<f32>>;

    /// Adds a branch to the stream and normalizes it for the next block.
    fn join(&mut self, address: &str, stream: Stream, branch: Value<f32>, norm: &Norm) -> Result<Stream>;

    /// The branch of a layer's attention; `prefix` is that of its tensors.
    fn attention(&mut self, address: &str, x: Value<f32>, prefix: &str, layer: usize) -> Result<Value<f32>>;

    /// The branch of a feed-forward block.
    fn feed_forward(&mut self, address: &str, x: Value<f32>, prefix: &str) -> Result<Value<f32>>;
}

/// All layers, from embedded tokens to the last norm's output.
pub fn stack(parts: Parts, blocks: &mut impl Blocks, x: Value<f32>) -> Result<Value<f32>> {
    let d_model = parts.config.d_model;
    let norm = |tensor: &str| parts.norm(tensor, d_model);
    let first = norm("model.layers.0.input_layernorm")?;
    let normed = blocks.norm("/decoder/layers.0/input_norm", x, &first)?;
    let mut stream = Stream { residual: x, normed };
    for layer in 0..parts.config.layers.len() {
        let address = format!("/decoder/layers.{layer}");
        let tensor = |name: &str| format!("model.layers.{layer}.{name}");
        // The same tensor name means the norm before the feed-forward block, unless branches have their own.
        let (after, before) = if parts.config.post_norms {
            (Some("post_attention_layernorm"), "pre_feedforward_layernorm")
        } else {
            (None, "post_attention_layernorm")
        };

        let at = format!("{address}/self_attn");
        let mut branch = blocks.attention(&at, stream.normed, &tensor("self_attn"), layer)?;
        if let Some(after) = after {
            branch = blocks.norm(&format!("{at}/post_norm"), branch, &norm(&tensor(after))?)?;
        }
        let before = norm(&tensor(before))?;
        stream = blocks.join(&format!("{address}/mlp_norm"), stream, branch, &before)?;

        let at = format!("{address}/mlp");
        let mut branch = blocks.feed_forward(&at, stream.normed, &tensor("mlp"))?;
        if parts.config.post_norms {
            let after = norm(&tensor("post_feedforward_layernorm"))?;
            branch = blocks.norm(&format!("{at}/post_norm"), branch, &after)?;
        }
        let (address, next) = parts.next_norm(layer);
        stream = blocks.join(&address, stream, branch, &norm(&next)?)?;
    }
    Ok(stream.normed)
}
