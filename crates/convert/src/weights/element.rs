//! Element types of tensors.

use half::{bf16, f16};
use textgen_artifact::DType;

use crate::onnx::DataType;

/// A Rust type that a graph's tensors may have.
pub trait Element: Copy + 'static {
    const DATA_TYPE: DataType;
    /// Appends the little-endian bytes.
    fn put(self, bytes: &mut Vec<u8>);
}

/// An element type that `weights.bin` may hold.
pub trait Stored: Element {
    const DTYPE: DType;
}

macro_rules! element {
    ($($rust:ty => $onnx:ident $(, $dtype:ident)?;)+) => {$(
        impl Element for $rust {
            const DATA_TYPE: DataType = DataType::$onnx;
            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
        $(impl Stored for $rust {
            const DTYPE: DType = DType::$dtype;
        })?
    )+};
}

element! {
    f32 => Float, F32;
    f16 => Float16, F16;
    bf16 => Bfloat16, BF16;
    i8 => Int8, I8;
    u8 => Uint8, U8;
    i32 => Int32, I32;
    i64 => Int64;
}

impl Element for bool {
    const DATA_TYPE: DataType = DataType::Bool;
    fn put(self, bytes: &mut Vec<u8>) {
        bytes.push(self.into());
    }
}

/// A floating-point type that weights can be rounded to.
pub trait Float: Stored {
    fn of(value: f32) -> Self;
}

impl Float for f32 {
    fn of(value: f32) -> Self {
        value
    }
}

impl Float for f16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Float for bf16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
}
