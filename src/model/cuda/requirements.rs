//! What must be there before ONNX Runtime can use a GPU, and who has it.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use object::{
    Endianness,
    elf::{DT_NEEDED, FileHeader64},
    read::elf::{Dyn, FileHeader},
};

use super::{
    driver::{self, DRIVER_LIBRARY, DriverReport},
    library::Library,
};
use crate::error::{Error, Result};

/// Libraries of ONNX Runtime's GPU build, which it opens beside its own.
const PROVIDER_BRIDGE: &str = "libonnxruntime_providers_shared.so";
const CUDA_PROVIDER: &str = "libonnxruntime_providers_cuda.so";

/// Begins the name of the CUDA runtime's library; its major version follows.
const CUDA_RUNTIME: &str = "libcudart.so.";

/// cuDNN's, which the provider opens only when it is told to.
const CUDNN: &str = "libcudnn.so.9";

/// The oldest GPUs that CUDA 13 still computes on: compute capability, and the name of their generation.
const CUDA_13_CAPABILITY: ((i32, i32), &str) = ((7, 5), "Turing");

/// A GPU that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct Gpu {
    pub device: i32,
    /// As it is sold.
    pub name: String,
    /// Compute capability: major, minor.
    pub capability: (i32, i32),
    /// Bytes of its memory that nobody used when it was looked at, and all.
    pub free_bytes: usize,
    pub total_bytes: usize,
    /// Name of the CUDA runtime that ONNX Runtime uses.
    pub cuda_runtime: String,
}

/// The oldest GPUs that compute in bf16, likewise.
const BF16_CAPABILITY: ((i32, i32), &str) = ((8, 0), "Ampere");

impl Gpu {
    /// Refuses a GPU that does not compute in bf16.
    pub fn require_bf16(&self) -> Result<()> {
        let (oldest, generation) = BF16_CAPABILITY;
        if self.capability >= oldest {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "GPU {} ({}) has compute capability {}.{}, bf16 is computed on {}.{} ({generation}) and later; convert the \
             checkpoint with `--precision fp16`, or use another GPU",
            self.device, self.name, self.capability.0, self.capability.1, oldest.0, oldest.1
        )))
    }

    /// Refuses what would not fit. `what` says what the bytes are for.
    pub fn require_memory(&self, bytes: usize, what: &str) -> Result<()> {
        if bytes <= self.free_bytes {
            return Ok(());
        }
        Err(Error::invalid_argument(format!(
            "GPU {} ({}): {what} need {} MiB of its memory, {} of {} MiB are free; convert with a smaller --precision, \
             or free memory on this GPU",
            self.device,
            self.name,
            bytes.div_ceil(1 << 20),
            self.free_bytes >> 20,
            self.total_bytes >> 20
        )))
    }
}

/// GPU `device`, once everything that `runtime`, ONNX Runtime's library, needs to compute on it is there. The error
/// names all that is missing of a kind, and the package that has it.
pub(in crate::model) fn require(runtime: &Path, device: i32, cudnn: bool) -> Result<Gpu> {
    let provider = provider(runtime)?;
    let mut needed = needed_libraries(&provider)?;
    if cudnn {
        needed.push(CUDNN.to_owned());
    }
    check(&ThisMachine, &needed, device)
        .map_err(|error| error.context(format_args!("GPU {device} cannot be used by {}", provider.display())))
}

/// What is asked of a machine; a test answers in its place.
trait Machine {
    /// Opens a library by name.
    fn open(&self, library: &str) -> std::result::Result<(), String>;
    /// Asks the driver.
    fn driver(&self, device: i32) -> std::result::Result<DriverReport, String>;
}

struct ThisMachine;

impl Machine for ThisMachine {
    fn open(&self, library: &str) -> std::result::Result<(), String> {
        Library::open(Path::new(library)).map(drop)
    }

    fn driver(&self, device: i32) -> std::result::Result<DriverReport, String> {
        driver::report(Path::new(DRIVER_LIBRARY), device)
    }
}

/// The CUDA provider beside `runtime`.
fn provider(runtime: &Path) -> Result<PathBuf> {
    let folder = runtime.parent().unwrap_or(Path::new("."));
    let missing: Vec<&str> =
        [PROVIDER_BRIDGE, CUDA_PROVIDER].into_iter().filter(|name| !folder.join(name).is_file()).collect();
    if missing.is_empty() {
        return Ok(folder.join(CUDA_PROVIDER));
    }
    Err(Error::not_found(format!(
        "{}: got an ONNX Runtime that computes on the CPU only, expected {} beside it; put the libraries of its GPU \
         build there (pip: onnxruntime-gpu, in onnxruntime/capi; all of one version), or name them with \
         runtime_library",
        runtime.display(),
        missing.join(" and ")
    )))
}

/// Names of the libraries that `file` is linked with.
fn needed_libraries(file: &Path) -> Result<Vec<String>> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Error::invalid_argument(format!(
            "{}: not a shared library of this machine: {error}; install ONNX Runtime's GPU build anew \
             (pip: onnxruntime-gpu)",
            file.display()
        ))
    };
    let opened = File::open(file).map_err(|error| unreadable(&error))?;
    // SAFETY: the file is read, never written, and must not be changed under a process that is about to load it.
    let data = unsafe { Mmap::map(&opened) }.map_err(|error| unreadable(&error))?;
    let read = || -> object::read::Result<Vec<String>> {
        let header = FileHeader64::<Endianness>::parse(&*data)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, &*data)?;
        let Some((entries, strings)) = sections.dynamic(endian, &*data)? else { return Ok(Vec::new()) };
        let strings = sections.strings(endian, &*data, strings)?;
        entries
            .iter()
            .filter(|entry| entry.tag32(endian) == Some(DT_NEEDED))
            .map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned()))
            .collect()
    };
    read().map_err(|error| unreadable(&error))
}

fn check(machine: &dyn Machine, needed: &[String], device: i32) -> Result<Gpu> {
    let cuda = cuda_major(needed);
    let missing: Vec<String> = needed
        .iter()
        .filter_map(|library| machine.open(library).err().map(|error| (library, error)))
        .map(|(library, error)| {
            // The linker's sentence for the common case says nothing that its name does not.
            let reason = if error.contains("No such file") && error.starts_with(library.as_str()) {
                String::new()
            } else {
                format!(": {error}")
            };
            format!("{library} ({}){reason}", package(library, cuda))
        })
        .collect();
    if !missing.is_empty() {
        let other = other_cuda(machine, cuda);
        return Err(Error::not_found(format!(
            "missing {}{other}; install what has them and name their folders in LD_LIBRARY_PATH, or use an image that \
             has all (docker/compose.cuda.yaml)",
            missing.join(", ")
        )));
    }
    let report = machine.driver(device).map_err(|error| {
        Error::not_found(format!("the NVIDIA driver does not work: {error}; see nvidia-smi"))
    })?;
    let version = (report.cuda_version / 1000, report.cuda_version % 1000 / 10);
    if let Some(cuda) = cuda.filter(|&cuda| version.0 < cuda) {
        return Err(Error::not_found(format!(
            "the NVIDIA driver runs CUDA up to {}.{}, expected {cuda}.0; install a newer driver{}",
            version.0,
            version.1,
            if cuda == 13 { " (580 or later)" } else { "" }
        )));
    }
    let Some(gpu) = report.gpu else {
        return Err(match report.gpus {
            0 => Error::not_found(
                "the NVIDIA driver is there, but no GPU that this process may see; give the container one \
                 (--gpus all), or look at CUDA_VISIBLE_DEVICES",
            ),
            gpus => Error::invalid_argument(format!(
                "this process sees {gpus} GPUs, numbered from 0; name one of them in `gpus` of the instance_group, or \
                 look at CUDA_VISIBLE_DEVICES"
            )),
        });
    };
    let (oldest, generation) = CUDA_13_CAPABILITY;
    if cuda == Some(13) && gpu.capability < oldest {
        return Err(Error::unsupported(format!(
            "{} has compute capability {}.{}, CUDA 13 computes on {}.{} ({generation}) and later; use another GPU or \
             the CPU",
            gpu.name, gpu.capability.0, gpu.capability.1, oldest.0, oldest.1
        )));
    }
    Ok(Gpu {
        device,
        name: gpu.name,
        capability: gpu.capability,
        free_bytes: gpu.free_bytes,
        total_bytes: gpu.total_bytes,
        cuda_runtime: cuda_runtime(needed).unwrap_or_default().to_owned(),
    })
}

/// The CUDA runtime among `needed`.
fn cuda_runtime(needed: &[String]) -> Option<&str> {
    needed.iter().find(|library| library.starts_with(CUDA_RUNTIME)).map(String::as_str)
}

/// Its major version.
fn cuda_major(needed: &[String]) -> Option<i32> {
    cuda_runtime(needed)?.strip_prefix(CUDA_RUNTIME)?.parse().ok()
}

/// Says so when the machine has a CUDA of another major version, which does not serve.
fn other_cuda(machine: &dyn Machine, cuda: Option<i32>) -> String {
    let Some(cuda) = cuda else { return String::new() };
    let other = [cuda - 2, cuda - 1, cuda + 1]
        .into_iter()
        .find(|other| machine.open(&format!("{CUDA_RUNTIME}{other}")).is_ok());
    other.map_or_else(String::new, |other| {
        format!("; this machine has CUDA {other}, and CUDA {cuda} is needed")
    })
}

/// Who has `library`.
fn package(library: &str, cuda: Option<i32>) -> String {
    // Packages of CUDA 13 and later have no suffix.
    let suffix = cuda.filter(|&cuda| cuda < 13).map_or_else(String::new, |cuda| format!("-cu{cuda}"));
    let name = match library.split_once(".so").map_or(library, |(stem, _)| stem) {
        "libcuda" => return "the NVIDIA driver; a container gets it from its host by --gpus".to_owned(),
        "libcudart" => "nvidia-cuda-runtime",
        "libcublas" | "libcublasLt" => "nvidia-cublas",
        "libcurand" => "nvidia-curand",
        "libcufft" => "nvidia-cufft",
        "libnvrtc" => "nvidia-cuda-nvrtc",
        // This one names its CUDA always.
        "libcudnn" => return format!("pip: nvidia-cudnn-cu{}", cuda.unwrap_or(13)),
        _ => return "a package of the system".to_owned(),
    };
    format!("pip: {name}{suffix}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::driver::GpuReport, *};

    /// A machine that has some libraries and says what it was told to.
    struct Scripted {
        libraries: Vec<&'static str>,
        driver: std::result::Result<DriverReport, String>,
    }

    impl Machine for Scripted {
        fn open(&self, library: &str) -> std::result::Result<(), String> {
            match self.libraries.contains(&library) {
                true => Ok(()),
                false => Err(format!("{library}: cannot open shared object file: No such file or directory")),
            }
        }

        fn driver(&self, _device: i32) -> std::result::Result<DriverReport, String> {
            self.driver.clone()
        }
    }

    const NEEDED: [&str; 6] = [
        "libcublasLt.so.13",
        "libcublas.so.13",
        "libcurand.so.10",
        "libcudart.so.13",
        "libcuda.so.1",
        "libc.so.6",
    ];

    fn report() -> DriverReport {
        let gpu =
            GpuReport { name: "L4".into(), capability: (8, 9), free_bytes: 20 << 30, total_bytes: 22 << 30 };
        DriverReport { cuda_version: 13000, gpus: 1, gpu: Some(gpu) }
    }

    fn whole() -> Scripted {
        Scripted { libraries: NEEDED.to_vec(), driver: Ok(report()) }
    }

    fn tried(machine: &Scripted) -> Result<Gpu> {
        check(machine, &NEEDED.map(str::to_owned), 0)
    }

    #[test]
    fn a_machine_that_has_all_gives_its_gpu() {
        let gpu = tried(&whole()).unwrap();
        assert_eq!((gpu.device, &*gpu.name, gpu.free_bytes), (0, "L4", 20 << 30));
        assert_eq!(gpu.cuda_runtime, "libcudart.so.13");
        assert_eq!(gpu.require_bf16(), Ok(()));
        let error = Gpu { capability: (7, 5), ..gpu.clone() }.require_bf16().unwrap_err();
        assert!(error.message.contains("7.5") && error.message.contains("--precision fp16"), "{error}");
        assert_eq!(gpu.require_memory(20 << 30, "the weights"), Ok(()));
        let error = gpu.require_memory((20 << 30) + 1, "the weights").unwrap_err();
        assert!(
            error.message.contains("20481 MiB") && error.message.contains("20480 of 22528 MiB"),
            "{error}"
        );
    }

    #[test]
    fn every_library_that_is_missing_is_named_with_its_package() {
        for (left_out, package) in [
            ("libcublasLt.so.13", "pip: nvidia-cublas)"),
            ("libcublas.so.13", "pip: nvidia-cublas)"),
            ("libcurand.so.10", "pip: nvidia-curand)"),
            ("libcudart.so.13", "pip: nvidia-cuda-runtime)"),
            ("libcuda.so.1", "NVIDIA driver"),
            ("libc.so.6", "a package of the system"),
        ] {
            let mut machine = whole();
            machine.libraries.retain(|&library| library != left_out);
            let error = tried(&machine).unwrap_err();
            assert!(error.message.contains(&format!("{left_out} (")), "{error}");
            assert!(error.message.contains(package), "{package} is not in: {error}");
            let named =
                NEEDED.iter().filter(|&&library| error.message.contains(&format!("{library} ("))).count();
            assert_eq!(named, 1, "{error}");
        }
        let error = tried(&Scripted { libraries: vec!["libcudart.so.12"], ..whole() }).unwrap_err();
        assert!(NEEDED.iter().all(|library| error.message.contains(library)), "{error}");
        assert!(error.message.contains("has CUDA 12, and CUDA 13 is needed"), "{error}");
        assert_eq!(package("libcublas.so.12", Some(12)), "pip: nvidia-cublas-cu12");
        assert_eq!(package(CUDNN, Some(13)), "pip: nvidia-cudnn-cu13");
    }

    #[test]
    fn a_driver_or_a_gpu_that_does_not_serve_is_said() {
        let with = |driver| tried(&Scripted { driver, ..whole() }).unwrap_err().message;
        let failed = with(Err("cuInit failed with 804: forward compatibility".into()));
        assert!(failed.contains("cuInit failed with 804"), "{failed}");
        let old = with(Ok(DriverReport { cuda_version: 12080, ..report() }));
        assert!(old.contains("up to 12.8") && old.contains("580"), "{old}");
        let none = with(Ok(DriverReport { gpus: 0, gpu: None, ..report() }));
        assert!(none.contains("no GPU"), "{none}");
        let other = with(Ok(DriverReport { gpus: 2, gpu: None, ..report() }));
        assert!(other.contains("2 GPUs"), "{other}");
        let gpu = GpuReport { capability: (7, 0), ..report().gpu.unwrap() };
        let ancient = with(Ok(DriverReport { gpu: Some(gpu), ..report() }));
        assert!(ancient.contains("7.0") && ancient.contains("7.5"), "{ancient}");
    }

    #[test]
    fn a_runtime_without_its_gpu_libraries_is_told_which() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = folder.path().join("libonnxruntime.so");
        let error = provider(&runtime).unwrap_err();
        assert!(error.message.contains(PROVIDER_BRIDGE) && error.message.contains(CUDA_PROVIDER), "{error}");
        fs::write(folder.path().join(PROVIDER_BRIDGE), "").unwrap();
        let error = provider(&runtime).unwrap_err();
        assert!(
            !error.message.contains(PROVIDER_BRIDGE) && error.message.contains("onnxruntime-gpu"),
            "{error}"
        );
        fs::write(folder.path().join(CUDA_PROVIDER), "no library").unwrap();
        assert_eq!(provider(&runtime).unwrap(), folder.path().join(CUDA_PROVIDER));
        let error = require(&runtime, 0, false).unwrap_err();
        assert!(error.message.contains(CUDA_PROVIDER), "{error}");
    }

    #[test]
    fn what_a_library_is_linked_with_is_read_from_it() {
        let needed = needed_libraries(&std::env::current_exe().unwrap()).unwrap();
        assert!(needed.iter().any(|library| library == "libc.so.6"), "{needed:?}");
    }
}
