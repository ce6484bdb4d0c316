//! What the gateway does for its clients, whichever door they come through.

mod answers;
mod augment;
mod deadline;
mod gate;
mod segments;
mod translate;
mod wanted;

pub use answers::Answers;
pub use augment::{
    Augmentation, Augmented, Augmenter, DEFAULTS as AUGMENT_DEFAULTS, MAX_VARIANTS, Variant, Warning,
};
pub use deadline::Deadline;
pub use gate::{Gate, Waiting};
pub use translate::{Event, Prepared, Translation, Translator, Usage};
pub use wanted::Wanted;

use crate::error::{ApiError, Result};

/// The hottest that a model is asked.
pub const MAX_TEMPERATURE: f64 = 2.0;
/// Tokens to choose from at most, where a request limits them.
pub const MAX_TOP_K: u32 = 1000;
/// Tokens of one answer at most.
const MAX_LENGTH: u32 = 1024;

/// Refuses a text that is blank or too long.
fn check_text(key: &str, text: &str, max_chars: usize) -> Result<()> {
    if text.trim().is_empty() {
        return Err(ApiError::invalid_argument("is blank, expected a text").at(key));
    }
    // A character is a byte or more: most texts need not be counted.
    let chars = if text.len() > max_chars { text.chars().count() } else { 0 };
    if chars > max_chars {
        return Err(
            ApiError::too_large(format!("got {chars} characters, at most {max_chars} are taken")).at(key)
        );
    }
    Ok(())
}
