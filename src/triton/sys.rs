//! The C API as bindgen sees `api.h`; only this room uses it.

#![allow(non_camel_case_types, non_upper_case_globals, missing_docs, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/triton_api.rs"));
