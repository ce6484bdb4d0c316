//! Reader of Marian's binary container.
//!
//! Little-endian: u64 version, u64 number of items; for each item u64 name length, type, number of dimensions,
//! data length; then all names (each ends in NUL), all dimensions (i32), u64 padding and so many bytes, and the
//! data of all items. Every length is checked against the file before anything is read or allocated.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{ConvertError, Result},
    weights::{Matrix, TensorSource},
};

const VERSION: u64 = 1;
const ITEM_HEADER_BYTES: u64 = 32;
/// More than any model has; keeps a hostile file from one item for each byte.
const MAX_DIMENSIONS: u64 = 8;

const TYPE_I8: u64 = 0x0101;
const TYPE_F32: u64 = 0x0404;
const TYPE_INTGEMM8: u64 = 0x4101;

/// The embedding: the one 8-bit matrix that lies as its shape says.
const EMBEDDING: &str = "Wemb";

/// A container with its table of contents; tensors are read when asked for.
#[derive(Debug)]
pub struct Container {
    path: PathBuf,
    file: File,
    items: BTreeMap<String, Item>,
}

#[derive(Debug)]
struct Item {
    kind: u64,
    shape: Vec<usize>,
    /// Product of the shape.
    elements: usize,
    offset: u64,
}

impl Container {
    /// Reads the table of contents.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(ConvertError::io(path))?;
        let size = file.metadata().map_err(ConvertError::io(path))?.len();
        let items = Contents { path, file: &file, position: 0, size }.read()?;
        Ok(Self { path: path.to_owned(), file, items })
    }

    /// A text stored beside the tensors, without its closing NUL.
    pub fn text(&self, name: &str) -> Result<String> {
        let item = self.item(name)?;
        if item.kind != TYPE_I8 {
            return Err(self.element_type(name, item, "int8"));
        }
        let mut bytes = self.data(item, 0..item.elements)?;
        while bytes.pop_if(|byte| *byte == 0).is_some() {}
        String::from_utf8(bytes).map_err(|error| ConvertError::Syntax {
            path: self.path.display().to_string(),
            reason: format!("`{name}`: {error}"),
        })
    }

    fn item(&self, name: &str) -> Result<&Item> {
        self.items.get(name).ok_or_else(|| ConvertError::MissingTensor {
            path: self.path.display().to_string(),
            tensor: name.to_owned(),
        })
    }

    /// Some bytes of an item's data, which has been checked against the size of the file.
    fn data(&self, item: &Item, range: Range<usize>) -> Result<Vec<u8>> {
        let mut data = vec![0; range.len()];
        let at = item.offset + range.start as u64;
        self.file.read_exact_at(&mut data, at).map_err(ConvertError::io(&self.path))?;
        Ok(data)
    }

    fn f32_values(&self, name: &str, item: &Item, range: Range<usize>) -> Result<Vec<f32>> {
        let data = self.data(item, range.start * 4..range.end * 4)?;
        let values: Vec<f32> =
            data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        if values.iter().all(|value| value.is_finite()) { Ok(values) } else { Err(self.not_finite(name)) }
    }

    /// 8-bit values and the factor that makes them real, `1 / multiplier`.
    fn int8_values(&self, name: &str, item: &Item, range: Range<usize>) -> Result<(Vec<i8>, f32)> {
        let multiplier = match self.data(item, item.elements..item.elements + 4)?.try_into() {
            Ok(bytes) => f32::from_le_bytes(bytes),
            Err(_) => return Err(self.not_finite(name)),
        };
        if !multiplier.is_normal() || multiplier < 0.0 {
            return Err(self.not_finite(name));
        }
        let data = self.data(item, range)?;
        Ok((data.into_iter().map(u8::cast_signed).collect(), multiplier.recip()))
    }

    fn check_shape(&self, name: &str, item: &Item, expected: &[usize]) -> Result<()> {
        if item.shape == expected {
            return Ok(());
        }
        Err(ConvertError::Shape {
            path: self.path.display().to_string(),
            tensor: name.to_owned(),
            got: item.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    fn element_type(&self, name: &str, item: &Item, expected: &'static str) -> ConvertError {
        ConvertError::ElementType {
            path: self.path.display().to_string(),
            tensor: name.to_owned(),
            got: format!("{:#06x}", item.kind),
            expected,
        }
    }

    fn not_finite(&self, name: &str) -> ConvertError {
        ConvertError::NotFinite { path: self.path.display().to_string(), tensor: name.to_owned() }
    }
}

impl TensorSource for Container {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.items.keys().map(String::as_str))
    }

    /// The shape of the header; a weight of a linear layer has `[inputs, outputs]`.
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.items.get(name).map(|item| item.shape.as_slice())
    }

    fn rows(&self, name: &str, [rows, columns]: [usize; 2], range: Range<usize>) -> Result<Matrix> {
        let item = self.item(name)?;
        let as_stored = name == EMBEDDING;
        self.check_shape(name, item, &if as_stored { [rows, columns] } else { [columns, rows] })?;
        let elements = range.start * columns..range.end * columns;
        match item.kind {
            // The values of a linear layer lie transposed to their shape, hence as a matrix wants them.
            TYPE_INTGEMM8 => {
                let (values, scale) = self.int8_values(name, item, elements)?;
                Ok(Matrix::quantized(range.len(), columns, values, vec![scale; range.len()]))
            }
            TYPE_F32 if as_stored => {
                Ok(Matrix::new(range.len(), columns, self.f32_values(name, item, elements)?))
            }
            TYPE_F32 => {
                // A row lies all over it.
                let whole = self.f32_values(name, item, 0..item.elements)?;
                let mut values = Matrix::transposed(rows, columns, &whole).into_f32();
                values.truncate(elements.end);
                Ok(Matrix::new(range.len(), columns, values.split_off(elements.start)))
            }
            _ => Err(self.element_type(name, item, "intgemm8 (0x4101) or float32 (0x0404)")),
        }
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let item = self.item(name)?;
        self.check_shape(name, item, &[1, len])?;
        if item.kind != TYPE_F32 {
            return Err(self.element_type(name, item, "float32 (0x0404)"));
        }
        self.f32_values(name, item, 0..len)
    }
}

/// A cursor over the table of contents.
struct Contents<'f> {
    path: &'f Path,
    file: &'f File,
    position: u64,
    size: u64,
}

struct Header {
    name_bytes: u64,
    kind: u64,
    dimensions: u64,
    data_bytes: u64,
}

impl Contents<'_> {
    fn read(mut self) -> Result<BTreeMap<String, Item>> {
        let version = self.u64("the version")?;
        if version != VERSION {
            return Err(self.damaged("the version", version, VERSION));
        }
        let count = self.u64("the number of items")?;
        let table = count.saturating_mul(ITEM_HEADER_BYTES);
        let table = self.take(table, "the table of items")?;
        let headers: Vec<Header> = table
            .as_chunks::<{ ITEM_HEADER_BYTES as usize }>()
            .0
            .iter()
            .map(|header| {
                let (fields, _) = header.as_chunks::<8>();
                let [name_bytes, kind, dimensions, data_bytes] =
                    [0, 1, 2, 3].map(|i| u64::from_le_bytes(fields[i]));
                Header { name_bytes, kind, dimensions, data_bytes }
            })
            .collect();
        let names = headers.iter().map(|header| self.name(header.name_bytes)).collect::<Result<Vec<_>>>()?;
        let mut shapes = Vec::with_capacity(headers.len());
        for (header, name) in headers.iter().zip(&names) {
            shapes.push(self.dimensions(header, name)?);
        }
        let padding = self.u64("the padding")?;
        self.skip(padding, "the padding")?;
        let mut items = BTreeMap::new();
        for ((header, name), shape) in headers.into_iter().zip(names).zip(shapes) {
            let item = self.item(&header, &name, shape)?;
            if items.insert(name.clone(), item).is_some() {
                return Err(self.damaged(&format!("the tensor `{name}`"), "there twice", "there once"));
            }
        }
        Ok(items)
    }

    fn name(&mut self, bytes: u64) -> Result<String> {
        let mut name = self.take(bytes, "a tensor name")?;
        if name.pop() != Some(0) {
            return Err(self.damaged("a tensor name", "not closed", "closed by a zero byte"));
        }
        String::from_utf8(name).map_err(|error| self.damaged("a tensor name", error, "valid UTF-8"))
    }

    fn dimensions(&mut self, header: &Header, name: &str) -> Result<Vec<usize>> {
        let what = format!("the number of dimensions of `{name}`");
        if header.dimensions > MAX_DIMENSIONS {
            return Err(self.damaged(&what, header.dimensions, format!("at most {MAX_DIMENSIONS}")));
        }
        let bytes = self.take(header.dimensions * 4, "a shape")?;
        let dimensions = bytes.as_chunks::<4>().0.iter().map(|&bytes| i32::from_le_bytes(bytes));
        dimensions
            .map(|dimension| match usize::try_from(dimension) {
                Ok(dimension) if dimension > 0 => Ok(dimension),
                _ => Err(self.damaged(&format!("a dimension of `{name}`"), dimension, "positive")),
            })
            .collect()
    }

    fn item(&mut self, header: &Header, name: &str, shape: Vec<usize>) -> Result<Item> {
        let offset = self.position;
        self.skip(header.data_bytes, &format!("the data of `{name}`"))?;
        let elements = shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim as u64));
        let needed = elements.and_then(|elements| match header.kind {
            TYPE_I8 => Some(elements),
            TYPE_F32 => elements.checked_mul(4),
            // The multiplier follows the values.
            TYPE_INTGEMM8 => elements.checked_add(4),
            // Another type: an error when someone asks for the tensor, and not before.
            _ => Some(0),
        });
        match (elements, needed) {
            (Some(elements), Some(needed)) if needed <= header.data_bytes => Ok(Item {
                kind: header.kind,
                shape,
                elements: usize::try_from(elements).unwrap_or(usize::MAX),
                offset,
            }),
            _ => Err(self.damaged(
                &format!("the data of `{name}`"),
                format!("{} bytes", header.data_bytes),
                format!("enough for the shape {shape:?}"),
            )),
        }
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        let bytes = self.take(8, what)?;
        Ok(bytes.as_chunks::<8>().0.iter().fold(0, |_, &bytes| u64::from_le_bytes(bytes)))
    }

    /// Reads `bytes` bytes, once it is sure that the file has them.
    fn take(&mut self, bytes: u64, what: &str) -> Result<Vec<u8>> {
        let position = self.position;
        self.skip(bytes, what)?;
        let mut data = vec![0; bytes as usize];
        self.file.read_exact_at(&mut data, position).map_err(ConvertError::io(self.path))?;
        Ok(data)
    }

    fn skip(&mut self, bytes: u64, what: &str) -> Result<()> {
        let left = self.size - self.position;
        if bytes > left {
            return Err(self.damaged(
                what,
                format!("{bytes} bytes from byte {}", self.position),
                format!("at most {left}, as the file ends at byte {}", self.size),
            ));
        }
        self.position += bytes;
        Ok(())
    }

    fn damaged(&self, what: &str, got: impl ToString, expected: impl ToString) -> ConvertError {
        ConvertError::Damaged {
            path: self.path.display().to_string(),
            what: what.to_owned(),
            got: got.to_string(),
            expected: expected.to_string(),
        }
    }
}
