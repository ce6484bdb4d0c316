//! Names and shapes of the graphs' inputs and outputs.
//!
//! Both graphs take a *ragged batch*: the tokens of all rows one after the other, without padding. `N` is the
//! number of tokens, `R` the number of rows (a source text in the encoder, a sequence in the decoder), and
//! row `r` owns the tokens `row_offsets[r] .. row_offsets[r + 1]`. Caches are whole: `S` slots of `P`
//! positions each, bound once, and every row says which slot is its own.

/// Embedded tokens, f32 `[N, d_model]`; scale and positions are already applied.
pub const X: &str = "x";
/// First token of each row and the end of the last, i32 `[R + 1]`, from 0 to `N`.
pub const ROW_OFFSETS: &str = "row_offsets";
/// Encoder: the cross-attention slot to write; decoder: the self-attention slot. i32 `[R]`.
pub const SLOTS: &str = "slots";
/// Decoder: number of tokens that the slot already holds, i32 `[R]`.
pub const POSITIONS: &str = "positions";
/// Decoder: the cross-attention slot to read, i32 `[R]`. Several rows may share one.
pub const CROSS_SLOTS: &str = "cross_slots";
/// Decoder: number of source tokens in that slot, i32 `[R]`.
pub const CROSS_LENGTHS: &str = "cross_lengths";
/// Decoder with recurrent state: entry to read, i32 `[R]`; −1 reads zeros.
pub const STATE_READS: &str = "state_reads";
/// Decoder with recurrent state: entry to write, i32 `[R]`; never one that this step reads.
pub const STATE_WRITES: &str = "state_writes";
/// Decoder: the tokens whose logits are wanted, i64 `[M]`, indices into `N`.
pub const LOGIT_ROWS: &str = "logit_rows";
/// Decoder output, f32 `[M, vocab_size]`.
pub const LOGITS: &str = "logits";

/// Decoder with rotary positions: cosines, then sines of the tokens' positions by the manifest's rotary embedding
/// `index`, f32 `[N, 2 · pairs]`.
pub fn rotary(index: usize) -> String {
    format!("rotary.{index}")
}
/// Self-attention keys of decoder layer `i`, f32 `[S, kv_heads, P, head_dim]`.
/// The memory layout within a slot is the operators' own; see `textgen.CachedAttention`.
pub fn past_self_key(layer: usize) -> String {
    format!("past_key_values.{layer}.decoder.key")
}
/// Self-attention values of decoder layer `i`, f32 `[S, kv_heads, P, head_dim]`.
pub fn past_self_value(layer: usize) -> String {
    format!("past_key_values.{layer}.decoder.value")
}
/// The same memory as [`past_self_key`], after the step.
pub fn present_self_key(layer: usize) -> String {
    format!("present.{layer}.decoder.key")
}
/// The same memory as [`past_self_value`], after the step.
pub fn present_self_value(layer: usize) -> String {
    format!("present.{layer}.decoder.value")
}
/// Cross-attention keys of decoder layer `i`, f32 `[S, kv_heads, P, head_dim]`: written by the encoder graph,
/// read by the decoder graph.
pub fn past_cross_key(layer: usize) -> String {
    format!("past_key_values.{layer}.encoder.key")
}
/// Cross-attention values of decoder layer `i`.
pub fn past_cross_value(layer: usize) -> String {
    format!("past_key_values.{layer}.encoder.value")
}
/// Encoder output: the same memory as [`past_cross_key`], after the write.
pub fn present_cross_key(layer: usize) -> String {
    format!("present.{layer}.encoder.key")
}
/// Encoder output: the same memory as [`past_cross_value`], after the write.
pub fn present_cross_value(layer: usize) -> String {
    format!("present.{layer}.encoder.value")
}
/// Recurrent state of decoder layer `i`, f32 `[entries, width]`.
pub fn past_state(layer: usize) -> String {
    format!("past_states.{layer}")
}
/// The same memory as [`past_state`], after the step.
pub fn present_state(layer: usize) -> String {
    format!("present_states.{layer}")
}
