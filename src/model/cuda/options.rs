//! Options of the CUDA execution provider.

use std::fmt;

use ort::ep::{ArbitrarilyConfigurableExecutionProvider, CUDA, ExecutionProviderDispatch};

/// How the CUDA execution provider works, whatever the GPU. Names and meanings are ONNX Runtime's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaOptions {
    /// Bytes that one model may take in all: weights, caches and what its steps need. None: what is free.
    pub gpu_mem_limit: Option<u64>,
    /// By how much the arena grows.
    pub arena_extend_strategy: ArenaExtendStrategy,
    /// Multiply fp32 in TensorFloat-32 where the GPU can: 10 bits of mantissa, several times as fast.
    pub use_tf32: bool,
    /// Record a step of each number of rows and replay it. Saves the launches of the kernels; takes memory for each.
    pub enable_cuda_graph: bool,
    /// Let cuDNN compute what it can. It is a library of its own, which must be there then.
    pub enable_cudnn: bool,
    /// Bit mask of the attention kernels that may be used; 0 lets ONNX Runtime choose.
    pub sdpa_kernel: u32,
    /// Put the encoder on the decoder's stream: a new source is encoded between steps rather than beside them.
    pub share_stream: bool,
}

/// How an arena grows when it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArenaExtendStrategy {
    /// By powers of two: fewer allocations, up to twice the memory.
    NextPowerOfTwo,
    /// By what is needed.
    SameAsRequested,
}

impl ArenaExtendStrategy {
    /// Every strategy by ONNX Runtime's name for it.
    pub const NAMES: [(&'static str, Self); 2] =
        [("kNextPowerOfTwo", Self::NextPowerOfTwo), ("kSameAsRequested", Self::SameAsRequested)];
}

impl fmt::Display for ArenaExtendStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NextPowerOfTwo => "kNextPowerOfTwo",
            Self::SameAsRequested => "kSameAsRequested",
        })
    }
}

impl Default for CudaOptions {
    /// What suits a server whose weights and caches are known at load: nothing is taken that is not needed.
    fn default() -> Self {
        Self {
            gpu_mem_limit: None,
            arena_extend_strategy: ArenaExtendStrategy::SameAsRequested,
            use_tf32: true,
            enable_cuda_graph: false,
            enable_cudnn: false,
            sdpa_kernel: 0,
            share_stream: false,
        }
    }
}

impl CudaOptions {
    /// The provider for GPU `device`, which puts everything on the stream at address `stream`.
    pub(in crate::model) fn provider(&self, device: i32, stream: usize) -> ExecutionProviderDispatch {
        let provider = self
            .entries(device, stream)
            .into_iter()
            .fold(CUDA::default(), |provider, (key, value)| provider.with_arbitrary_config(key, value));
        // Without it ONNX Runtime would go on with the CPU.
        provider.build().error_on_failure()
    }

    /// Keys and values as ONNX Runtime takes them.
    fn entries(&self, device: i32, stream: usize) -> Vec<(&'static str, String)> {
        let flag = |on: bool| u8::from(on).to_string();
        let mut entries = vec![
            ("device_id", device.to_string()),
            ("arena_extend_strategy", self.arena_extend_strategy.to_string()),
            ("use_tf32", flag(self.use_tf32)),
            ("enable_cuda_graph", flag(self.enable_cuda_graph)),
            ("enable_cudnn", flag(self.enable_cudnn)),
            ("sdpa_kernel", self.sdpa_kernel.to_string()),
            // What was copied on the same stream is there when a kernel reads it, without a wait.
            ("has_user_compute_stream", flag(true)),
            ("user_compute_stream", stream.to_string()),
        ];
        if let Some(bytes) = self.gpu_mem_limit {
            entries.push(("gpu_mem_limit", bytes.to_string()));
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_is_not_the_default_reaches_the_provider() {
        let options = CudaOptions {
            gpu_mem_limit: Some(1 << 30),
            arena_extend_strategy: ArenaExtendStrategy::NextPowerOfTwo,
            use_tf32: false,
            enable_cuda_graph: true,
            enable_cudnn: true,
            sdpa_kernel: 5,
            share_stream: true,
        };
        let entries = options.entries(3, 4096);
        for expected in [
            ("device_id", "3"),
            ("gpu_mem_limit", "1073741824"),
            ("arena_extend_strategy", "kNextPowerOfTwo"),
            ("use_tf32", "0"),
            ("enable_cuda_graph", "1"),
            ("enable_cudnn", "1"),
            ("sdpa_kernel", "5"),
            ("has_user_compute_stream", "1"),
            ("user_compute_stream", "4096"),
        ] {
            assert!(entries.iter().any(|(key, value)| (*key, value.as_str()) == expected), "{expected:?}");
        }
        assert!(CudaOptions::default().entries(0, 8).iter().all(|(key, _)| *key != "gpu_mem_limit"));
    }
}
