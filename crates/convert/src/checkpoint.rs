//! What a model family gives to a conversion.

use std::path::Path;

use textgen_artifact::{Embeddings, GenerationSpec, Geometry, TokenizerSpec};

use crate::{error::Result, weights::WeightsWriter};

/// Number format of an artifact's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Fp32,
    /// 8 bits, but for tensors that need more; the manifest's precision plan says which.
    Int8,
}

/// A checkpoint whose family is known and whose configuration has been read and checked.
pub trait Checkpoint {
    /// Writes both graphs and the tokenizer into `dir`, and the large tensors to `weights`.
    fn write(&self, dir: &Path, weights: &mut WeightsWriter, precision: Precision) -> Result<Description>;
}

/// What a family says of its artifact in the manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    pub family: &'static str,
    pub geometry: Geometry,
    pub embeddings: Embeddings,
    pub tokenizer: TokenizerSpec,
    pub generation: GenerationSpec,
}
