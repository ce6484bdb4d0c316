//! What a model family gives to a conversion.

use std::path::Path;

use textgen_artifact::{
    ChatSpec, Device, Embeddings, GenerationSpec, Geometry, RotarySpec, TokenizerSpec, TrimSpec,
};

use crate::{
    error::{ConvertError, Result},
    vocabulary::Keep,
    weights::WeightsWriter,
};

/// Number format of an artifact's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Fp32,
    /// 8 bits, but for tensors that need more; the manifest's precision plan says which.
    Int8,
    /// 4 bits for what one step reads most, 8 bits for the rest.
    Int4,
}

/// A checkpoint whose family is known and whose configuration has been read and checked.
pub trait Checkpoint {
    /// As the manifest names it.
    fn family(&self) -> &'static str;

    /// The same checkpoint with a part of its vocabulary. Nothing is written; a family that cannot do it says so.
    fn trim(self: Box<Self>, _keep: &Keep) -> Result<Box<dyn Checkpoint>> {
        Err(ConvertError::NotTrimmable { family: self.family() })
    }

    /// Writes both graphs and the tokenizer into `dir`, and the large tensors to `weights`.
    fn write(&self, dir: &Path, weights: &mut WeightsWriter, precision: Precision) -> Result<Description>;
}

/// What a family says of its artifact in the manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    pub device: Device,
    pub geometry: Geometry,
    pub embeddings: Embeddings,
    pub rotary: Vec<RotarySpec>,
    pub tokenizer: TokenizerSpec,
    pub chat: Option<ChatSpec>,
    pub generation: GenerationSpec,
    pub trimmed: Option<TrimSpec>,
}
