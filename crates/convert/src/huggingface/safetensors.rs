//! Weights in the safetensors format, in one file or in several with an index.
//!
//! A file is the header's length (u64, little-endian), the header (JSON: name → type, shape, place), the data.
//! Tensors are read by position rather than mapped: a file that is cut short is then an error, not a crash.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt,
    path::{Component, Path},
};

use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;

use super::read_json;
use crate::{
    error::{ConvertError, Result},
    weights::{Matrix, TensorSource},
};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const TORCH_FILES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Longest header, as the reference implementation has it.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Bytes read at a time; a multiple of every element's size.
const CHUNK_BYTES: usize = 1 << 20;

/// The tensors of a checkpoint folder. Holds the headers only.
#[derive(Debug)]
pub struct Safetensors {
    /// The folder, for messages about what is in none of its files.
    path: String,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Debug)]
struct Shard {
    path: String,
    file: File,
}

#[derive(Debug)]
struct Tensor {
    shard: usize,
    dtype: String,
    shape: Vec<usize>,
    /// First byte in the file.
    start: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// An element type that can be read as f32.
#[derive(Clone, Copy)]
enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    fn of(dtype: &str) -> Option<Self> {
        match dtype {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn append(self, bytes: &[u8], values: &mut Vec<f32>) {
        let pairs = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self {
            Self::F32 => {
                values.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            }
            Self::F16 => values.extend(pairs().map(|bits| f16::from_bits(bits).to_f32())),
            Self::Bf16 => values.extend(pairs().map(|bits| bf16::from_bits(bits).to_f32())),
        }
    }
}

impl Safetensors {
    /// Opens `model.safetensors`, or the shards of `model.safetensors.index.json`.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut tensors =
            Self { path: dir.display().to_string(), shards: Vec::new(), tensors: BTreeMap::new() };
        if dir.join(SINGLE_FILE).exists() {
            tensors.add_file(&dir.join(SINGLE_FILE))?;
            return Ok(tensors);
        }
        if let Some(index) = read_json::<Index>(&dir.join(INDEX_FILE))? {
            tensors.add_shards(dir, index)?;
            return Ok(tensors);
        }
        if let Some(name) = TORCH_FILES.iter().find(|name| dir.join(name).exists()) {
            return Err(ConvertError::Unsupported {
                path: dir.join(name).display().to_string(),
                what: "the format of the weights".to_owned(),
                got: "a pickled PyTorch checkpoint".to_owned(),
                expected: "safetensors (save the model again with safe_serialization=True)".to_owned(),
            });
        }
        Err(ConvertError::MissingFile {
            path: tensors.path,
            what: format!("`{SINGLE_FILE}` or `{INDEX_FILE}`"),
            remedy: "fetch the whole checkpoint".to_owned(),
        })
    }

    fn add_shards(&mut self, dir: &Path, index: Index) -> Result<()> {
        let index_path = dir.join(INDEX_FILE);
        let mut files: Vec<&String> = index.weight_map.values().collect();
        files.sort();
        files.dedup();
        for file in files {
            let mut parts = Path::new(file).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(ConvertError::Damaged {
                    path: index_path.display().to_string(),
                    what: "the name of a shard".to_owned(),
                    got: format!("`{file}`"),
                    expected: "a file in the same folder".to_owned(),
                });
            }
            let path = dir.join(file);
            if !path.exists() {
                return Err(ConvertError::MissingFile {
                    path: index_path.display().to_string(),
                    what: format!("the shard `{file}`"),
                    remedy: "fetch the whole checkpoint".to_owned(),
                });
            }
            self.add_file(&path)?;
        }
        for (name, file) in &index.weight_map {
            let path = dir.join(file).display().to_string();
            let found = self.tensors.get(name).map(|tensor| &self.shards[tensor.shard].path);
            if found != Some(&path) {
                return Err(ConvertError::MissingTensor { path, tensor: name.clone() });
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let io = |error| ConvertError::io(path)(error);
        let damaged = |what: &str, got: String, expected: String| ConvertError::Damaged {
            path: path.display().to_string(),
            what: what.to_owned(),
            got,
            expected,
        };
        let file = File::open(path).map_err(io)?;
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
        let shard = self.shards.len();
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
            if let Some(float) = Float::of(&dtype) {
                let elements = shape.iter().try_fold(float.bytes(), |n, &dim| n.checked_mul(dim));
                if elements.and_then(|n| u64::try_from(n).ok()) != Some(end - start) {
                    let got = format!("{} bytes", end - start);
                    let expected = format!("what {dtype} {shape:?} takes");
                    return Err(damaged(&format!("the tensor `{name}`"), got, expected));
                }
            }
            let tensor = Tensor { shard, dtype, shape, start: data + start, bytes: end - start };
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(damaged(
                    &format!("the tensor `{name}`"),
                    "in two shards".to_owned(),
                    "one".to_owned(),
                ));
            }
        }
        self.shards.push(Shard { path: path.display().to_string(), file });
        Ok(())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The folder.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// True when two tensors exist and hold the same values.
    pub fn same(&self, a: &str, b: &str) -> Result<bool> {
        let (Some(shape), Some(other)) = (self.shape(a), self.shape(b)) else { return Ok(false) };
        if shape != other {
            return Ok(false);
        }
        let (mut a, mut b) = (self.reader(a, shape)?, self.reader(b, shape)?);
        let (mut left, mut right) = (Vec::new(), Vec::new());
        while a.left > 0 {
            left.clear();
            right.clear();
            a.read(&mut left)?;
            while right.len() < left.len() && b.left > 0 {
                b.read(&mut right)?;
            }
            // Readers of different types advance by different numbers of elements.
            while left.len() < right.len() && a.left > 0 {
                a.read(&mut left)?;
            }
            if left != right {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let mut reader = self.reader(name, shape)?;
        let mut values = Vec::with_capacity(shape.iter().product());
        while reader.left > 0 {
            reader.read(&mut values)?;
        }
        Ok(values)
    }

    fn reader<'a>(&'a self, name: &'a str, shape: &[usize]) -> Result<Reader<'a>> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(ConvertError::MissingTensor { path: self.path.clone(), tensor: name.to_owned() });
        };
        let shard = &self.shards[tensor.shard];
        if tensor.shape != shape {
            return Err(ConvertError::Shape {
                path: shard.path.clone(),
                tensor: name.to_owned(),
                got: tensor.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let Some(float) = Float::of(&tensor.dtype) else {
            return Err(ConvertError::ElementType {
                path: shard.path.clone(),
                tensor: name.to_owned(),
                got: tensor.dtype.clone(),
                expected: "F32, F16 or BF16",
            });
        };
        Ok(Reader { name, shard, float, at: tensor.start, left: tensor.bytes, buffer: Vec::new() })
    }
}

impl TensorSource for Safetensors {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        Ok(Matrix::new(rows, columns, self.values(name, &[rows, columns])?))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.values(name, &[len])
    }
}

/// Reads a tensor from front to back.
struct Reader<'a> {
    name: &'a str,
    shard: &'a Shard,
    float: Float,
    at: u64,
    /// Bytes.
    left: u64,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    /// Appends the next values.
    fn read(&mut self, values: &mut Vec<f32>) -> Result<()> {
        let bytes = self.left.min(CHUNK_BYTES as u64);
        self.buffer.resize(bytes as usize, 0);
        let path = Path::new(&self.shard.path);
        self.shard.file.read_exact_at(&mut self.buffer, self.at).map_err(ConvertError::io(path))?;
        let first = values.len();
        self.float.append(&self.buffer, values);
        if !values[first..].iter().all(|value| value.is_finite()) {
            return Err(ConvertError::NotFinite {
                path: self.shard.path.clone(),
                tensor: self.name.to_owned(),
            });
        }
        self.at += bytes;
        self.left -= bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file of the given header and data.
    fn write(dir: &Path, name: &str, header: &str, data: &[u8]) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        fs::write(dir.join(name), bytes).unwrap();
    }

    fn opened(header: &str, data: &[u8]) -> Result<Safetensors> {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), SINGLE_FILE, header, data);
        Safetensors::open(dir.path())
    }

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn each_float_type_reads_as_f32() {
        let header = r#"{"__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
            "b": {"dtype": "F16", "shape": [2], "data_offsets": [8, 12]},
            "c": {"dtype": "BF16", "shape": [2], "data_offsets": [12, 16]},
            "d": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}"#;
        let mut data = Vec::new();
        data.extend(1.5_f32.to_le_bytes());
        data.extend((-2.0_f32).to_le_bytes());
        [1.5_f32, -2.0].iter().for_each(|&x| data.extend(f16::from_f32(x).to_le_bytes()));
        [1.5_f32, -2.0].iter().for_each(|&x| data.extend(bf16::from_f32(x).to_le_bytes()));
        let tensors = opened(header, &data).unwrap();
        assert_eq!(tensors.matrix("a", 2, 1).unwrap().into_f32(), [1.5, -2.0]);
        assert_eq!(tensors.vector("b", 2).unwrap(), [1.5, -2.0]);
        assert_eq!(tensors.vector("c", 2).unwrap(), [1.5, -2.0]);
        assert!(tensors.same("b", "c").unwrap());
        assert!(!tensors.same("a", "b").unwrap(), "of another shape");
        assert!(message(tensors.vector("d", 1)).contains("has type I8"));
        assert!(message(tensors.vector("b", 3)).contains("has shape [2], expected [3]"));
        assert!(message(tensors.vector("e", 3)).contains("`e` is missing"));
    }

    #[test]
    fn equality_is_of_all_values_across_chunks_and_types() {
        let count = CHUNK_BYTES / 4 + 3;
        let header = format!(
            r#"{{"a": {{"dtype": "F32", "shape": [{count}], "data_offsets": [0, {}]}},
                 "b": {{"dtype": "F16", "shape": [{count}], "data_offsets": [{}, {}]}}}}"#,
            count * 4,
            count * 4,
            count * 6
        );
        let mut data = vec![0; count * 6];
        assert!(opened(&header, &data).unwrap().same("a", "b").unwrap());
        data[count * 6 - 1] = 0x3c;
        assert!(!opened(&header, &data).unwrap().same("a", "b").unwrap());
    }

    #[test]
    fn damage_is_named() {
        let entry = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
        };
        assert!(message(opened(&entry("F32", "[2]", "[0, 8]"), &[0; 4])).contains("bytes 0 to 8"));
        assert!(message(opened(&entry("F32", "[2]", "[8, 0]"), &[0; 8])).contains("bytes 8 to 0"));
        assert!(message(opened(&entry("F32", "[3]", "[0, 8]"), &[0; 8])).contains("what F32 [3] takes"));
        let vast = "[4294967296, 4294967296, 4294967296]";
        assert!(message(opened(&entry("F32", vast, "[0, 0]"), &[])).contains("is 0 bytes"));
        assert!(message(opened(&entry("F32", "[-1]", "[0, 0]"), &[])).contains("the header"));
        assert!(message(opened("{", &[])).contains("the header"));
        let nan = opened(&entry("F32", "[1]", "[0, 4]"), &f32::NAN.to_le_bytes()).unwrap();
        assert!(message(nan.vector("a", 1)).contains("not finite"));

        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SINGLE_FILE), [0; 7]).unwrap();
        assert!(message(Safetensors::open(dir.path())).contains("7 bytes"));
        fs::write(dir.path().join(SINGLE_FILE), [0xff; 16]).unwrap();
        assert!(message(Safetensors::open(dir.path())).contains("the size of the header"));
    }

    #[test]
    fn an_index_names_its_shards() {
        let dir = tempfile::tempdir().unwrap();
        let header =
            |name| format!(r#"{{"{name}": {{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}}}"#);
        write(dir.path(), "1.safetensors", &header("a"), &1.0_f32.to_le_bytes());
        write(dir.path(), "2.safetensors", &header("b"), &2.0_f32.to_le_bytes());
        let index = |map: &str| {
            fs::write(dir.path().join(INDEX_FILE), format!(r#"{{"weight_map": {map}}}"#)).unwrap();
            Safetensors::open(dir.path())
        };
        let tensors = index(r#"{"a": "1.safetensors", "b": "2.safetensors"}"#).unwrap();
        assert_eq!(tensors.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(tensors.vector("b", 1).unwrap(), [2.0]);
        let swapped = index(r#"{"a": "2.safetensors", "b": "1.safetensors"}"#);
        assert!(message(swapped).contains("`a` is missing"));
        assert!(message(index(r#"{"a": "3.safetensors"}"#)).contains("`3.safetensors` is missing"));
        for outside in ["../1.safetensors", "/etc/passwd", "x/1.safetensors", "..", ""] {
            let result = index(&format!(r#"{{"a": "{outside}"}}"#));
            assert!(message(result).contains("a file in the same folder"), "{outside}");
        }
    }

    #[test]
    fn other_formats_are_told_apart_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(message(Safetensors::open(dir.path())).contains("is missing"));
        fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
        assert!(message(Safetensors::open(dir.path())).contains("pickled PyTorch"));
    }
}
