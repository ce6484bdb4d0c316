//! Tensors, copied out of requests and into responses.

use super::sys;
use crate::error::{Error, Result};

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bytes,
    Bf16,
}

impl DataType {
    /// The name that config.pbtxt uses.
    pub fn config_name(self) -> &'static str {
        match self {
            DataType::Bool => "TYPE_BOOL",
            DataType::Uint8 => "TYPE_UINT8",
            DataType::Uint16 => "TYPE_UINT16",
            DataType::Uint32 => "TYPE_UINT32",
            DataType::Uint64 => "TYPE_UINT64",
            DataType::Int8 => "TYPE_INT8",
            DataType::Int16 => "TYPE_INT16",
            DataType::Int32 => "TYPE_INT32",
            DataType::Int64 => "TYPE_INT64",
            DataType::Fp16 => "TYPE_FP16",
            DataType::Fp32 => "TYPE_FP32",
            DataType::Fp64 => "TYPE_FP64",
            DataType::Bytes => "TYPE_STRING",
            DataType::Bf16 => "TYPE_BF16",
        }
    }

    pub(super) fn from_host(raw: sys::TRITONSERVER_DataType) -> Option<Self> {
        use sys::TRITONSERVER_DataType as Raw;
        Some(match raw {
            Raw::TRITONSERVER_TYPE_BOOL => DataType::Bool,
            Raw::TRITONSERVER_TYPE_UINT8 => DataType::Uint8,
            Raw::TRITONSERVER_TYPE_UINT16 => DataType::Uint16,
            Raw::TRITONSERVER_TYPE_UINT32 => DataType::Uint32,
            Raw::TRITONSERVER_TYPE_UINT64 => DataType::Uint64,
            Raw::TRITONSERVER_TYPE_INT8 => DataType::Int8,
            Raw::TRITONSERVER_TYPE_INT16 => DataType::Int16,
            Raw::TRITONSERVER_TYPE_INT32 => DataType::Int32,
            Raw::TRITONSERVER_TYPE_INT64 => DataType::Int64,
            Raw::TRITONSERVER_TYPE_FP16 => DataType::Fp16,
            Raw::TRITONSERVER_TYPE_FP32 => DataType::Fp32,
            Raw::TRITONSERVER_TYPE_FP64 => DataType::Fp64,
            Raw::TRITONSERVER_TYPE_BYTES => DataType::Bytes,
            Raw::TRITONSERVER_TYPE_BF16 => DataType::Bf16,
            _ => return None,
        })
    }

    fn to_host(self) -> sys::TRITONSERVER_DataType {
        use sys::TRITONSERVER_DataType as Raw;
        match self {
            DataType::Bool => Raw::TRITONSERVER_TYPE_BOOL,
            DataType::Uint8 => Raw::TRITONSERVER_TYPE_UINT8,
            DataType::Uint16 => Raw::TRITONSERVER_TYPE_UINT16,
            DataType::Uint32 => Raw::TRITONSERVER_TYPE_UINT32,
            DataType::Uint64 => Raw::TRITONSERVER_TYPE_UINT64,
            DataType::Int8 => Raw::TRITONSERVER_TYPE_INT8,
            DataType::Int16 => Raw::TRITONSERVER_TYPE_INT16,
            DataType::Int32 => Raw::TRITONSERVER_TYPE_INT32,
            DataType::Int64 => Raw::TRITONSERVER_TYPE_INT64,
            DataType::Fp16 => Raw::TRITONSERVER_TYPE_FP16,
            DataType::Fp32 => Raw::TRITONSERVER_TYPE_FP32,
            DataType::Fp64 => Raw::TRITONSERVER_TYPE_FP64,
            DataType::Bytes => Raw::TRITONSERVER_TYPE_BYTES,
            DataType::Bf16 => Raw::TRITONSERVER_TYPE_BF16,
        }
    }
}

/// An input as the client sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct InputTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub data_type: DataType,
    /// Its shape, the batch dimension included.
    pub shape: Vec<i64>,
    /// Its elements in row-major order. A string is a little-endian u32 length, then its bytes.
    pub data: Vec<u8>,
}

impl InputTensor {
    /// Number of elements that the shape tells; refuses shapes that are none.
    pub fn elements(&self) -> Result<usize> {
        self.shape
            .iter()
            .try_fold(1usize, |count, &dim| count.checked_mul(usize::try_from(dim).ok()?))
            .ok_or_else(|| self.error(format!("the shape {:?} is not valid", self.shape)))
    }

    /// The elements of a string tensor.
    pub fn strings(&self) -> Result<Vec<&[u8]>> {
        let expected = self.elements()?;
        let mut rest = self.data.as_slice();
        // Each element takes four bytes at least, so a huge shape reserves nothing.
        let mut strings = Vec::with_capacity(expected.min(rest.len() / 4));
        while !rest.is_empty() {
            let index = strings.len();
            let (length, after) = rest
                .split_first_chunk::<4>()
                .ok_or_else(|| self.error(format!("element {index} ends within its length")))?;
            let length = u32::from_le_bytes(*length) as usize;
            let (string, after) = after.split_at_checked(length).ok_or_else(|| {
                self.error(format!("element {index} says {length} bytes, but only {} follow", after.len()))
            })?;
            strings.push(string);
            rest = after;
        }
        if strings.len() != expected {
            return Err(self.error(format!(
                "the data holds {} strings, the shape {:?} says {expected}",
                strings.len(),
                self.shape
            )));
        }
        Ok(strings)
    }

    /// The elements of a tensor whose element is `N` bytes wide.
    pub fn fixed<const N: usize>(&self) -> Result<Vec<[u8; N]>> {
        let expected = self.elements()?;
        if expected.checked_mul(N) != Some(self.data.len()) {
            return Err(self.error(format!(
                "the data holds {} bytes, the shape {:?} of {} needs {N} for each of {expected} elements",
                self.data.len(),
                self.shape,
                self.data_type.config_name()
            )));
        }
        let (chunks, _) = self.data.as_chunks::<N>();
        Ok(chunks.to_vec())
    }

    fn error(&self, message: String) -> Error {
        Error::invalid_argument(format!("input `{}`: {message}", self.name))
    }
}

/// An output of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputTensor {
    name: &'static str,
    data_type: DataType,
    shape: Vec<i64>,
    data: Vec<u8>,
}

impl OutputTensor {
    /// A string tensor.
    pub fn strings<'a>(
        name: &'static str,
        shape: &[usize],
        values: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        let mut data = Vec::new();
        for value in values {
            let length = u32::try_from(value.len())
                .map_err(|_| Error::internal(format!("output `{name}`: a text is longer than 4 GiB")))?;
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(value.as_bytes());
        }
        Ok(Self { name, data_type: DataType::Bytes, shape: dims(shape), data })
    }

    /// An INT32 tensor. Values beyond its range are held at its ends.
    pub fn counts(name: &'static str, shape: &[usize], values: impl IntoIterator<Item = usize>) -> Self {
        let data = values
            .into_iter()
            .flat_map(|value| i32::try_from(value).unwrap_or(i32::MAX).to_le_bytes())
            .collect();
        Self { name, data_type: DataType::Int32, shape: dims(shape), data }
    }

    /// An FP32 tensor. JSON has no infinity and no NaN, and the server would write them all the same: they
    /// become the lowest number or the highest.
    pub fn floats(name: &'static str, shape: &[usize], values: impl IntoIterator<Item = f32>) -> Self {
        let finite = |value: f32| if value.is_nan() { f32::MIN } else { value.clamp(f32::MIN, f32::MAX) };
        let data = values.into_iter().flat_map(|value| finite(value).to_le_bytes()).collect();
        Self { name, data_type: DataType::Fp32, shape: dims(shape), data }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its shape.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Its elements, as in [`InputTensor::data`].
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    pub(super) fn host_type(&self) -> sys::TRITONSERVER_DataType {
        self.data_type.to_host()
    }
}

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&dim| dim as i64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(shape: &[i64], data: &[u8]) -> InputTensor {
        InputTensor {
            name: "text_input".into(),
            data_type: DataType::Bytes,
            shape: shape.into(),
            data: data.into(),
        }
    }

    #[test]
    fn strings_are_read_within_bounds() {
        let data = b"\x02\0\0\0hi\0\0\0\0\x01\0\0\0!";
        assert_eq!(bytes(&[3], data).strings().unwrap(), [&b"hi"[..], b"", b"!"]);
        assert_eq!(bytes(&[3, 1], data).strings().unwrap().len(), 3);
        assert_eq!(bytes(&[0], b"").strings().unwrap(), Vec::<&[u8]>::new());
        for (shape, data) in [
            (&[2][..], &data[..]),
            (&[4], data),
            (&[1], b""),
            (&[1], b"\x01\0\0"),
            (&[1], b"\x02\0\0\0h"),
            (&[1], b"\xff\xff\xff\xffh"),
            (&[i64::MAX, i64::MAX], b""),
            (&[-1], b"\0\0\0\0"),
        ] {
            let error = bytes(shape, data).strings().unwrap_err();
            assert!(error.message.contains("text_input"), "{shape:?} {data:?}: {error}");
        }
    }

    #[test]
    fn fixed_elements_need_exactly_their_bytes() {
        let tensor = |shape: &[i64], data: &[u8]| InputTensor {
            name: "max_tokens".into(),
            data_type: DataType::Int32,
            shape: shape.into(),
            data: data.into(),
        };
        assert_eq!(tensor(&[2], &[1, 0, 0, 0, 2, 0, 0, 0]).fixed().unwrap(), [[1u8, 0, 0, 0], [2, 0, 0, 0]]);
        assert!(tensor(&[1], &[1, 0, 0]).fixed::<4>().is_err());
        assert!(tensor(&[1], &[1, 0, 0, 0, 0]).fixed::<4>().is_err());
        assert!(tensor(&[i64::MAX], &[]).fixed::<4>().is_err());
    }

    #[test]
    fn floats_are_always_json() {
        let tensor =
            OutputTensor::floats("cumulative_logprob", &[3], [f32::NEG_INFINITY, f32::INFINITY, f32::NAN]);
        for value in tensor.data().as_chunks::<4>().0 {
            assert!(f32::from_le_bytes(*value).is_finite());
        }
    }
}
