//! What a model family gives to a conversion.

use std::path::Path;

use half::{bf16, f16};
use textgen_artifact::{
    ChatSpec, CudaSpec, DType, Device, Embeddings, GenerationSpec, Geometry, RotarySpec, TokenizerSpec,
    TrimSpec,
};

use crate::{
    error::{ConvertError, Result},
    graph::device::DeviceFormat,
    vocabulary::Keep,
    weights::{Float, WeightsWriter},
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

/// Number format of the products of an artifact for CUDA. Residual and norms are f32, embedding and head f16 or smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaPrecision {
    Fp16,
    /// From compute capability 8.0 on.
    Bf16,
    /// Weights in 8 bits, computed in f16.
    Int8,
    /// Weights in 4 bits, the head's in 8, computed in f16.
    Int4,
}

impl CudaPrecision {
    /// Writes `graphs` to `dir`; returns what the manifest says of the device.
    pub fn write(
        self,
        graphs: &impl DeviceGraphs,
        dir: &Path,
        geometry: &Geometry,
        weights: &mut WeightsWriter,
    ) -> Result<Device> {
        let (caches, candidates) = if self == Self::Bf16 {
            (DType::BF16, graphs.write::<bf16>(dir, geometry, weights)?)
        } else {
            (DType::F16, graphs.write::<f16>(dir, geometry, weights)?)
        };
        Ok(Device::Cuda(CudaSpec { caches, candidates }))
    }

    /// Format of a product.
    pub fn format(self) -> DeviceFormat {
        match self {
            Self::Fp16 | Self::Bf16 => DeviceFormat::Float,
            Self::Int8 => DeviceFormat::Int8,
            Self::Int4 => DeviceFormat::Int4,
        }
    }
}

/// The graphs of a model for CUDA, whatever the elements of their products and caches.
pub trait DeviceGraphs {
    /// Writes them to `dir`; returns the number of candidates that they find.
    fn write<T: Float>(&self, dir: &Path, geometry: &Geometry, weights: &mut WeightsWriter) -> Result<usize>;
}

/// What to make: graphs of which device, with weights in which format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    Cpu(Precision),
    Cuda(CudaPrecision),
}

impl Plan {
    /// Refuses what a model of this family has no form in.
    pub fn check(self, checkpoint: &dyn Checkpoint) -> Result<()> {
        let choice = match self {
            Self::Cpu(Precision::Int4) => "int8 or fp32",
            Self::Cuda(CudaPrecision::Int4) => "int8, fp16 or bf16",
            _ => return Ok(()),
        };
        if checkpoint.has_int4() {
            return Ok(());
        }
        Err(ConvertError::NoInt4 { family: checkpoint.family(), choice })
    }
}

impl From<Precision> for Plan {
    fn from(precision: Precision) -> Self {
        Self::Cpu(precision)
    }
}

/// A checkpoint whose family is known and whose configuration has been read and checked.
pub trait Checkpoint {
    /// As the manifest names it.
    fn family(&self) -> &'static str;

    /// Whether 4 bits of its weights leave a model that is of use. One that has no such form is not asked to write it.
    fn has_int4(&self) -> bool {
        false
    }

    /// The same checkpoint with a part of its vocabulary. Nothing is written; a family that cannot do it says so.
    fn trim(self: Box<Self>, _keep: &Keep) -> Result<Box<dyn Checkpoint>> {
        Err(ConvertError::NotTrimmable { family: self.family() })
    }

    /// Writes both graphs and the tokenizer into `dir`, and the large tensors to `weights`.
    fn write(&self, dir: &Path, weights: &mut WeightsWriter, precision: Precision) -> Result<Description>;

    /// The same with graphs for CUDA.
    fn write_cuda(
        &self,
        dir: &Path,
        weights: &mut WeightsWriter,
        precision: CudaPrecision,
    ) -> Result<Description>;
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
