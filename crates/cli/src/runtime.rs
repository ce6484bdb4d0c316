//! Options of every command that runs a model.

use std::path::PathBuf;

use clap::Args;
use triton_textgen::{
    config::available_threads,
    engine::{EngineOptions, PromptLookup},
    model::{CudaOptions, ExecutorOptions, MayShrink, Placement, locate_runtime},
    prompt::PromptSettings,
    text_model::ModelOptions,
};

#[derive(Args)]
pub struct RuntimeArguments {
    /// ONNX Runtime's shared library; by default libonnxruntime.so beside this program, or in textgen/ or
    /// ../../textgen/ from it
    #[arg(long, value_name = "FILE", env = "TEXTGEN_RUNTIME_LIBRARY")]
    runtime_library: Option<PathBuf>,
    /// Threads of one step; by default as many as this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Sequences decoded at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_sequences: u32,
    /// Longest source, in tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_source_tokens: u32,
    /// Longest target, in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_target_tokens: u32,
    /// Longest context of a decoder-only model, prompt and generated text together, in tokens
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(2..=1048576))]
    max_context_tokens: u32,
    /// Tokens that a sequence drafts in one step from what it repeats, at most; 0 drafts nothing
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1024))]
    prompt_lookup_num_tokens: u32,
    /// Last tokens that are compared, at most, to find what is repeated
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_matching_ngram_size: u32,
    /// On a GPU, record the step of each number of rows and replay it
    #[arg(long)]
    enable_cuda_graph: bool,
}

impl RuntimeArguments {
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(available_threads, usize::from)
    }

    pub fn library(&self) -> anyhow::Result<PathBuf> {
        if let Some(library) = &self.runtime_library {
            return Ok(library.clone());
        }
        let program = std::env::current_exe()?;
        let beside = program.parent().map(PathBuf::from).unwrap_or_default();
        // The last is where `make backend` puts it, seen from target/release.
        let folders = [beside.clone(), beside.join("textgen"), beside.join("../../textgen")];
        Ok(locate_runtime(&folders)
            .map_err(|error| error.context("name it with --runtime-library or TEXTGEN_RUNTIME_LIBRARY"))?)
    }

    pub fn executor(&self) -> ExecutorOptions {
        ExecutorOptions {
            intra_op_threads: self.threads(),
            max_sequences: self.max_sequences as usize,
            max_source_tokens: self.max_source_tokens as usize,
            max_target_tokens: self.max_target_tokens as usize,
            max_context_tokens: self.max_context_tokens as usize,
            may_shrink: MayShrink::default(),
            placement: Placement::default(),
            cuda: CudaOptions { enable_cuda_graph: self.enable_cuda_graph, ..CudaOptions::default() },
        }
    }

    pub fn model(&self) -> anyhow::Result<ModelOptions> {
        Ok(ModelOptions {
            runtime_library: self.library()?,
            executor: self.executor(),
            // The texts of one run wait for each other; nobody else is kept waiting.
            engine: EngineOptions {
                max_queue_requests: usize::MAX,
                prompt_lookup: PromptLookup {
                    num_tokens: self.prompt_lookup_num_tokens as usize,
                    max_ngram_size: self.max_matching_ngram_size as usize,
                },
                ..EngineOptions::default()
            },
            prompt: PromptSettings::default(),
        })
    }
}
