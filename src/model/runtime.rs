//! ONNX Runtime itself: the shared library, its one environment, and sessions made the way we want them.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ort::{
    environment::Environment,
    logging::LogLevel,
    session::{Session, builder::GraphOptimizationLevel},
};

use super::{
    cuda::{CudaOptions, Gpu},
    operators,
};
use crate::error::{Error, Result};

/// The loaded ONNX Runtime. One for the whole process and never dropped: rebuilding an environment after an
/// unload fails.
pub struct Runtime {
    library: PathBuf,
    environment: Environment,
    /// Whether a session has made our domain known to ONNX Runtime: two at once would both try, and one fail.
    knows_operators: Mutex<bool>,
}

static RUNTIME: Mutex<Option<&'static Runtime>> = Mutex::new(None);

/// What a session computes on.
#[derive(Clone, Copy)]
pub(super) enum SessionDevice<'a> {
    Cpu,
    Cuda {
        gpu: &'a Gpu,
        options: &'a CudaOptions,
        /// Address of the stream that the session shares with whoever copies to and from its memory.
        stream: usize,
    },
}

impl Runtime {
    /// The process's runtime; the first call loads `library`, later ones must name the same file.
    pub fn load(library: &Path) -> Result<&'static Runtime> {
        let library = &library.canonicalize().map_err(|error| {
            Error::not_found(format!(
                "ONNX Runtime: {}: {error}; put libonnxruntime.so there or name it with runtime_library",
                library.display()
            ))
        })?;
        let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = *runtime {
            if runtime.library != *library {
                return Err(Error::invalid_argument(format!(
                    "ONNX Runtime is already loaded from {}, and a process can have only one; got {}, name the same \
                     file for all models",
                    runtime.library.display(),
                    library.display()
                )));
            }
            return Ok(runtime);
        }
        let environment = ort::init_from(library)
            .map_err(|error| {
                Error::invalid_argument(format!(
                    "{}: cannot be loaded as ONNX Runtime: {error}; version 1.31 is expected",
                    library.display()
                ))
            })?
            .with_name("textgen")
            .with_telemetry(false)
            .build()
            .map_err(|error| Error::internal(format!("ONNX Runtime environment: {error}")))?;
        // Its chatter about graphs and allocations would drown the server's log.
        environment.set_log_level(LogLevel::Warning);
        let loaded: &'static Runtime = Box::leak(Box::new(Runtime {
            library: library.to_owned(),
            environment,
            knows_operators: Mutex::new(false),
        }));
        *runtime = Some(loaded);
        Ok(loaded)
    }

    /// The shared library that was loaded.
    pub(super) fn library(&self) -> &Path {
        &self.library
    }

    /// The one environment that a process may have.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Loads a graph with `threads` threads of its own.
    pub(super) fn session(&self, graph: &Path, device: SessionDevice, threads: usize) -> Result<Session> {
        let build = || -> ort::Result<Session> {
            let mut builder = Session::builder(&self.environment)?
                .with_log_level(LogLevel::Warning)?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(threads)?
                .with_inter_threads(1)?
                .with_operators(operators::domain()?)?
                // A step follows the last within microseconds, but an idle server must not burn its cores.
                .with_config_entry(
                    "session.intra_op.spin_duration_us",
                    if threads > 1 { "200" } else { "0" },
                )?;
            if let SessionDevice::Cuda { gpu, options, stream } = device {
                builder = builder.with_execution_providers([options.provider(gpu.device, stream)])?;
            }
            builder.commit_from_file(graph)
        };
        let mut knows_operators = self.knows_operators.lock().unwrap_or_else(PoisonError::into_inner);
        let session = if *knows_operators {
            // From here on models load side by side.
            drop(knows_operators);
            build()
        } else {
            let session = build();
            *knows_operators = session.is_ok();
            session
        };
        session.map_err(|error| {
            Error::invalid_argument(format!(
                "{}: ONNX Runtime cannot load this graph: {error}; convert the model again",
                graph.display()
            ))
        })
    }
}

/// ONNX Runtime's library in the first of `folders` that has one: `libonnxruntime.so`, or the last of
/// `libonnxruntime.so.*`. The error names what was tried.
pub fn locate_runtime(folders: &[PathBuf]) -> Result<PathBuf> {
    const NAME: &str = "libonnxruntime.so";
    for folder in folders {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let plain = folder.join(NAME);
        if plain.is_file() {
            return Ok(plain);
        }
        let files = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let versioned = files.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(NAME).is_some_and(|rest| rest.starts_with('.'))
        });
        if let Some(library) = versioned.max() {
            return Ok(library);
        }
    }
    let tried: Vec<String> =
        folders.iter().map(|folder| format!("{0} and {0}.*", folder.join(NAME).display())).collect();
    Err(Error::not_found(format!("ONNX Runtime's library was not found: tried {}", tried.join(", "))))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_runtime_is_found_by_name_then_by_version() {
        let folder = tempfile::tempdir().unwrap();
        let (empty, folder) = (folder.path().join("none"), folder.path().to_owned());
        let folders = [empty.clone(), folder.clone()];
        let error = locate_runtime(&folders).unwrap_err();
        assert!(
            folders.iter().all(|folder| error.message.contains(&folder.display().to_string())),
            "{error}"
        );
        for name in ["libonnxruntime.so.1.20.0", "libonnxruntime.so.1.31.1", "libonnxruntime.sock"] {
            fs::write(folder.join(name), "").unwrap();
        }
        assert_eq!(locate_runtime(&folders).unwrap(), folder.join("libonnxruntime.so.1.31.1"));
        fs::write(folder.join("libonnxruntime.so"), "").unwrap();
        assert_eq!(locate_runtime(&folders).unwrap(), folder.join("libonnxruntime.so"));
    }
}
