//! The operators of ours that mix tokens: attention, caches, the recurrent cell.

use textgen_artifact::ops;

use super::{GraphBuilder, Node, Norm, Value, builder::initializer_name};
use crate::error::Result;

/// Shape and scale of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    pub query: usize,
    pub kv: usize,
    /// Factor of `q · k`.
    pub scale: f32,
}

/// What a causal attention sees, besides its shape.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sight {
    /// Scores become `softcap · tanh(score / softcap)`.
    pub softcap: Option<f32>,
    /// Tokens back, a query's own included.
    pub window: Option<usize>,
}

/// When heads are normalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryNorm {
    /// Before the rotation.
    First,
    /// After it.
    Last,
}

/// Norms of query and key heads, in the graph.
#[derive(Debug, Clone, Copy)]
pub struct RotaryNorms {
    query: Value<f32>,
    key: Value<f32>,
    epsilon: f32,
    order: RotaryNorm,
}

/// Keys and values of one layer, for all slots.
#[derive(Debug, Clone, Copy)]
pub struct KvCache {
    pub key: Value<f32>,
    pub value: Value<f32>,
}

/// Which tokens and which cache slot each row has.
#[derive(Debug, Clone, Copy)]
pub struct RowSlots {
    pub row_offsets: Value<i32>,
    pub slots: Value<i32>,
    /// Tokens in the slot: before the row's own for self-attention, in all for cross-attention.
    pub lengths: Value<i32>,
}

impl GraphBuilder<'_> {
    /// Bidirectional self-attention within rows; `bias` by clamped distance.
    pub fn ragged_attention(
        &mut self,
        address: &str,
        qkv: Value<f32>,
        row_offsets: Value<i32>,
        bias: Option<Value<f32>>,
        heads: Heads,
    ) -> Value<f32> {
        let mut node = Node::textgen(ops::RAGGED_ATTENTION).input(qkv).input(row_offsets);
        if bias.is_some() {
            node = node.optional(bias);
        }
        node = node.int(ops::ATTR_NUM_HEADS, heads.query).float(ops::ATTR_SCALE, heads.scale);
        self.apply(&format!("{address}/{}", ops::RAGGED_ATTENTION), node)
    }

    /// The weights of head norms.
    pub fn rotary_norms(
        &mut self,
        address: &str,
        query: &Norm,
        key: &Norm,
        order: RotaryNorm,
    ) -> Result<RotaryNorms> {
        let mut weight = |part, norm: &Norm| {
            self.initializer(&initializer_name(address, part), &[norm.scale.len()], &norm.scale)
        };
        Ok(RotaryNorms {
            query: weight("q_norm.weight", query)?,
            key: weight("k_norm.weight", key)?,
            epsilon: query.epsilon,
            order,
        })
    }

    /// Normalizes and rotates the query and key heads of packed projections.
    pub fn rotary_heads(
        &mut self,
        address: &str,
        qkv: Value<f32>,
        rotary: Value<f32>,
        norms: Option<RotaryNorms>,
        heads: Heads,
    ) -> Value<f32> {
        let mut node = Node::textgen(ops::ROTARY_HEADS).input(qkv).input(rotary);
        if let Some(norms) = norms {
            node = node
                .input(norms.query)
                .input(norms.key)
                .float(ops::ATTR_EPSILON, norms.epsilon)
                .int(ops::ATTR_NORM_FIRST, usize::from(norms.order == RotaryNorm::First));
        }
        node = node.int(ops::ATTR_NUM_HEADS, heads.query).int(ops::ATTR_KV_NUM_HEADS, heads.kv);
        self.apply(&format!("{address}/{}", ops::ROTARY_HEADS), node)
    }

    /// Causal self-attention that extends its cache; returns the cache after the step.
    #[allow(clippy::too_many_arguments)]
    pub fn cached_attention(
        &mut self,
        address: &str,
        qkv: Value<f32>,
        rows: RowSlots,
        past: KvCache,
        bias: Option<Value<f32>>,
        heads: Heads,
        sight: Sight,
    ) -> (Value<f32>, KvCache) {
        let mut node = Node::textgen(ops::CACHED_ATTENTION)
            .input(qkv)
            .input(rows.row_offsets)
            .input(rows.slots)
            .input(rows.lengths)
            .input(past.key)
            .input(past.value);
        if bias.is_some() {
            node = node.optional(bias);
        }
        node = node
            .int(ops::ATTR_NUM_HEADS, heads.query)
            .int(ops::ATTR_KV_NUM_HEADS, heads.kv)
            .float(ops::ATTR_SCALE, heads.scale);
        if let Some(softcap) = sight.softcap {
            node = node.float(ops::ATTR_SOFTCAP, softcap);
        }
        if let Some(window) = sight.window {
            node = node.int(ops::ATTR_WINDOW, window);
        }
        let node = self.add(&format!("{address}/{}", ops::CACHED_ATTENTION), node);
        let present = KvCache { key: self.result(node, 1), value: self.result(node, 2) };
        (self.result(node, 0), present)
    }

    /// Attention over a cache that stays as it is.
    pub fn cross_attention(
        &mut self,
        address: &str,
        q: Value<f32>,
        rows: RowSlots,
        cache: KvCache,
        heads: Heads,
    ) -> Value<f32> {
        let node = Node::textgen(ops::CROSS_ATTENTION)
            .input(q)
            .input(rows.row_offsets)
            .input(rows.slots)
            .input(rows.lengths)
            .input(cache.key)
            .input(cache.value)
            .int(ops::ATTR_NUM_HEADS, heads.query)
            .int(ops::ATTR_KV_NUM_HEADS, heads.kv)
            .float(ops::ATTR_SCALE, heads.scale);
        self.apply(&format!("{address}/{}", ops::CROSS_ATTENTION), node)
    }

    /// Fills the rows' slots with projected keys and values; returns the cache after it.
    pub fn cache_write(
        &mut self,
        address: &str,
        kv: Value<f32>,
        row_offsets: Value<i32>,
        slots: Value<i32>,
        past: KvCache,
        kv_heads: usize,
    ) -> KvCache {
        let node = Node::textgen(ops::CACHE_WRITE)
            .input(kv)
            .input(row_offsets)
            .input(slots)
            .input(past.key)
            .input(past.value)
            .int(ops::ATTR_KV_NUM_HEADS, kv_heads);
        let node = self.add(&format!("{address}/{}", ops::CACHE_WRITE), node);
        KvCache { key: self.result(node, 0), value: self.result(node, 1) }
    }

    /// The simpler simple recurrent unit's cell; returns the cell after each token, and the states after the
    /// step.
    pub fn simple_recurrent_cell(
        &mut self,
        address: &str,
        forget: Value<f32>,
        input: Value<f32>,
        row_offsets: Value<i32>,
        entries: StateEntries,
        past: Value<f32>,
    ) -> (Value<f32>, Value<f32>) {
        let node = Node::textgen(ops::SIMPLE_RECURRENT_CELL)
            .input(forget)
            .input(input)
            .input(row_offsets)
            .input(entries.reads)
            .input(entries.writes)
            .input(past);
        let node = self.add(&format!("{address}/{}", ops::SIMPLE_RECURRENT_CELL), node);
        (self.result(node, 0), self.result(node, 1))
    }
}

/// Which recurrent state each row reads, and which it writes.
#[derive(Debug, Clone, Copy)]
pub struct StateEntries {
    pub reads: Value<i32>,
    pub writes: Value<i32>,
}
