//! Where a model runs: what was asked for, held against what its artifact was converted for.

use textgen_artifact::{CudaSpec, Device};

use crate::error::{Error, Result};

/// Where a model is asked to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// On what its artifact was converted for; of several GPUs the first.
    #[default]
    AsConverted,
    /// On the CPU.
    Cpu,
    /// On a GPU.
    Gpu {
        /// Which one, as CUDA numbers those that the process sees.
        device: i32,
    },
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Cpu,
    Gpu { device: i32, spec: CudaSpec },
}

impl Placement {
    /// Where an artifact for `converted_for` runs. One of the other kind has graphs that cannot.
    pub(super) fn of(self, converted_for: &Device) -> Result<Place> {
        match (self, converted_for) {
            (Self::AsConverted | Self::Cpu, Device::Cpu) => Ok(Place::Cpu),
            (Self::AsConverted, Device::Cuda(spec)) => Ok(Place::Gpu { device: 0, spec: *spec }),
            (Self::Gpu { device }, Device::Cuda(spec)) => Ok(Place::Gpu { device, spec: *spec }),
            (Self::Gpu { device }, Device::Cpu) => Err(Error::invalid_argument(format!(
                "asked to run on GPU {device}, but the artifact was converted for the CPU; convert the checkpoint with \
                 `--device cuda`, or write `instance_group [ {{ kind: KIND_CPU }} ]` in config.pbtxt (with no \
                 instance_group it is the CPU too)"
            ))),
            (Self::Cpu, Device::Cuda(_)) => Err(Error::invalid_argument(
                "asked to run on the CPU, but the artifact was converted for CUDA; write `instance_group [ { kind: \
                 KIND_GPU } ]` in config.pbtxt, or convert the checkpoint without `--device cuda`",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use textgen_artifact::DType;

    use super::*;

    #[test]
    fn an_artifact_runs_on_what_it_was_converted_for_or_says_how_it_could() {
        let spec = CudaSpec { caches: DType::F16, candidates: 64 };
        let cuda = Device::Cuda(spec);
        assert_eq!(Placement::AsConverted.of(&Device::Cpu), Ok(Place::Cpu));
        assert_eq!(Placement::Cpu.of(&Device::Cpu), Ok(Place::Cpu));
        assert_eq!(Placement::AsConverted.of(&cuda), Ok(Place::Gpu { device: 0, spec }));
        assert_eq!(Placement::Gpu { device: 3 }.of(&cuda), Ok(Place::Gpu { device: 3, spec }));
        let error = Placement::Gpu { device: 3 }.of(&Device::Cpu).unwrap_err();
        assert!(error.message.contains("GPU 3") && error.message.contains("--device cuda"), "{error}");
        let error = Placement::Cpu.of(&cuda).unwrap_err();
        assert!(error.message.contains("KIND_GPU"), "{error}");
    }
}
