//! Sizes of an executor: what the options ask for, within what the model allows.

use textgen_artifact::{EmbeddingSpec, Manifest};

use super::ExecutorOptions;
use crate::{
    engine::{EncoderLimits, ExecutorLimits},
    error::{Error, Result},
};

/// See the module. Refuses a manifest whose tables are too small for its tokens.
pub fn limits(manifest: &Manifest, options: &ExecutorOptions) -> Result<ExecutorLimits> {
    let geometry = &manifest.geometry;
    let rows_of = |table: &str| manifest.tensor(table).and_then(|tensor| tensor.shape.first().copied());
    let positions = |spec: &EmbeddingSpec| spec.positions.as_deref().and_then(rows_of);
    let within =
        |asked: usize, allowed: [Option<usize>; 2]| allowed.into_iter().flatten().fold(asked, usize::min);
    let embeddings = &manifest.embeddings;
    let asked =
        if embeddings.encoder.is_some() { options.max_target_tokens } else { options.max_context_tokens };
    let mut limits = ExecutorLimits {
        slots: options.max_sequences,
        max_target_tokens: within(asked, [geometry.max_target_tokens, positions(&embeddings.decoder)]),
        vocab_size: geometry.vocab_size,
        can_rewind: geometry.state_width == 0,
        encoder: None,
    };
    let rows = rows_of(&embeddings.decoder.table).unwrap_or(0);
    if let Some(encoder) = &embeddings.encoder {
        let start = manifest.generation.decoder_start_token_id.unwrap_or(u32::MAX);
        if start as usize >= rows {
            return Err(Error::invalid_argument(format!(
                "decoder embedding of {rows} rows for the start token {start}; convert the model again"
            )));
        }
        limits.encoder = Some(EncoderLimits {
            cross_slots: options.max_sequences,
            max_source_tokens: within(
                options.max_source_tokens,
                [geometry.max_source_tokens, positions(encoder)],
            ),
            decoder_start_token_id: start,
            shares_vocabulary: encoder.table == embeddings.decoder.table,
            slots_keep_sources: false,
        });
    }
    // Slot numbers and lengths travel as i32.
    let small = |value: usize| value > 0 && i32::try_from(2 * value).is_ok();
    let source = limits.encoder.map_or(1, |encoder| encoder.max_source_tokens);
    if ![limits.slots, source, limits.max_target_tokens, limits.vocab_size].into_iter().all(small) {
        return Err(Error::invalid_argument(format!(
            "{} sequences, sources of {source} and targets of {} tokens, a vocabulary of {}: each must be positive \
             and below 2^30",
            limits.slots, limits.max_target_tokens, limits.vocab_size
        )));
    }
    if rows < limits.vocab_size {
        return Err(Error::invalid_argument(format!(
            "decoder embedding of {rows} rows for {} tokens; convert the model again",
            limits.vocab_size
        )));
    }
    let generation = &manifest.generation;
    let unknown = generation
        .eos_token_ids
        .iter()
        .chain(&generation.suppress_tokens)
        .find(|&&token| token as usize >= limits.vocab_size);
    if let Some(token) = unknown {
        return Err(Error::invalid_argument(format!(
            "generation: end or suppressed token {token}, the model has {} tokens; convert the model again",
            limits.vocab_size
        )));
    }
    Ok(limits)
}
