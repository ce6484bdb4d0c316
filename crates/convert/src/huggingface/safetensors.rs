//! The safetensors format: the header's length (u64, little-endian), the header (JSON: name → type, shape, place),
//! the data.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use serde::Deserialize;
use serde_json::Value;

use super::tensors::{Float, Listed, Place, Values};
use crate::error::{ConvertError, Result};

/// Longest header, as the reference implementation has it.
const MAX_HEADER_BYTES: u64 = 100_000_000;

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// The tensors of a file.
pub fn list(path: &Path, file: &File) -> Result<Vec<Listed>> {
    let io = |error| ConvertError::io(path)(error);
    let damaged = |what: &str, got: String, expected: String| ConvertError::Damaged {
        path: path.display().to_string(),
        what: what.to_owned(),
        got,
        expected,
    };
    let size = file.metadata().map_err(io)?.len();
    let mut length = [0; 8];
    if size < 8 {
        return Err(damaged("the size of the file", format!("{size} bytes"), "at least 8".to_owned()));
    }
    file.read_exact_at(&mut length, 0).map_err(io)?;
    let length = u64::from_le_bytes(length);
    let limit = MAX_HEADER_BYTES.min(size - 8);
    if length > limit {
        let got = format!("{length} bytes");
        return Err(damaged("the size of the header", got, format!("at most {limit}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact_at(&mut header, 8).map_err(io)?;
    let syntax = |error: serde_json::Error| ConvertError::Syntax {
        path: path.display().to_string(),
        reason: format!("the header: {error}"),
    };
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&header).map_err(syntax)?;

    let data = 8 + length;
    let mut tensors = Vec::with_capacity(header.len());
    for (name, entry) in header {
        if name == "__metadata__" {
            continue;
        }
        let HeaderEntry { dtype, shape, data_offsets: [start, end] } =
            serde_json::from_value(entry).map_err(syntax)?;
        if start > end || end > size - data {
            let got = format!("bytes {start} to {end}");
            let expected = format!("a place in the {} bytes of data", size - data);
            return Err(damaged(&format!("the tensor `{name}`"), got, expected));
        }
        let values = match dtype.as_str() {
            "F32" => Values::Floats(Float::F32),
            "F16" => Values::Floats(Float::F16),
            "BF16" => Values::Floats(Float::Bf16),
            _ => Values::Other(dtype.clone()),
        };
        if let Values::Floats(float) = values {
            let elements = shape.iter().try_fold(float.bytes(), |n, &dim| n.checked_mul(dim));
            if elements.and_then(|n| u64::try_from(n).ok()) != Some(end - start) {
                let got = format!("{} bytes", end - start);
                let expected = format!("what {dtype} {shape:?} takes");
                return Err(damaged(&format!("the tensor `{name}`"), got, expected));
            }
        }
        tensors.push(Listed { name, place: Place { shape, values, start: data + start } });
    }
    Ok(tensors)
}
