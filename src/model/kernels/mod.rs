//! Arithmetic of the operators, on plain slices. Each routine is compiled for several instruction sets and
//! picks the best one of the machine at run time; on one machine a result depends on nothing but its inputs.

mod activation;
mod attention;
mod exp;
mod isa;
mod linear;
mod quantize;
mod rotary;

pub use attention::{Bias, KeyValues, QUERY_TILE, Query, Scoring, attend, pack_keys, write_key};
pub use linear::{After, Int8Weights, QuantizedRows, Target, multiply};
pub use quantize::{ZERO_POINT, collect_cut_off, cut_off_room, quantize_row};
pub use rotary::{HeadNorm, normalize_head, rotate_head};
