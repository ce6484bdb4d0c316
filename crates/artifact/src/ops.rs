//! Operators of the graphs that ONNX Runtime does not have, by name and attribute.
//!
//! They exist because a ragged batch needs them: the stock attention operators want one past length for all
//! rows, or row `i` in slot `i`, so that samples of one request could not share a cross-attention cache.
//! Inputs and outputs are listed in order; `?` marks an optional one (an empty name in the graph).

/// Domain of every operator below.
pub const DOMAIN: &str = "textgen";
/// Version of the domain; an artifact with another version is refused.
pub const DOMAIN_VERSION: i64 = 3;

/// A linear layer with weights in signed 8 bits, `y = activation(x · weight + bias)`.
/// `x` f32 `[N, K]`, `weight` i8 `[panels, K/4, 64]` (see [`panel_place`]), `weight_scale` f32 `[M]`, `weight_sum`
/// i32 `[M]` (the sum of an output's weights), `bias`? f32 `[M]` → `y` f32 `[N, M]`.
///
/// Each row of `x` is quantized by its own scale, `max|x| / 127`, and the product is formed in integers, with
/// weights from −127 to 127: a row's result depends on nothing but the row. With [`ATTR_CLIP`] `c` the scale is
/// at most `c · rms(x) / 127`; what lies beyond is multiplied in full precision.
/// [`ATTR_ACTIVATION`] names an [`Activation`]. With [`ATTR_GATED`] 1 the outputs are two halves, `y = activation(first)
/// · second` f32 `[N, M/2]`, and their panels take turns: the first of the first half, the first of the second, …
pub const INT8_LINEAR: &str = "Int8Linear";

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
pub const ATTR_ACTIVATION: &str = "activation";
pub const ATTR_CLIP: &str = "clip";
pub const ATTR_GATED: &str = "gated";
pub const ATTR_EPSILON: &str = "epsilon";
pub const ATTR_NORM_FIRST: &str = "norm_first";
pub const ATTR_SOFTCAP: &str = "softcap";
pub const ATTR_WINDOW: &str = "window";

/// Cache lengths (`P`) must be a multiple of this: keys lie in blocks of so many positions.
pub const KEY_BLOCK: usize = 16;

/// Outputs of a panel of [`INT8_LINEAR`].
pub const PANEL_OUTPUTS: usize = 16;
/// Inputs of one output that lie side by side in a panel.
pub const PANEL_INPUTS: usize = 4;

/// Panels of so many outputs.
pub fn panels(outputs: usize) -> usize {
    outputs.div_ceil(PANEL_OUTPUTS)
}

/// Inputs as a panel has them: a multiple of [`PANEL_INPUTS`]; the added ones are 0.
pub fn panel_inputs(inputs: usize) -> usize {
    inputs.next_multiple_of(PANEL_INPUTS)
}

/// Where in its panel the weight of an output (of the panel) for an input stands:
/// `[inputs / 4, 16 outputs, 4 inputs]`, as the dot-product instructions of x86 take them.
pub fn panel_place(output: usize, input: usize) -> usize {
    (input / PANEL_INPUTS * PANEL_OUTPUTS + output) * PANEL_INPUTS + input % PANEL_INPUTS
}

/// What follows a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `x · sigmoid(x)`
    Silu,
    /// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`
    GeluTanh,
    /// `0.5 x (1 + erf(x / √2))`
    GeluErf,
}

impl Activation {
    const ALL: [Self; 4] = [Self::Relu, Self::Silu, Self::GeluTanh, Self::GeluErf];

    /// Its name in a graph.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_tanh",
            Self::GeluErf => "gelu_erf",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|activation| activation.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_of_a_panel_has_its_own_place() {
        let places =
            (0..PANEL_OUTPUTS).flat_map(|output| (0..8).map(move |input| panel_place(output, input)));
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        assert_eq!(places, (0..PANEL_OUTPUTS * 8).collect::<Vec<_>>());
    }

    #[test]
    fn activations_are_found_by_their_names() {
        for activation in Activation::ALL {
            assert_eq!(Activation::named(activation.name()), Some(activation));
        }
        assert_eq!(Activation::named("tanh"), None);
    }
}
