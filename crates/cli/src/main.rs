//! The `textgen` program.
fn main() {}
