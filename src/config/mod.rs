//! Configuration: the keys of `parameters` in config.pbtxt, and of `--backend-config=textgen,key=value`, which
//! gives the default for every model.

mod completion;
mod keys;

pub use completion::{complete, interface};
pub use keys::{BackendConfig, ModelConfig, available_threads};
