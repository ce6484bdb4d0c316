//! `weights.bin` and what goes into it: matrices in a checkpoint's or a quantized form, written one at a time.

mod element;
mod embedding;
mod matrix;
mod selection;
mod source;
mod weight;
mod writer;

pub use element::{Element, Float, Stored};
pub use embedding::{EmbeddingFormat, StoredTable};
pub use matrix::{Matrix, Values};
pub use selection::{RowSelection, SelectedRows};
pub use source::TensorSource;
use source::stripes;
pub use weight::Weight;
pub use writer::{TensorWriter, WeightsWriter};
