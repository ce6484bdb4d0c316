//! Bergamot / Firefox Translations: Marian transformers with a recurrent decoder, quantized to 8 bits.

mod architecture;
mod config;
mod container;
mod device;
mod package;
mod positions;
mod vocabulary;

pub use architecture::Bergamot;
pub use container::Container;
pub use package::Package;
