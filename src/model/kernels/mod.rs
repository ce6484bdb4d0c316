//! Arithmetic of the operators, on plain slices. Each routine is compiled for several instruction sets and
//! picks the best one of the machine at run time; on one machine a result depends on nothing but its inputs.

mod attention;
mod exp;
mod isa;
mod quantize;
mod rotary;

pub use attention::{Bias, KeyValues, QUERY_TILE, Query, Scoring, attend, pack_keys, write_key};
pub use quantize::{add_scaled_weights, cut_off, dequantize_row, quantize_row};
pub use rotary::{HeadNorm, normalize_head, rotate_head};
