//! The tensors of a checkpoint folder, whichever format its files have.
//!
//! Tensors are read by position rather than mapped: a file that is cut short is then an error, not a crash.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Component, Path, PathBuf},
};

use half::{bf16, f16};
use serde::Deserialize;

use super::{read_json, safetensors, torch};
use crate::{
    error::{ConvertError, Result},
    weights::{Matrix, TensorSource},
};

/// Files of a format, and what lists the tensors of one.
struct Format {
    single: &'static str,
    index: &'static str,
    list: fn(&Path, &File) -> Result<Vec<Listed>>,
}

/// What cannot run anything and says its sizes comes first.
const FORMATS: [Format; 2] = [
    Format { single: "model.safetensors", index: "model.safetensors.index.json", list: safetensors::list },
    Format { single: "pytorch_model.bin", index: "pytorch_model.bin.index.json", list: torch::list },
];

/// Bytes read at a time; a multiple of every element's size.
const CHUNK_BYTES: usize = 1 << 20;

/// The tensors of a folder. Holds their places only.
#[derive(Debug)]
struct Tensors {
    /// The folder, for messages about what is in none of its files.
    path: PathBuf,
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
    place: Place,
}

/// A tensor of a file.
pub struct Listed {
    pub name: String,
    pub place: Place,
}

/// Where a tensor lies in its file. That its floats are within has been checked.
#[derive(Debug, PartialEq)]
pub struct Place {
    pub shape: Vec<usize>,
    pub values: Values,
    /// First byte in the file.
    pub start: u64,
}

#[derive(Debug, PartialEq)]
pub enum Values {
    Floats(Float),
    /// What they are, for the message when someone asks for them.
    Other(String),
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// An element type that can be read as f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    pub fn bytes(self) -> usize {
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

/// Opens the weights of a folder: safetensors, else a PyTorch checkpoint, in one file or in several with an index.
pub fn open_tensors(dir: &Path) -> Result<Box<dyn TensorSource>> {
    Ok(Box::new(Tensors::open(dir)?))
}

impl Tensors {
    fn open(dir: &Path) -> Result<Self> {
        let mut tensors = Self { path: dir.to_owned(), shards: Vec::new(), tensors: BTreeMap::new() };
        for format in &FORMATS {
            let single = dir.join(format.single);
            if single.exists() {
                tensors.add_file(&single, format)?;
                return Ok(tensors);
            }
            let index_path = dir.join(format.index);
            if let Some(index) = read_json::<Index>(&index_path)? {
                tensors.add_shards(&index_path, index, format)?;
                return Ok(tensors);
            }
        }
        let names = FORMATS.iter().flat_map(|format| [format.single, format.index]);
        Err(ConvertError::MissingFile {
            path: dir.display().to_string(),
            what: format!("each of {}", names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
            remedy: "fetch the whole checkpoint".to_owned(),
        })
    }

    fn add_shards(&mut self, index_path: &Path, index: Index, format: &Format) -> Result<()> {
        let dir = self.path.clone();
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
            self.add_file(&path, format)?;
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

    fn add_file(&mut self, path: &Path, format: &Format) -> Result<()> {
        let file = File::open(path).map_err(ConvertError::io(path))?;
        let shard = self.shards.len();
        for Listed { name, place } in (format.list)(path, &file)? {
            if self.tensors.insert(name.clone(), Tensor { shard, place }).is_some() {
                return Err(ConvertError::Damaged {
                    path: path.display().to_string(),
                    what: format!("the tensor `{name}`"),
                    got: "there twice".to_owned(),
                    expected: "there once".to_owned(),
                });
            }
        }
        self.shards.push(Shard { path: path.display().to_string(), file });
        Ok(())
    }

    /// The values of some elements of a tensor of this shape.
    fn values(&self, name: &str, shape: &[usize], range: Range<usize>) -> Result<Vec<f32>> {
        let mut reader = self.reader(name, shape, &range)?;
        let mut values = Vec::with_capacity(range.len());
        while reader.left > 0 {
            reader.read(&mut values)?;
        }
        Ok(values)
    }

    fn reader<'a>(&'a self, name: &'a str, shape: &[usize], range: &Range<usize>) -> Result<Reader<'a>> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(ConvertError::MissingTensor {
                path: self.path.display().to_string(),
                tensor: name.to_owned(),
            });
        };
        let shard = &self.shards[tensor.shard];
        if tensor.place.shape != shape {
            return Err(ConvertError::Shape {
                path: shard.path.clone(),
                tensor: name.to_owned(),
                got: tensor.place.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let float = match &tensor.place.values {
            Values::Floats(float) => *float,
            Values::Other(got) => {
                return Err(ConvertError::ElementType {
                    path: shard.path.clone(),
                    tensor: name.to_owned(),
                    got: got.clone(),
                    expected: "F32, F16 or BF16",
                });
            }
        };
        // Within the tensor, whose bytes have been counted.
        let at = tensor.place.start + (range.start * float.bytes()) as u64;
        Ok(Reader { name, shard, float, at, left: (range.len() * float.bytes()) as u64, buffer: Vec::new() })
    }
}

impl TensorSource for Tensors {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.place.shape.as_slice())
    }

    fn rows(&self, name: &str, shape: [usize; 2], range: Range<usize>) -> Result<Matrix> {
        let elements = range.start * shape[1]..range.end * shape[1];
        Ok(Matrix::new(range.len(), shape[1], self.values(name, &shape, elements)?))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.values(name, &[len], 0..len)
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

    fn opened(header: &str, data: &[u8]) -> Result<Tensors> {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), FORMATS[0].single, header, data);
        Tensors::open(dir.path())
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
        assert!(message(tensors.vector("d", 1)).contains("has type I8"));
        assert!(message(tensors.vector("b", 3)).contains("has shape [2], expected [3]"));
        assert!(message(tensors.vector("e", 3)).contains("`e` is missing"));
    }

    #[test]
    fn equality_is_of_all_values_across_stripes_and_types() {
        let (rows, columns) = (CHUNK_BYTES / 4 + 3, 5);
        let count = rows * columns;
        let entry = |name: &str, dtype: &str, shape: &str, from: usize, to: usize| {
            format!(r#""{name}": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [{from}, {to}]}}"#)
        };
        let shape = format!("[{rows}, {columns}]");
        let header = [
            entry("a", "F32", &shape, 0, count * 4),
            entry("b", "F16", &shape, count * 4, count * 6),
            entry("c", "F32", &format!("[{columns}, {rows}]"), 0, count * 4),
        ];
        let header = format!("{{{}}}", header.join(","));
        let mut data = vec![0; count * 6];
        let tensors = opened(&header, &data).unwrap();
        assert!(tensors.same("a", "b").unwrap());
        assert!(!tensors.same("a", "c").unwrap(), "of another shape");
        assert!(!tensors.same("a", "d").unwrap(), "not there");
        data[count * 6 - 1] = 0x3c;
        let tensors = opened(&header, &data).unwrap();
        assert!(!tensors.same("a", "b").unwrap());
        let last = tensors.rows("b", [rows, columns], rows - 1..rows).unwrap();
        assert_eq!(last.into_f32(), [0.0, 0.0, 0.0, 0.0, 1.0]);
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
        fs::write(dir.path().join(FORMATS[0].single), [0; 7]).unwrap();
        assert!(message(Tensors::open(dir.path())).contains("7 bytes"));
        fs::write(dir.path().join(FORMATS[0].single), [0xff; 16]).unwrap();
        assert!(message(Tensors::open(dir.path())).contains("the size of the header"));
    }

    #[test]
    fn an_index_names_its_shards() {
        let dir = tempfile::tempdir().unwrap();
        let header =
            |name| format!(r#"{{"{name}": {{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}}}"#);
        write(dir.path(), "1.safetensors", &header("a"), &1.0_f32.to_le_bytes());
        write(dir.path(), "2.safetensors", &header("b"), &2.0_f32.to_le_bytes());
        let index = |map: &str| {
            fs::write(dir.path().join(FORMATS[0].index), format!(r#"{{"weight_map": {map}}}"#)).unwrap();
            Tensors::open(dir.path())
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
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = message(Tensors::open(dir.path()));
        assert!(
            message.contains("`model.safetensors`") && message.contains("`pytorch_model.bin`"),
            "{message}"
        );
    }
}
