//! The artifact's weights, mapped. The graphs map the same file themselves; what is read here is what the
//! backend looks up on its own, the embeddings.

use std::{fs::File, ops::Range, path::Path};

use half::f16;
use memmap2::Mmap;
use textgen_artifact::{DType, Manifest, WEIGHTS_FILE};

use crate::error::{Error, Result};

/// `weights.bin`, mapped read-only.
pub struct Weights {
    map: Mmap,
    path: String,
}

/// Elements of one tensor, in the format of the file.
#[derive(Debug, Clone, Copy)]
pub enum TensorData<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats.
    F16(&'a [f16]),
    /// Signed bytes.
    I8(&'a [i8]),
}

impl Weights {
    /// Maps the file and checks that it holds every tensor of the manifest.
    pub fn open(dir: &Path, manifest: &Manifest) -> Result<Self> {
        let file = dir.join(WEIGHTS_FILE);
        let path = file.display().to_string();
        let open = File::open(&file)
            .map_err(|error| Error::not_found(format!("{path}: {error}; convert the model again")))?;
        // SAFETY: the artifact is written once and then only read; whoever truncates a served model's file
        // breaks ONNX Runtime's own mapping of it just the same.
        let map = unsafe { Mmap::map(&open) }
            .map_err(|error| Error::invalid_argument(format!("{path}: cannot be mapped: {error}")))?;
        for tensor in &manifest.tensors {
            let end = tensor.bytes().and_then(|bytes| tensor.offset.checked_add(bytes));
            if end.is_none_or(|end| end > map.len() as u64) {
                return Err(Error::invalid_argument(format!(
                    "{path}: truncated: tensor {} of shape {:?} at byte {} does not fit in {} bytes; \
                     copy or convert the model again",
                    tensor.name,
                    tensor.shape,
                    tensor.offset,
                    map.len()
                )));
            }
        }
        Ok(Self { map, path })
    }

    /// Size of the file.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    /// Finds the tensor `name` and checks that it has `rank` dimensions and lies in the file.
    pub fn find(&self, manifest: &Manifest, name: &str, rank: usize) -> Result<TensorHandle> {
        let bad = |reason: String| {
            Error::invalid_argument(format!(
                "{}: tensor {name}: {reason}; convert the model again",
                self.path
            ))
        };
        let spec = manifest.tensor(name).ok_or_else(|| bad("the manifest does not list it".into()))?;
        if spec.shape.len() != rank {
            return Err(bad(format!("shape {:?}, expected {rank} dimensions", spec.shape)));
        }
        if matches!(spec.dtype, DType::U8 | DType::I32 | DType::BF16) {
            return Err(bad(format!("{:?} elements, expected F32, F16 or I8", spec.dtype)));
        }
        let bytes = spec.bytes().ok_or_else(|| bad(format!("shape {:?} overflows", spec.shape)))? as usize;
        let offset = spec.offset as usize;
        if offset.checked_add(bytes).is_none_or(|end| end > self.map.len()) {
            return Err(bad("lies outside of the file".into()));
        }
        if !offset.is_multiple_of(spec.dtype.bytes()) {
            return Err(bad(format!("offset {offset} is not aligned")));
        }
        Ok(TensorHandle { span: offset..offset + bytes, dtype: spec.dtype, shape: spec.shape.clone() })
    }

    /// The elements of a tensor that [`Weights::find`] has checked.
    pub fn data(&self, tensor: &TensorHandle) -> TensorData<'_> {
        let bytes = &self.map[tensor.span.clone()];
        // SAFETY: any bit pattern is a valid f32, f16 or i8; `find` has checked the alignment, so that the
        // middle part is the whole.
        unsafe {
            match tensor.dtype {
                DType::F32 => TensorData::F32(bytes.align_to().1),
                DType::F16 => TensorData::F16(bytes.align_to().1),
                // `find` gives no handle to the others.
                DType::I8 | DType::U8 | DType::I32 | DType::BF16 => TensorData::I8(bytes.align_to().1),
            }
        }
    }
}

/// Where a tensor lies; checked against the file.
#[derive(Debug, Clone)]
pub struct TensorHandle {
    span: Range<usize>,
    dtype: DType,
    shape: Vec<usize>,
}

impl TensorHandle {
    /// Its dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
}
