//! PyTorch checkpoints: a zip archive with a pickle of the state dict, and the storages of its tensors, uncompressed.

mod pickle;

use std::{collections::HashMap, fs::File, io::BufReader, os::unix::fs::FileExt, path::Path};

use zip::{CompressionMethod, ZipArchive};

use super::tensors::{Float, Listed, Place, Values};
use crate::error::{ConvertError, Result};
use pickle::StoredTensor;

const PICKLE: &str = "data.pkl";
const BYTE_ORDER: &str = "byteorder";
/// Far more than the names and shapes of any model take; reading takes up to a hundred times as much.
const MAX_PICKLE_BYTES: u64 = 8 << 20;
const ARCHIVE_MAGIC: [u8; 4] = *b"PK\x03\x04";
/// How a pickle begins: the files of PyTorch before 1.6.
const PICKLE_MAGIC: u8 = 0x80;
const SAVE_AGAIN: &str =
    "a zip archive; load the file with a current PyTorch and save it with torch.save, or as safetensors";

/// The bytes of an entry of the archive.
#[derive(Clone, Copy)]
struct Extent {
    start: u64,
    bytes: u64,
}

/// The tensors of a file.
pub fn list(path: &Path, file: &File) -> Result<Vec<Listed>> {
    let mut magic = [0; ARCHIVE_MAGIC.len()];
    let read = file.read_at(&mut magic, 0).map_err(ConvertError::io(path))?;
    if read < magic.len() || magic != ARCHIVE_MAGIC {
        let got = if magic[0] == PICKLE_MAGIC { "a pickle of PyTorch before 1.6" } else { "something else" };
        return Err(ConvertError::Unsupported {
            path: path.display().to_string(),
            what: "the format of the weights".to_owned(),
            got: got.to_owned(),
            expected: SAVE_AGAIN.to_owned(),
        });
    }
    let archive = file.try_clone().map_err(ConvertError::io(path))?;
    let entries = entries(path, archive)?;
    let suffix = format!("/{PICKLE}");
    let mut roots = entries.keys().filter_map(|name| name.strip_suffix(&suffix));
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Err(damaged(path, "the archive", "without one state dict", format!("one `{PICKLE}`")));
    };
    if let Some(order) = entries.get(&format!("{root}/{BYTE_ORDER}"))
        && extent(path, file, *order, 16)? == b"big"
    {
        return Err(ConvertError::Unsupported {
            path: path.display().to_string(),
            what: "the order of bytes".to_owned(),
            got: "big-endian".to_owned(),
            expected: "little-endian; save the model as safetensors".to_owned(),
        });
    }
    let pickle = extent(path, file, entries[&format!("{root}{suffix}")], MAX_PICKLE_BYTES)?;
    let tensors = pickle::state_dict(&pickle).map_err(|reason| ConvertError::Syntax {
        path: path.display().to_string(),
        reason: format!("`{PICKLE}`: {reason}"),
    })?;
    let mut listed = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let storage = entries.get(&format!("{root}/data/{}", tensor.storage));
        let place = place(path, &name, tensor, storage.copied())?;
        listed.push(Listed { name, place });
    }
    if listed.is_empty() {
        return Err(damaged(path, "the state dict", "without tensors", "the tensors of a model"));
    }
    Ok(listed)
}

/// The uncompressed entries by name.
fn entries(path: &Path, file: File) -> Result<HashMap<String, Extent>> {
    let unreadable = |error: zip::result::ZipError| ConvertError::Syntax {
        path: path.display().to_string(),
        reason: format!("the archive: {error}"),
    };
    let size = file.metadata().map_err(ConvertError::io(path))?.len();
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(unreadable)?;
    let mut entries = HashMap::with_capacity(archive.len());
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(unreadable)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            let got = format!("`{name}` compressed");
            return Err(damaged(path, "the archive", got, "entries as they are"));
        }
        let start = entry.data_start().unwrap_or(u64::MAX);
        let bytes = entry.size();
        if start.checked_add(bytes).is_none_or(|end| end > size) {
            let got = format!("`{name}` of {bytes} bytes from byte {start}");
            return Err(damaged(path, "the archive", got, format!("within {size} bytes")));
        }
        entries.insert(name, Extent { start, bytes });
    }
    Ok(entries)
}

fn extent(path: &Path, file: &File, extent: Extent, limit: u64) -> Result<Vec<u8>> {
    if extent.bytes > limit {
        let got = format!("{} bytes", extent.bytes);
        return Err(damaged(path, "the state dict", got, format!("at most {limit}")));
    }
    let mut bytes = vec![0; extent.bytes as usize];
    file.read_exact_at(&mut bytes, extent.start).map_err(ConvertError::io(path))?;
    Ok(bytes)
}

/// Where a tensor's values lie, if they are floats one after the other.
fn place(path: &Path, name: &str, tensor: StoredTensor, storage: Option<Extent>) -> Result<Place> {
    let StoredTensor { class, first, shape, strides, .. } = tensor;
    let float = match class.as_str() {
        "FloatStorage" => Float::F32,
        "HalfStorage" => Float::F16,
        "BFloat16Storage" => Float::Bf16,
        _ => return Ok(Place { shape, values: Values::Other(class), start: 0 }),
    };
    if !is_contiguous(&shape, &strides) {
        let values = Values::Other("a storage in another order".to_owned());
        return Ok(Place { shape, values, start: 0 });
    }
    let width = float.bytes() as u64;
    let elements = shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
    let end = elements.and_then(|elements| elements.checked_add(first)?.checked_mul(width));
    match (storage, end) {
        (Some(Extent { start, bytes }), Some(end)) if end <= bytes => {
            Ok(Place { shape, values: Values::Floats(float), start: start + first * width })
        }
        _ => {
            let got = format!("of shape {shape:?} from element {first}");
            let expected = match storage {
                Some(Extent { bytes, .. }) => format!("within the {bytes} bytes of its storage"),
                None => "one whose storage is in the archive".to_owned(),
            };
            Err(damaged(path, &format!("the tensor `{name}`"), got, expected))
        }
    }
}

/// True when the last dimension lies closest, then the one before it, and so on.
fn is_contiguous(shape: &[usize], strides: &[u64]) -> bool {
    let mut expected = Some(1_u64);
    shape.len() == strides.len()
        && shape.iter().zip(strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || expected == Some(stride);
            expected = expected.and_then(|expected| expected.checked_mul(size as u64));
            fits
        })
}

fn damaged(path: &Path, what: &str, got: impl ToString, expected: impl ToString) -> ConvertError {
    ConvertError::Damaged {
        path: path.display().to_string(),
        what: what.to_owned(),
        got: got.to_string(),
        expected: expected.to_string(),
    }
}
