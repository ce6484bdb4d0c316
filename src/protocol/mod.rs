//! Triton tensors and parameters to texts and options, engine events to responses.
//!
//! - A request has texts or conversations. Several in one request are several prompts; each is decoded `num_return_sequences` times. Sequence
//!   `i · num_return_sequences + j` is sample `j` of prompt `i`.
//! - Without streaming there is one response with one value for each sequence, in that order. Outputs are
//!   `[sequences]`, or `[batch, sequences of one batch entry]` when the model has a batch dimension.
//! - With `stream` each response is a new piece of one sequence, its outputs `[1]` (or `[1, 1]`), and
//!   `sequence_index` says whose. The pieces of a sequence joined are its text. What belongs to a whole
//!   sequence (`finish_reason`, `cumulative_logprob`, `num_input_tokens`, `choice_probabilities`) comes with its last
//!   piece, which waits for it; `num_output_tokens` and `logprobs` are of the piece. No response is sent before there is a piece: clients
//!   take the first one for the first token.
//! - Options come as inputs, as request parameters, or inside `sampling_parameters`; the first found in that
//!   order holds. They are one value for a whole request, so the entries of a batch must agree.
//! - Extra outputs are sent when their `return_*` option asks for them. A client that names the outputs it wants
//!   gets exactly those; one that names all of them cannot be told from one that names none.

mod client_request;
mod reply;
pub mod schema;

pub use client_request::{ClientRequest, TextLayout};
pub use reply::{Reply, ReplyPlan};

/// What a model's configuration says about requests and responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInterface {
    /// The first dimension of every tensor is the batch (`max_batch_size` above 0).
    pub batched: bool,
    /// A request may get several responses.
    pub decoupled: bool,
    /// Outputs that the configuration declares.
    pub outputs: Vec<&'static str>,
}
