//! The tensors, in full precision and as the hub's checkpoint has them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

use candle_core::{Device, quantized::gguf_file};

use super::{
    Gguf,
    header::{Header, TensorInfo},
    names::{Architecture, Family, ROPE_DIVISORS},
};
use crate::{
    error::{ConvertError, Result},
    weights::{Matrix, TensorSource},
};

/// A tensor of the file.
#[derive(Debug)]
pub struct Stored {
    /// Its name there.
    name: String,
    change: Change,
}

/// What the converter of llama.cpp has done to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// The rows of each of so many heads are in the order of neighbouring pairs rather than of halves.
    Paired {
        heads: usize,
    },
    /// One was added.
    PlusOne,
}

/// Finds the place of each tensor in the architecture.
pub fn by_name(header: &Header, architecture: &Architecture) -> Result<BTreeMap<String, Stored>> {
    let heads = architecture.heads(header)?;
    let kv_heads = architecture.kv_heads(header)?;
    let mut tensors = BTreeMap::new();
    for (name, info) in &header.tensors {
        if name == ROPE_DIVISORS {
            continue;
        }
        let Some(hub_name) = architecture.hub_name(name) else {
            let expected = format!("tensors of the architecture `{}`", architecture.name);
            return Err(header.unsupported(
                &format!("the tensor `{name}`"),
                "in the file".to_owned(),
                &expected,
            ));
        };
        let change = match architecture.family {
            Family::Llama if hub_name.contains(".q_proj.") => Change::Paired { heads },
            Family::Llama if hub_name.contains(".k_proj.") => Change::Paired { heads: kv_heads },
            _ if architecture.is_gemma() && hub_name.ends_with("norm.weight") => Change::PlusOne,
            _ => Change::None,
        };
        if let Change::Paired { heads } = change {
            let rows = info.shape.first().copied().unwrap_or(0);
            if heads == 0 || !rows.is_multiple_of(2 * heads) {
                let got = format!("of {rows} rows");
                return Err(header.damaged(
                    &format!("the tensor `{name}`"),
                    got,
                    format!("pairs for {heads} heads"),
                ));
            }
        }
        tensors.insert(hub_name, Stored { name: name.clone(), change });
    }
    Ok(tensors)
}

impl Gguf {
    pub(super) fn info(&self, hub_name: &str) -> Option<(&Stored, &TensorInfo)> {
        let stored = self.tensors.get(hub_name)?;
        Some((stored, self.header.tensors.get(&stored.name)?))
    }

    fn expect(&self, hub_name: &str, shape: &[usize]) -> Result<(&Stored, &TensorInfo)> {
        let path = || self.path.display().to_string();
        let Some((stored, info)) = self.info(hub_name) else {
            return Err(ConvertError::MissingTensor { path: path(), tensor: hub_name.to_owned() });
        };
        if info.shape != shape {
            return Err(ConvertError::Shape {
                path: path(),
                tensor: stored.name.clone(),
                got: info.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        Ok((stored, info))
    }

    /// Elements of a tensor from one that begins a block to one that ends a block.
    pub(super) fn values(&self, name: &str, info: &TensorInfo, range: Range<usize>) -> Result<Vec<f32>> {
        let (elements, bytes) = info.block();
        let window = gguf_file::TensorInfo {
            ggml_dtype: info.dtype,
            shape: range.len().into(),
            offset: info.offset + (range.start / elements * bytes) as u64,
        };
        let mut reader = At { file: &self.file, position: 0 };
        let values = window
            .read(&mut reader, 0, &Device::Cpu)
            .and_then(|tensor| tensor.dequantize(&Device::Cpu)?.to_vec1::<f32>())
            .map_err(|error| ConvertError::Syntax {
                path: self.path.display().to_string(),
                reason: format!("the tensor `{name}`: {error}"),
            })?;
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(ConvertError::NotFinite { path: self.path.display().to_string(), tensor: name.to_owned() })
    }
}

impl TensorSource for Gguf {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.info(name).map(|(_, info)| info.shape.as_slice())
    }

    fn rows(&self, name: &str, shape: [usize; 2], range: Range<usize>) -> Result<Matrix> {
        let (stored, info) = self.expect(name, &shape)?;
        let [rows, columns] = shape;
        let read =
            |rows: Range<usize>| self.values(&stored.name, info, rows.start * columns..rows.end * columns);
        let values = match stored.change {
            Change::Paired { heads } => {
                let height = rows / heads;
                // A row may lie anywhere in its head.
                let around = range.start / height * height..range.end.next_multiple_of(height);
                let paired = read(around.clone())?;
                let mut values = Vec::with_capacity(range.len() * columns);
                for row in range.clone() {
                    let at = (in_pairs(row, height) - around.start) * columns;
                    values.extend_from_slice(&paired[at..at + columns]);
                }
                values
            }
            _ => read(range.clone())?,
        };
        Ok(Matrix::new(range.len(), columns, values))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let (stored, info) = self.expect(name, &[len])?;
        let mut values = self.values(&stored.name, info, 0..len)?;
        match stored.change {
            Change::None => {}
            Change::PlusOne => values.iter_mut().for_each(|value| *value -= 1.0),
            Change::Paired { heads } => {
                values = (0..len).map(|row| values[in_pairs(row, len / heads)]).collect();
            }
        }
        Ok(values)
    }
}

/// Where a row of halves is in the order of pairs.
fn in_pairs(row: usize, height: usize) -> usize {
    let (head, row) = (row / height, row % height);
    let (half, pair) = (row / (height / 2), row % (height / 2));
    head * height + 2 * pair + half
}

/// A file read by position, so that it can be shared.
struct At<'f> {
    file: &'f File,
    position: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for At<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::Current(by) => (self.position, by),
            SeekFrom::End(by) => (self.file.metadata()?.len(), by),
        };
        self.position = from.checked_add_signed(by).ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
