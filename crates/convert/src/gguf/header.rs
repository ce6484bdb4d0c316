//! The part of a file before its data: metadata, and the place of each tensor.
//!
//! Little-endian: magic, u32 version, u64 number of tensors, u64 number of metadata entries; the entries (name, type,
//! value), the tensors (name, dimensions with the innermost first, type, offset in the data); padding; the data.
//! A text is its length (u64) and its bytes. candle's reader does not do here: it divides by an alignment of zero,
//! takes the last of two tensors of one name, makes 32 bytes of each byte of an array, and cannot name a type.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use candle_core::quantized::GgmlDType;

use crate::error::{ConvertError, Result};

pub const MAGIC: [u8; 4] = *b"GGUF";
const VERSIONS: [u32; 2] = [2, 3];
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;
const MAX_DIMENSIONS: u32 = 4;
/// Metadata and tensor infos; four times what the largest vocabularies take.
const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Least bytes of a metadata entry and of a tensor info.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

const SUPPORTED_TYPES: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K";

/// A metadata value; an array keeps its elements in as little room as they need.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Bools(Vec<bool>),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
}

#[derive(Debug)]
pub struct Header {
    pub path: PathBuf,
    metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// A tensor whose data is within the file.
#[derive(Debug)]
pub struct TensorInfo {
    pub dtype: GgmlDType,
    /// The outermost dimension first.
    pub shape: Vec<usize>,
    /// In the file.
    pub offset: u64,
}

impl TensorInfo {
    /// Elements that are quantized together, and their bytes.
    pub fn block(&self) -> (usize, usize) {
        block(self.dtype)
    }
}

fn block(dtype: GgmlDType) -> (usize, usize) {
    (dtype.block_size(), dtype.type_size())
}

impl Header {
    pub fn read(path: &Path, file: &File) -> Result<Self> {
        let size = file.metadata().map_err(ConvertError::io(path))?.len();
        let limit = size.min(MAX_HEADER_BYTES);
        Cursor { path, input: BufReader::new(file), position: 0, limit, size }.header()
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    pub fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "a whole number", |value| match value {
            Value::Integer(value) => u64::try_from(*value).ok(),
            _ => None,
        })
    }

    /// A number, or a list with one for each layer where all are the same.
    pub fn same_everywhere(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "one number for all layers", |value| match value {
            Value::Integer(value) => u64::try_from(*value).ok(),
            Value::Integers(values) => {
                let first = *values.first()?;
                values.iter().all(|&value| value == first).then(|| u64::try_from(first).ok())?
            }
            _ => None,
        })
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a finite number", |value| match value {
            Value::Float(value) => value.is_finite().then_some(*value),
            Value::Integer(value) => Some(*value as f64),
            _ => None,
        })
    }

    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        self.get(key, "a list of texts", |value| match value {
            Value::Texts(values) => Some(values.as_slice()),
            _ => None,
        })
    }

    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>> {
        self.get(key, "a list of whole numbers", |value| match value {
            Value::Integers(values) => Some(values.as_slice()),
            _ => None,
        })
    }

    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        self.get(key, "a list of finite numbers", |value| match value {
            Value::Floats(values) if values.iter().all(|value| value.is_finite()) => Some(values.as_slice()),
            _ => None,
        })
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let kind = match value {
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(_) => "a text".to_owned(),
            Value::Bools(_) | Value::Integers(_) | Value::Floats(_) | Value::Texts(_) => "a list".to_owned(),
        };
        read(value).map(Some).ok_or_else(|| self.unsupported(&format!("`{key}`"), kind, expected))
    }

    /// What is needed and must be there.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| ConvertError::MissingFile {
            path: self.path.display().to_string(),
            what: format!("the metadata `{key}`"),
            remedy: "make the file again with a current llama.cpp".to_owned(),
        })
    }

    pub fn unsupported(&self, what: &str, got: String, expected: &str) -> ConvertError {
        ConvertError::Unsupported {
            path: self.path.display().to_string(),
            what: what.to_owned(),
            got,
            expected: expected.to_owned(),
        }
    }

    pub fn damaged(&self, what: &str, got: impl ToString, expected: impl ToString) -> ConvertError {
        damaged(&self.path, what, got, expected)
    }
}

fn damaged(path: &Path, what: &str, got: impl ToString, expected: impl ToString) -> ConvertError {
    ConvertError::Damaged {
        path: path.display().to_string(),
        what: what.to_owned(),
        got: got.to_string(),
        expected: expected.to_string(),
    }
}

struct Cursor<'f> {
    path: &'f Path,
    input: BufReader<&'f File>,
    position: u64,
    /// Where the header ends at the latest.
    limit: u64,
    size: u64,
}

impl Cursor<'_> {
    fn header(mut self) -> Result<Header> {
        let magic: [u8; 4] = self.array("the magic")?;
        if magic != MAGIC {
            return Err(self.damaged("the magic", format!("{magic:02x?}"), "`GGUF`"));
        }
        let version = self.u32("the version")?;
        if !VERSIONS.contains(&version) {
            let big_endian = VERSIONS.contains(&version.swap_bytes());
            return Err(ConvertError::Unsupported {
                path: self.path.display().to_string(),
                what: "the GGUF version".to_owned(),
                got: if big_endian { "big-endian".to_owned() } else { version.to_string() },
                expected: "2 or 3, little-endian; make the file again with a current llama.cpp".to_owned(),
            });
        }
        let tensors = self.u64("the number of tensors")?;
        let entries = self.u64("the number of metadata entries")?;
        let least =
            entries.saturating_mul(MIN_ENTRY_BYTES).saturating_add(tensors.saturating_mul(MIN_TENSOR_BYTES));
        if least > self.limit - self.position {
            return Err(self.damaged(
                "the header",
                format!("{entries} metadata entries and {tensors} tensors"),
                format!("what fits into {} bytes", self.limit - self.position),
            ));
        }
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = self.text("a metadata key")?;
            let value = self.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.damaged(&format!("the metadata `{key}`"), "there twice", "there once"));
            }
        }
        let mut places = BTreeMap::new();
        for _ in 0..tensors {
            let name = self.text("a tensor name")?;
            let info = self.tensor(&name)?;
            if places.insert(name.clone(), info).is_some() {
                return Err(self.damaged(&format!("the tensor `{name}`"), "there twice", "there once"));
            }
        }
        let mut header = Header { path: self.path.to_owned(), metadata, tensors: places };
        let alignment = header.unsigned(ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return Err(header.damaged(&format!("`{ALIGNMENT}`"), alignment, "a power of two"));
        }
        let data = self.position.next_multiple_of(alignment);
        for (name, info) in &mut header.tensors {
            place(self.path, name, info, data, alignment, self.size)?;
        }
        Ok(header)
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32(key)?;
        Ok(match kind {
            7 => Value::Bool(self.bool(key)?),
            8 => Value::Text(self.text(key)?),
            6 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            9 => self.list(key)?,
            kind => Value::Integer(self.integer(key, kind)?),
        })
    }

    fn list(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            _ => 8,
        };
        // Every element takes some of the file, so the list cannot outgrow it.
        let left = self.limit - self.position;
        if count > left / least {
            let expected = format!("what fits into {left} bytes");
            return Err(self.damaged(
                &format!("the metadata `{key}`"),
                format!("{count} elements"),
                expected,
            ));
        }
        let elements = 0..count;
        Ok(match kind {
            7 => Value::Bools(elements.map(|_| self.bool(key)).collect::<Result<_>>()?),
            8 => Value::Texts(elements.map(|_| self.text(key)).collect::<Result<_>>()?),
            6 => {
                let floats = elements.map(|_| Ok(f32::from_le_bytes(self.array(key)?)));
                Value::Floats(floats.collect::<Result<_>>()?)
            }
            12 => {
                let floats = elements.map(|_| Ok(f64::from_le_bytes(self.array(key)?) as f32));
                Value::Floats(floats.collect::<Result<_>>()?)
            }
            9 => {
                return Err(self.damaged(
                    &format!("the metadata `{key}`"),
                    "a list of lists",
                    "a list of values",
                ));
            }
            kind => {
                let integers = elements.map(|_| {
                    let integer = self.integer(key, kind)?;
                    i64::try_from(integer).map_err(|_| {
                        self.damaged(&format!("the metadata `{key}`"), integer, "a number of 63 bits")
                    })
                });
                Value::Integers(integers.collect::<Result<_>>()?)
            }
        })
    }

    fn integer(&mut self, key: &str, kind: u32) -> Result<i128> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array(key)?).into(),
            1 => i8::from_le_bytes(self.array(key)?).into(),
            2 => u16::from_le_bytes(self.array(key)?).into(),
            3 => i16::from_le_bytes(self.array(key)?).into(),
            4 => u32::from_le_bytes(self.array(key)?).into(),
            5 => i32::from_le_bytes(self.array(key)?).into(),
            10 => u64::from_le_bytes(self.array(key)?).into(),
            11 => i64::from_le_bytes(self.array(key)?).into(),
            kind => {
                return Err(self.damaged(&format!("the type of the metadata `{key}`"), kind, "0 to 12"));
            }
        })
    }

    fn tensor(&mut self, name: &str) -> Result<TensorInfo> {
        let what = format!("the tensor `{name}`");
        let dimensions = self.u32(&what)?;
        if dimensions > MAX_DIMENSIONS {
            let got = format!("of {dimensions} dimensions");
            return Err(self.damaged(&what, got, format!("at most {MAX_DIMENSIONS}")));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let size = self.u64(&what)?;
            match usize::try_from(size) {
                Ok(size) if size > 0 => shape.push(size),
                _ => return Err(self.damaged(&format!("a dimension of `{name}`"), size, "positive")),
            }
        }
        shape.reverse();
        let kind = self.u32(&what)?;
        let dtype = dtype(kind).map_err(|got| ConvertError::ElementType {
            path: self.path.display().to_string(),
            tensor: name.to_owned(),
            got,
            expected: SUPPORTED_TYPES,
        })?;
        Ok(TensorInfo { dtype, shape, offset: self.u64(&what)? })
    }

    fn bool(&mut self, key: &str) -> Result<bool> {
        match self.array(key)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.damaged(&format!("the metadata `{key}`"), other, "0 or 1")),
        }
    }

    /// Files are known with texts that are not UTF-8; where that matters the replacement will not be found.
    fn text(&mut self, what: &str) -> Result<String> {
        let length = self.u64(what)?;
        self.advance(what, length)?;
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes).map_err(ConvertError::io(self.path))?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.advance(what, N as u64)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(ConvertError::io(self.path))?;
        Ok(bytes)
    }

    /// Makes sure that the header has so many more bytes.
    fn advance(&mut self, what: &str, bytes: u64) -> Result<()> {
        let left = self.limit - self.position;
        if bytes > left {
            let got = format!("{bytes} bytes from byte {}", self.position);
            let end =
                if self.limit < self.size { "the header may be that long" } else { "the file ends there" };
            return Err(self.damaged(what, got, format!("at most {left}, as {end}")));
        }
        self.position += bytes;
        Ok(())
    }

    fn damaged(&self, what: &str, got: impl ToString, expected: impl ToString) -> ConvertError {
        damaged(self.path, what, got, expected)
    }
}

/// Checks that a tensor's data is in the file, and makes its offset one in the file.
fn place(path: &Path, name: &str, info: &mut TensorInfo, data: u64, alignment: u64, size: u64) -> Result<()> {
    let what = format!("the tensor `{name}`");
    let (elements, bytes) = info.block();
    let row = info.shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(elements) {
        let got = format!("rows of {row} elements");
        return Err(damaged(path, &what, got, format!("rows of blocks of {elements}")));
    }
    let rows =
        info.shape.iter().rev().skip(1).try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
    let needed = rows.and_then(|rows| rows.checked_mul((row / elements) as u64)?.checked_mul(bytes as u64));
    let start = data.checked_add(info.offset);
    match (start, needed) {
        (Some(start), Some(needed)) if start.checked_add(needed).is_some_and(|end| end <= size) => {
            info.offset = start;
        }
        _ => {
            let got = format!("of shape {:?} from byte {} of the data", info.shape, info.offset);
            return Err(damaged(path, &what, got, format!("within the {size} bytes of the file")));
        }
    }
    if !info.offset.is_multiple_of(alignment) {
        return Err(damaged(
            path,
            &what,
            format!("at byte {}", info.offset),
            format!("a multiple of {alignment}"),
        ));
    }
    Ok(())
}

/// The type of a number, or the name of one that is not supported.
fn dtype(kind: u32) -> std::result::Result<GgmlDType, String> {
    Ok(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => {
            let name = match other {
                9 => "Q8_1",
                15 => "Q8_K",
                16 => "IQ2_XXS",
                17 => "IQ2_XS",
                18 => "IQ3_XXS",
                19 => "IQ1_S",
                20 => "IQ4_NL",
                21 => "IQ3_S",
                22 => "IQ2_S",
                23 => "IQ4_XS",
                24 => "I8",
                25 => "I16",
                26 => "I32",
                27 => "I64",
                28 => "F64",
                29 => "IQ1_M",
                34 => "TQ1_0",
                35 => "TQ2_0",
                39 => "MXFP4",
                _ => return Err(format!("number {other}")),
            };
            return Err(name.to_owned());
        }
    })
}
