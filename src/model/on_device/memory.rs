//! What a model takes of a device's memory, and the sizes that fit in what there is.

use textgen_artifact::{CudaSpec, Manifest};

use super::{encoder::run_tokens, rows::Rows};
use crate::{
    engine::{EncoderLimits, ExecutorLimits},
    error::{Error, Result},
    model::MayShrink,
};

/// Logit rows beyond those of the slots: drafts, and targets that are scored.
const SPARE_LOGIT_ROWS: usize = 64;

/// Slots of a model whose memory is limited and that was not told how many it has.
pub(super) const MOST_SLOTS: usize = 256;

/// Fewer slots than this are worse than shorter texts.
const FEW_SLOTS: usize = 4;

/// Shorter than this, in tokens, no text is made to be.
const SHORTEST: usize = 256;

/// Logit rows of one step at most: a recorded run computes those of its holes too, and prompts have their own.
pub(super) fn output_rows(limits: ExecutorLimits) -> usize {
    2 * limits.slots + SPARE_LOGIT_ROWS
}

/// Positions of a slot: a hole writes one behind what the slot holds.
pub(super) fn slot_positions(limits: ExecutorLimits) -> usize {
    limits.max_target_tokens + 1
}

/// `limits` with so many slots. A source keeps its cross slot until all of its sequences have started, so that few do.
pub(super) fn with_slots(limits: ExecutorLimits, slots: usize) -> ExecutorLimits {
    let encoder = limits.encoder.map(|encoder| EncoderLimits {
        cross_slots: (slots / 4).max(4).min(slots),
        slots_keep_sources: true,
        ..encoder
    });
    ExecutorLimits { slots, encoder, ..limits }
}

/// Bytes of caches, states and logits on the device; a few integers for each row and token come on top.
pub(super) fn cache_bytes(manifest: &Manifest, spec: CudaSpec, limits: ExecutorLimits) -> usize {
    let geometry = &manifest.geometry;
    let rows = Rows::count(limits.slots);
    let own = rows * geometry.self_kv_heads * slot_positions(limits) * geometry.head_dim;
    let cross = limits.encoder.map_or(0, |encoder| {
        let sources = (rows + encoder.cross_slots) * encoder.max_source_tokens;
        (sources + run_tokens(encoder)) * geometry.cross_kv_heads * geometry.head_dim
    });
    let caches = 2 * geometry.decoder_layers * (own + cross) * spec.caches.bytes();
    let states = 2 * geometry.decoder_layers * rows * geometry.state_width * size_of::<f32>();
    let candidates = spec.candidates * (size_of::<f32>() + size_of::<i64>()) + size_of::<f32>();
    let logits = output_rows(limits) * (limits.vocab_size * size_of::<f32>() + candidates);
    caches + states + logits
}

/// Bytes that each further slot needs in the middle of a step: logits less their largest, and the exponentials of those.
fn step_bytes(limits: ExecutorLimits) -> usize {
    2 * limits.slots * limits.vocab_size * size_of::<f32>()
}

/// The largest sizes up to `asked` that fit in `bytes`. Where both may shrink, first there are fewer slots, then shorter
/// texts.
pub(super) fn fit(
    manifest: &Manifest,
    spec: CudaSpec,
    asked: ExecutorLimits,
    may_shrink: MayShrink,
    bytes: usize,
) -> Result<ExecutorLimits> {
    let need = |limits| cache_bytes(manifest, spec, limits) + step_bytes(limits);
    let fewest = if may_shrink.sequences { 1 } else { asked.slots };
    let most_slots = |limits: ExecutorLimits| {
        (fewest..=limits.slots).rev().find(|&slots| need(with_slots(limits, slots)) <= bytes)
    };
    let mut limits = asked;
    let mut found = most_slots(limits);
    while found.is_none_or(|slots| slots < asked.slots.min(FEW_SLOTS)) {
        let Some(shorter) = shorten(limits, may_shrink) else { break };
        limits = shorter;
        found = most_slots(limits);
    }
    found.map(|slots| with_slots(limits, slots)).ok_or_else(|| {
        let least = with_slots(limits, fewest);
        Error::invalid_argument(format!(
            "the caches of {fewest} {} of {} tokens need {} MiB, {} MiB are left beside the weights and what a step \
             needs; lower max_sequences, max_context_tokens, max_source_tokens or max_target_tokens, raise \
             gpu_mem_limit, convert with a smaller --precision, or free memory on this GPU",
            if fewest == 1 { "sequence" } else { "sequences" },
            least.max_target_tokens,
            need(least).div_ceil(1 << 20),
            bytes >> 20
        ))
    })
}

/// Texts of half the length, where they may be shorter.
fn shorten(limits: ExecutorLimits, may_shrink: MayShrink) -> Option<ExecutorLimits> {
    let half = |tokens: usize, may: bool| if may { tokens.min((tokens / 2).max(SHORTEST)) } else { tokens };
    let target = if limits.encoder.is_some() { may_shrink.targets } else { may_shrink.contexts };
    let shorter = ExecutorLimits {
        max_target_tokens: half(limits.max_target_tokens, target),
        encoder: limits.encoder.map(|encoder| EncoderLimits {
            max_source_tokens: half(encoder.max_source_tokens, may_shrink.sources),
            ..encoder
        }),
        ..limits
    };
    (shorter != limits).then_some(shorter)
}
