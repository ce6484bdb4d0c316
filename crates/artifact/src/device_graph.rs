//! Names and shapes of the inputs and outputs of graphs for a device with its own memory ([`crate::Device::Cuda`]).
//!
//! These graphs are made of ONNX Runtime's own operators. What crosses the bus in a step is a few integers for each
//! row: embeddings, positions, scores and the choice of candidates are in the graph.
//!
//! A step has `B` rows of `S` tokens. Row `i` *is* slot `i`: caches are bound as views of their first `B` slots, each
//! past and its present to the same memory, and a row that is not in use is a hole. A step of several tokens a row
//! (`S > 1`) has one row, over the view of its slot alone. `P` is the number of positions of a slot.
//!
//! A hole has a dummy token, the length of what its slot holds, and a cross length of at least 1. What it writes lies
//! behind that length, where the slot's next token overwrites it: a slot must have room for one position more than
//! it is used for. Candidates and logits are computed for [`LOGIT_ROWS`] only, so a hole costs none.
//!
//! The caches of layer `i` have the names of [`crate::graph`] and elements of the manifest's
//! [`crate::CudaSpec::caches`]:
//!
//! | name | shape |
//! | --- | --- |
//! | `past_self_key`, `past_self_value`, and their presents | `[B, self_kv_heads, P, head_dim]` |
//! | `past_cross_key`, `past_cross_value` (decoder inputs, read only) | `[B, P, cross_kv_heads · head_dim]` |
//! | `present_cross_key`, `present_cross_value` (encoder outputs) | `[B, S, cross_kv_heads · head_dim]` |
//! | `past_state`, `present_state` (always f32; two buffers, or the same) | `[B, state_width]` |
//!
//! An encoded source is thus the beginning of its cross slot as it stands: with one row the encoder's output can be
//! bound to the slot itself, with several a row is one copy. A slot's self cache is one piece of memory too, so a
//! fork is a copy of slots, without a graph of its own.

/// Token ids, i64 `[B, S]`, of the encoder graph and of the decoder graph.
pub const INPUT_IDS: &str = "input_ids";
/// Encoder: tokens of each row, i64 `[B]`; rows are padded on the right with any token.
pub const LENGTHS: &str = "lengths";
/// Decoder: position of each token in its row, i64 `[B, S]`, from 0. A recurrent state is read as zeros at position 0.
pub const POSITION_IDS: &str = "position_ids";
/// Decoder with self-attention: tokens that the row's slot holds after this step, minus 1, i32 `[B]`.
pub const SEQLENS_K: &str = "seqlens_k";
/// Decoder with self-attention: at least the longest row's tokens after this step, at most `P`; i32 scalar in *host*
/// memory. What of the caches is read ends here, so a captured step holds for this value only.
pub const TOTAL_SEQUENCE_LENGTH: &str = "total_sequence_length";
/// Decoder with an encoder: source tokens in the row's cross slot, i64 `[B]`, at least 1.
pub const CROSS_LENGTHS: &str = "cross_lengths";
/// Decoder: the tokens whose logits are wanted, i64 `[M]`, indices into the `B · S` tokens in order.
pub const LOGIT_ROWS: &str = "logit_rows";
/// Decoder output, f32 `[M, vocab_size]`.
pub const LOGITS: &str = "logits";
/// Decoder output: the largest logits, falling, f32 `[M, K]`; `K` is [`crate::CudaSpec::candidates`].
pub const CANDIDATE_VALUES: &str = "candidate_values";
/// Decoder output: their tokens, i64 `[M, K]`.
pub const CANDIDATE_IDS: &str = "candidate_ids";
/// Decoder output: logarithm of the sum of the exponentials of all logits, f32 `[M]`.
pub const LOG_SUM_EXP: &str = "log_sum_exp";
