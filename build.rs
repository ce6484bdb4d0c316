//! Binds the declarations of Triton's backend API; nothing else.
fn main() {}
