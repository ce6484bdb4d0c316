//! The writer of `weights.bin`.

use std::{
    fs::File,
    io::{BufWriter, Write},
    marker::PhantomData,
    path::{Path, PathBuf},
};

use textgen_artifact::{PAGE_BYTES, Part, PrecisionEntry, TensorSpec, WEIGHTS_FILE, WeightFormat};

use super::Stored;
use crate::error::{ConvertError, Result};

/// Elements converted to bytes at a time.
const CHUNK: usize = 1 << 16;

/// Appends tensors to `weights.bin`, each on a page of its own, and keeps the list of them for the manifest.
pub struct WeightsWriter {
    path: PathBuf,
    file: BufWriter<File>,
    /// Bytes written so far.
    end: u64,
    tensors: Vec<TensorSpec>,
    plan: Vec<PrecisionEntry>,
}

impl WeightsWriter {
    /// Creates the file in the folder `dir`.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join(WEIGHTS_FILE);
        let file = File::create_new(&path).map_err(ConvertError::io(&path))?;
        Ok(Self { path, file: BufWriter::new(file), end: 0, tensors: Vec::new(), plan: Vec::new() })
    }

    /// Starts a tensor whose values come piece by piece.
    ///
    /// # Panics
    /// When a tensor of that name is in the file already.
    pub fn start<T: Stored>(&mut self, name: &str, shape: &[usize]) -> Result<TensorWriter<'_, T>> {
        assert!(self.tensor(name).is_none(), "the tensor `{name}` is written twice");
        let offset = self.end.next_multiple_of(PAGE_BYTES);
        self.put(&[0; PAGE_BYTES as usize][..(offset - self.end) as usize])?;
        let spec = TensorSpec { name: name.to_owned(), dtype: T::DTYPE, shape: shape.to_vec(), offset };
        Ok(TensorWriter {
            weights: self,
            missing: shape.iter().product(),
            spec,
            bytes: Vec::new(),
            element: PhantomData,
        })
    }

    /// Appends a tensor.
    pub fn write<T: Stored>(&mut self, name: &str, shape: &[usize], values: &[T]) -> Result<()> {
        let mut tensor = self.start(name, shape)?;
        tensor.extend(values)?;
        tensor.finish();
        Ok(())
    }

    /// Notes the format of a matrix product or an embedding.
    pub fn plan(&mut self, name: &str, part: Part, format: WeightFormat, shape: [usize; 2]) {
        self.plan.push(PrecisionEntry { name: name.to_owned(), part, format, shape: shape.to_vec() });
    }

    /// A tensor that has been written.
    pub fn tensor(&self, name: &str) -> Option<&TensorSpec> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Writes out what is buffered; returns the tensors in file order and the precision plan.
    pub fn finish(mut self) -> Result<(Vec<TensorSpec>, Vec<PrecisionEntry>)> {
        self.file.flush().map_err(ConvertError::io(&self.path))?;
        Ok((self.tensors, self.plan))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(ConvertError::io(&self.path))?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// A tensor in the making; it counts for nothing until it is finished.
pub struct TensorWriter<'w, T> {
    weights: &'w mut WeightsWriter,
    spec: TensorSpec,
    missing: usize,
    bytes: Vec<u8>,
    element: PhantomData<T>,
}

impl<T: Stored> TensorWriter<'_, T> {
    /// Appends values in row-major order.
    ///
    /// # Panics
    /// When there are more than the shape says.
    pub fn extend(&mut self, values: &[T]) -> Result<()> {
        assert!(values.len() <= self.missing, "`{}`: more values than its shape holds", self.spec.name);
        self.missing -= values.len();
        for chunk in values.chunks(CHUNK) {
            self.bytes.clear();
            chunk.iter().for_each(|value| value.put(&mut self.bytes));
            self.weights.put(&self.bytes)?;
        }
        Ok(())
    }

    /// # Panics
    /// When values are missing.
    pub fn finish(self) {
        assert_eq!(self.missing, 0, "`{}`: values missing", self.spec.name);
        self.weights.tensors.push(self.spec);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn tensors_lie_on_pages_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut weights = WeightsWriter::create(dir.path()).unwrap();
        weights.write("a", &[3], &[1_i8, -2, 3]).unwrap();
        weights.write("b", &[2, 1], &[0.5_f32, -1.0]).unwrap();
        let (tensors, _) = weights.finish().unwrap();
        let bytes = fs::read(dir.path().join(WEIGHTS_FILE)).unwrap();
        assert_eq!(tensors.iter().map(|tensor| tensor.offset).collect::<Vec<_>>(), [0, PAGE_BYTES]);
        assert_eq!(bytes[..3], [1, 254, 3]);
        assert_eq!(bytes[PAGE_BYTES as usize..], [0, 0, 0, 63, 0, 0, 128, 191]);
    }
}
