//! Operators of the graphs that ONNX Runtime does not have, by name and attribute.
//!
//! They exist because a ragged batch needs them: the stock attention operators want one past length for all
//! rows, or row `i` in slot `i`, so that samples of one request could not share a cross-attention cache.
//! Inputs and outputs are listed in order; `?` marks an optional one (an empty name in the graph).

/// Domain of every operator below.
pub const DOMAIN: &str = "textgen";
/// Version of the domain; an artifact with another version is refused.
pub const DOMAIN_VERSION: i64 = 2;

/// Per-row dynamic quantization.
/// `x` f32 `[N, K]` → `q` u8 `[N, K]` with zero point 128, `scale` f32 `[N, 1]`;
/// `x ≈ (q − 128) · scale`, `scale = max|x| / 127` of the row. A zero row has scale 0. With the attribute
/// [`ATTR_CLIP`], the scale is at most `clip · rms(x) / 127`, and what lies beyond becomes ±127.
pub const ROW_QUANTIZE: &str = "RowQuantize";

/// Completes a product of quantized rows: `y = product · scale + bias`.
/// `product` f32 `[N, M]`, `scale` f32 `[N, 1]`, `bias`? f32 `[M]` → `y` f32 `[N, M]`. With `x`? f32 `[N, K]`,
/// `weight`? i8 `[K, M]` and `weight_scale`? f32 `[M]`, what the clipping of `x` cut off is multiplied in full:
/// `y += Σ_k (x_k − clamp(x_k, ±127 · scale)) · weight[k] · weight_scale`.
pub const ROW_DEQUANTIZE: &str = "RowDequantize";

/// Bidirectional self-attention of the encoder within each row.
/// `qkv` f32 `[N, 3 · num_heads · head_dim]` (all q heads, then k, then v), `row_offsets`,
/// `bias`? f32 `[num_heads, 2W + 1]` → f32 `[N, num_heads · head_dim]`.
/// Score of query `i` and key `j`: `scale · q·k + bias[h, clamp(j − i, −W, W) + W]`.
/// Attributes: [`ATTR_NUM_HEADS`], [`ATTR_SCALE`].
pub const RAGGED_ATTENTION: &str = "RaggedAttention";

/// Normalizes and rotates the query and key heads of `qkv`, and leaves the values as they are.
/// `qkv` f32 `[N, (num_heads + 2 · kv_num_heads) · head_dim]` (all q heads, then k, then v), `rotary` f32
/// `[N, 2 · pairs]` (cosines, then sines), `q_norm`? f32 `[head_dim]`, `k_norm`? f32 `[head_dim]` → `qkv` of the
/// same shape. Elements `(i, i + pairs)` of a head are a pair: `(a, b)` becomes `(a·cos − b·sin, b·cos + a·sin)`;
/// those from `2 · pairs` on stay. With norms each head is also multiplied by `norm / √(mean square + ε)`: before
/// the rotation if [`ATTR_NORM_FIRST`] is 1, after it if it is 0.
/// Attributes: [`ATTR_NUM_HEADS`], [`ATTR_KV_NUM_HEADS`], and with norms [`ATTR_EPSILON`], [`ATTR_NORM_FIRST`].
pub const ROTARY_HEADS: &str = "RotaryHeads";

/// Causal self-attention over a slot's cache, which it first extends by the row's tokens.
/// `qkv` f32 `[N, (num_heads + 2 · kv_num_heads) · head_dim]`, `row_offsets`, `slots`, `positions`,
/// `past_key`, `past_value`, `bias`? f32 `[num_heads, W + 1]` → f32 `[N, num_heads · head_dim]`,
/// `present_key`, `present_value` (the same memory as the past).
/// Score of query position `i` and key position `j ≤ i`: `scale · q·k + bias[h, min(i − j, W)]`; with
/// [`ATTR_SOFTCAP`] `c` then `c · tanh(score / c)`; with [`ATTR_WINDOW`] `w` only keys with `i − j < w` count.
/// Attributes: [`ATTR_NUM_HEADS`], [`ATTR_KV_NUM_HEADS`], [`ATTR_SCALE`], and if wanted [`ATTR_SOFTCAP`],
/// [`ATTR_WINDOW`].
pub const CACHED_ATTENTION: &str = "CachedAttention";

/// Attention over a cache that it does not change.
/// `q` f32 `[N, num_heads · head_dim]`, `row_offsets`, `cross_slots`, `cross_lengths`, `key`, `value`
/// → f32 `[N, num_heads · head_dim]`. Attributes: [`ATTR_NUM_HEADS`], [`ATTR_KV_NUM_HEADS`], [`ATTR_SCALE`].
pub const CROSS_ATTENTION: &str = "CrossAttention";

/// Writes keys and values from position 0 of each row's slot.
/// `kv` f32 `[N, 2 · kv_num_heads · head_dim]` (all k heads, then v), `row_offsets`, `slots`, `past_key`,
/// `past_value` → `present_key`, `present_value` (the same memory). Attribute: [`ATTR_KV_NUM_HEADS`].
pub const CACHE_WRITE: &str = "CacheWrite";

/// The simpler simple recurrent unit's cell: `f = sigmoid(forget)`, `c ← f · c + (1 − f) · input`, token by
/// token within a row.
/// `forget` f32 `[N, D]`, `input` f32 `[N, D]`, `row_offsets`, `state_reads`, `state_writes`, `past`
/// f32 `[entries, D]` → `c` f32 `[N, D]` (the cell after each token), `present` (the same memory as `past`).
pub const SIMPLE_RECURRENT_CELL: &str = "SimpleRecurrentCell";

pub const ATTR_NUM_HEADS: &str = "num_heads";
pub const ATTR_KV_NUM_HEADS: &str = "kv_num_heads";
pub const ATTR_SCALE: &str = "scale";
pub const ATTR_CLIP: &str = "clip";
pub const ATTR_EPSILON: &str = "epsilon";
pub const ATTR_NORM_FIRST: &str = "norm_first";
pub const ATTR_SOFTCAP: &str = "softcap";
pub const ATTR_WINDOW: &str = "window";

/// Cache lengths (`P`) must be a multiple of this: keys lie in blocks of so many positions.
pub const KEY_BLOCK: usize = 16;
