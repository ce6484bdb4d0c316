//! Attention and the recurrent cell of a device.

use textgen_artifact::RotarySpec;

use super::{CrossInputs, DeviceCache, DeviceGraph, Node, SelfCaches, Value};
use crate::{
    error::{ConvertError, Result},
    graph::{Heads, Norm, RotaryNorm, Sight, builder::initializer_name},
    weights::Float,
};

/// Pairs that the attention operator rotates itself come in multiples of this.
const FUSED_HEAD: usize = 16;

/// Elements of a head come in multiples of this.
const HEAD_PART: usize = 8;

/// Refuses heads that no attention of CUDA's takes; `path` is that of the configuration.
pub fn check_heads(path: &str, head_dim: usize) -> Result<()> {
    if head_dim.is_multiple_of(HEAD_PART) {
        return Ok(());
    }
    Err(ConvertError::Unsupported {
        path: path.to_owned(),
        what: "the width of a head".to_owned(),
        got: head_dim.to_string(),
        expected: format!(
            "a multiple of {HEAD_PART}, which CUDA's attention wants; or convert it for the CPU"
        ),
    })
}

/// Cosines and sines of every position, in the graph.
#[derive(Debug, Clone, Copy)]
pub struct RotaryTables<T> {
    cos: Value<T>,
    sin: Value<T>,
    pairs: usize,
}

/// How a layer's queries and keys are rotated.
pub struct Rotary<'n, T> {
    pub tables: RotaryTables<T>,
    pub positions: Value<i64>,
    /// Norms of query and key heads.
    pub norms: Option<([&'n Norm; 2], RotaryNorm)>,
}

impl<T: Float> DeviceGraph<'_, T> {
    /// The tables of a rotary embedding for `positions` positions.
    pub fn rotary_tables(
        &mut self,
        index: usize,
        spec: &RotarySpec,
        positions: usize,
    ) -> Result<RotaryTables<T>> {
        let pairs = spec.inverse_frequencies.len();
        let mut table = |name: &str, function: fn(f32) -> f32| {
            let values: Vec<T> = (0..positions)
                .flat_map(|position| {
                    let angle = move |frequency: &f32| position as f32 * frequency;
                    spec.inverse_frequencies.iter().map(angle)
                })
                .map(|angle| T::of(function(angle) * spec.magnitude))
                .collect();
            self.inner.initializer(&format!("rotary.{index}.{name}"), &[positions, pairs], &values)
        };
        Ok(RotaryTables { cos: table("cos", f32::cos)?, sin: table("sin", f32::sin)?, pairs })
    }

    /// Causal self-attention that extends its cache; returns the outputs of all heads `[B, S, D]`. `qkv` is all query
    /// heads, then keys, then values.
    #[allow(clippy::too_many_arguments)]
    pub fn cached_attention(
        &mut self,
        address: &str,
        qkv: Value<T>,
        caches: &mut SelfCaches<T>,
        layer: usize,
        heads: Heads,
        head_dim: usize,
        rotary: Option<Rotary<T>>,
        bias: Option<Value<T>>,
        sight: Sight,
    ) -> Result<Value<T>> {
        let fused =
            rotary.as_ref().filter(|rotary| rotary.norms.is_none() && head_dim.is_multiple_of(FUSED_HEAD));
        let fused = fused.map(|rotary| rotary.tables);
        let mut node = Node::microsoft("GroupQueryAttention");
        match rotary {
            Some(rotary) if fused.is_none() => {
                let widths = [heads.query, heads.kv, heads.kv].map(|count| count * head_dim);
                let [q, k, v] = self.split(&format!("{address}/Split"), qkv, widths);
                let q = self.rotated(&format!("{address}/query"), q, heads.query, head_dim, &rotary, 0)?;
                let k = self.rotated(&format!("{address}/key"), k, heads.kv, head_dim, &rotary, 1)?;
                node = node.input(q).input(k).input(v);
            }
            _ => node = node.input(qkv).optional::<T>(None).optional::<T>(None),
        }
        let past = caches.past[layer];
        node = node
            .input(past.key)
            .input(past.value)
            .input(caches.seqlens_k)
            .input(caches.total_sequence_length);
        if let Some(tables) = fused {
            // Positions follow from the lengths.
            node = node.input(tables.cos).input(tables.sin).int("do_rotary", 1);
        } else if bias.is_some() {
            node = node.optional::<T>(None).optional::<T>(None);
        }
        if bias.is_some() {
            node = node.optional::<i64>(None).optional(bias);
        }
        node = node.int("num_heads", heads.query).int("kv_num_heads", heads.kv).float("scale", heads.scale);
        if let Some(softcap) = sight.softcap {
            node = node.float("softcap", softcap);
        }
        if let Some(window) = sight.window {
            node = node.int("local_window_size", window);
        }
        let node = self.inner.add(&format!("{address}/GroupQueryAttention"), node);
        let mixed = self.inner.result(node, 0);
        caches
            .present
            .push(DeviceCache { key: self.inner.result(node, 1), value: self.inner.result(node, 2) });
        Ok(mixed)
    }

    fn rotated(
        &mut self,
        address: &str,
        x: Value<T>,
        heads: usize,
        head_dim: usize,
        rotary: &Rotary<T>,
        which: usize,
    ) -> Result<Value<T>> {
        let mut x = x;
        for step in [RotaryNorm::First, RotaryNorm::Last] {
            if let Some((norms, _)) = rotary.norms.filter(|&(_, order)| order == step) {
                x = self.head_norm(address, x, heads, head_dim, norms[which])?;
            }
            if step == RotaryNorm::First {
                x = self.rotate(address, x, heads, head_dim, rotary);
            }
        }
        Ok(x)
    }

    fn rotate(
        &mut self,
        address: &str,
        x: Value<T>,
        heads: usize,
        head_dim: usize,
        rotary: &Rotary<T>,
    ) -> Value<T> {
        let RotaryTables { cos, sin, pairs } = rotary.tables;
        let mut node = Node::microsoft("RotaryEmbedding")
            .input(x)
            .input(rotary.positions)
            .input(cos)
            .input(sin)
            .int("num_heads", heads);
        if 2 * pairs < head_dim {
            node = node.int("rotary_embedding_dim", 2 * pairs);
        }
        self.inner.apply(&format!("{address}/RotaryEmbedding"), node)
    }

    /// RMSNorm of each head of `[B, S, heads · head_dim]`.
    fn head_norm(
        &mut self,
        address: &str,
        x: Value<T>,
        heads: usize,
        head_dim: usize,
        norm: &Norm,
    ) -> Result<Value<T>> {
        let [heads, head_dim] = [heads, head_dim].map(|size| size as i64);
        let name = format!("shape.{heads}.{head_dim}");
        let x = self.reshape(&format!("{address}/heads"), x, &name, &[0, 0, heads, head_dim]);
        let x = self.rms_norm(&format!("{address}/norm"), x, norm, 3)?;
        let width = heads * head_dim;
        Ok(self.reshape(&format!("{address}/whole"), x, &format!("shape.{width}"), &[0, 0, width]))
    }

    /// Attention over the row's encoded source.
    pub fn cross_attention(
        &mut self,
        address: &str,
        q: Value<T>,
        cross: &CrossInputs<T>,
        layer: usize,
        heads: Heads,
    ) -> Value<T> {
        let cache = cross.past[layer];
        self.attention(address, q, cache.key, cache.value, None, cross.lengths, heads)
    }

    /// Bidirectional self-attention within rows, over their first `lengths` tokens. `bias` is `[1, heads, S, S]`.
    pub fn encoder_attention(
        &mut self,
        address: &str,
        qkv: Value<T>,
        lengths: Value<i64>,
        bias: Option<Value<T>>,
        heads: Heads,
        head_dim: usize,
    ) -> Value<T> {
        let [q, k, v] = self.split(&format!("{address}/Split"), qkv, [heads.query * head_dim; 3]);
        self.attention(address, q, k, v, bias, lengths, heads)
    }

    #[allow(clippy::too_many_arguments)]
    fn attention(
        &mut self,
        address: &str,
        q: Value<T>,
        k: Value<T>,
        v: Value<T>,
        bias: Option<Value<T>>,
        lengths: Value<i64>,
        heads: Heads,
    ) -> Value<T> {
        let node = Node::onnx("Attention")
            .input(q)
            .input(k)
            .input(v)
            .optional(bias)
            .optional::<T>(None)
            .optional::<T>(None)
            .input(lengths)
            .int("q_num_heads", heads.query)
            .int("kv_num_heads", heads.kv)
            .float("scale", heads.scale);
        self.inner.apply(&format!("{address}/Attention"), node)
    }

    /// Distance back from each query of a step to each cached key, `[B, S, total]`, from 0 to `furthest`.
    pub fn backward_distances(
        &mut self,
        positions: Value<i64>,
        caches: &SelfCaches<T>,
        furthest: usize,
    ) -> Value<i64> {
        let keys: Value<i32> = self.inner.range_to("/distances/Range", caches.total_sequence_length);
        let keys: Value<i64> = self.cast("/distances/Cast", keys);
        let queries = self.unsqueeze("/distances/queries", positions, 2);
        let distance = self.binary("/distances/Sub", "Sub", queries, keys);
        // Keys ahead of a query are masked, whatever their bias.
        self.clamp("/distances", distance, 0, furthest as i64)
    }

    /// Distance from each query to each key of a step, `[S, S]`, from −`furthest` to `furthest`, plus `furthest`.
    pub fn both_distances(&mut self, ids: Value<i64>, furthest: usize) -> Value<i64> {
        let keys = self.own_positions(ids);
        let queries = self.unsqueeze("/distances/queries", keys, 1);
        let distance = self.binary("/distances/Sub", "Sub", keys, queries);
        let furthest = furthest as i64;
        let distance = self.clamp("/distances", distance, -furthest, furthest);
        let shift = self.constant(&format!("distance.{furthest}"), &[furthest]);
        self.binary("/distances/Add", "Add", distance, shift)
    }

    /// Bias of each query and cached key, `[B, heads, S, total]`, from one for each distance, `[heads, distances]`.
    pub fn backward_bias(
        &mut self,
        address: &str,
        table: &[f32],
        heads: usize,
        distances: Value<i64>,
    ) -> Result<Value<T>> {
        let bias = self.biases(address, table, heads, distances)?;
        // From `[heads, B, S, total]`.
        let node = Node::onnx("Transpose").input(bias).ints("perm", &[1, 0, 2, 3]);
        Ok(self.inner.apply(&format!("{address}/Transpose"), node))
    }

    /// Bias of each query and key, `[1, heads, S, S]`, likewise.
    pub fn both_bias(
        &mut self,
        address: &str,
        table: &[f32],
        heads: usize,
        distances: Value<i64>,
    ) -> Result<Value<T>> {
        let bias = self.biases(address, table, heads, distances)?;
        Ok(self.unsqueeze(&format!("{address}/Unsqueeze"), bias, 0))
    }

    /// `[heads, …]`, by index into the second axis of the table.
    fn biases(&mut self, address: &str, table: &[f32], heads: usize, index: Value<i64>) -> Result<Value<T>> {
        let table: Vec<T> = table.iter().map(|&bias| T::of(bias)).collect();
        let name = initializer_name(address, "position_bias");
        let table = self.inner.initializer(&name, &[heads, table.len() / heads], &table)?;
        let node = Node::onnx("Gather").input(table).input(index).int("axis", 1);
        Ok(self.inner.apply(&format!("{address}/Gather"), node))
    }

    fn clamp(&mut self, address: &str, x: Value<i64>, low: i64, high: i64) -> Value<i64> {
        let low = self.constant(&format!("distance.{low}"), &[low]);
        let high = self.constant(&format!("distance.{high}"), &[high]);
        let x = self.binary(&format!("{address}/Max"), "Max", x, low);
        self.binary(&format!("{address}/Min"), "Min", x, high)
    }

    /// The simpler simple recurrent unit's cell for one token a row: `f · c + (1 − f) · x` with `f` the sigmoid of
    /// `forget`, and `c` the past state, or 0 at a row's first position.
    pub fn simple_recurrent_cell(
        &mut self,
        address: &str,
        forget: Value<f32>,
        input: Value<f32>,
        past: Value<f32>,
        positions: Value<i64>,
    ) -> Value<f32> {
        let zero = self.constant("axis.0", &[0]);
        let node = Node::onnx("Greater").input(positions).input(zero);
        let goes_on: Value<bool> = self.inner.apply(&format!("{address}/Greater"), node);
        let goes_on: Value<f32> = self.cast(&format!("{address}/Cast"), goes_on);
        let past = self.binary(&format!("{address}/begin"), "Mul", past, goes_on);
        // As `[B, 1, D]`, like the token's own values.
        let past = self.unsqueeze(&format!("{address}/token"), past, 1);
        let forget = self.inner.apply(&format!("{address}/Sigmoid"), Node::onnx("Sigmoid").input(forget));
        let change = self.binary(&format!("{address}/Sub"), "Sub", past, input);
        let kept = self.binary(&format!("{address}/Mul"), "Mul", forget, change);
        self.binary(&format!("{address}/Add"), "Add", kept, input)
    }
}
