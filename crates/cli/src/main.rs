//! The `textgen` program: convert a checkpoint, look at the result, generate, score, measure.
//!
//! Exit codes: 0 done, 1 it failed (for `--jsonl`: at least one line did), 2 wrong usage.

mod bench;
mod bench_texts;
mod chat_check;
mod generate;
mod inspect;
mod jsonl;
mod memory;
mod runtime;
mod score;

use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};
use textgen_convert::{
    ConvertOptions, CudaPrecision, Plan, Precision, Target,
    vocabulary::{Keep, Script},
};

#[derive(Parser)]
#[command(name = "textgen", version, about = "Text-to-text models for Triton Inference Server", long_about = None)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Convert a checkpoint folder to an artifact, or to a whole model-repository entry
    Convert {
        /// Folder of the checkpoint: a Bergamot model, or a Hugging Face model; or a GGUF file
        source: PathBuf,
        /// Folder to write the artifact to
        #[arg(
            long,
            value_name = "DIR",
            required_unless_present = "repository",
            conflicts_with = "repository"
        )]
        out: Option<PathBuf>,
        /// Model repository to write an entry to; an entry that has a config.pbtxt keeps it
        #[arg(long, value_name = "DIR", requires = "name")]
        repository: Option<PathBuf>,
        /// Name of the model in the repository
        #[arg(long, requires = "repository")]
        name: Option<String>,
        /// Format of the weights; int8, on CUDA fp16 unless given
        #[arg(long, value_enum)]
        precision: Option<PrecisionArg>,
        /// What will run the model
        #[arg(long, value_enum, default_value_t = DeviceArg::Cpu)]
        device: DeviceArg,
        /// Keep only tokens of these Unicode scripts, such as han,latin, and digits, punctuation, symbols and special
        /// tokens; T5 family
        #[arg(long, value_name = "SCRIPTS", value_delimiter = ',')]
        keep_scripts: Vec<Script>,
        /// Keep only tokens that the texts of a file use (UTF-8, one a line), and those of the
        /// scripts; T5 family
        #[arg(long, value_name = "FILE")]
        keep_corpus: Option<PathBuf>,
        /// Replace an earlier artifact
        #[arg(long)]
        force: bool,
    },
    /// Print family, geometry, precision plan and sizes of an artifact
    Inspect {
        /// Folder of the artifact
        dir: PathBuf,
    },
    /// Generate text
    Generate(generate::Arguments),
    /// Print the log-probability of each token of a given target
    Score(score::Arguments),
    /// Measure tokens/s, step time and the share of the read bandwidth at 1, 8 and 32 rows
    Bench(bench::Arguments),
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionArg {
    /// 32-bit floats everywhere; CPU
    Fp32,
    /// 16-bit floats, sums in 32 bits; CUDA
    Fp16,
    /// 16-bit floats of a larger range, sums in 32 bits; CUDA from compute capability 8.0 on
    Bf16,
    /// 8-bit weights, but for tensors that need more
    Int8,
    /// 4-bit weights where a step of one row reads most, 8-bit ones elsewhere; decoder-only models
    Int4,
}

#[derive(Clone, Copy, ValueEnum)]
enum DeviceArg {
    Cpu,
    /// An NVIDIA GPU
    Cuda,
}

/// What the options say together.
fn plan(device: DeviceArg, precision: Option<PrecisionArg>) -> anyhow::Result<Plan> {
    Ok(match (device, precision) {
        (DeviceArg::Cpu, Some(PrecisionArg::Fp32)) => Precision::Fp32.into(),
        (DeviceArg::Cpu, Some(PrecisionArg::Int8) | None) => Precision::Int8.into(),
        (DeviceArg::Cpu, Some(PrecisionArg::Int4)) => Precision::Int4.into(),
        (DeviceArg::Cuda, Some(PrecisionArg::Fp16) | None) => Plan::Cuda(CudaPrecision::Fp16),
        (DeviceArg::Cuda, Some(PrecisionArg::Bf16)) => Plan::Cuda(CudaPrecision::Bf16),
        (DeviceArg::Cuda, Some(PrecisionArg::Int8)) => Plan::Cuda(CudaPrecision::Int8),
        (DeviceArg::Cuda, Some(PrecisionArg::Int4)) => Plan::Cuda(CudaPrecision::Int4),
        (DeviceArg::Cpu, Some(PrecisionArg::Fp16 | PrecisionArg::Bf16)) => {
            anyhow::bail!("--device cpu has no 16-bit kernels, expected --precision fp32, int8 or int4")
        }
        (DeviceArg::Cuda, Some(PrecisionArg::Fp32)) => {
            anyhow::bail!(
                "--device cuda has no attention in fp32, expected --precision fp16, bf16, int8 or int4"
            )
        }
    })
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("TEXTGEN_LOG", "warn")).init();
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Each of our errors already says its cause; the chain would say it twice.
            eprintln!("textgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Convert {
            source,
            out,
            repository,
            name,
            precision,
            device,
            keep_scripts,
            keep_corpus,
            force,
        } => {
            let target = match (out, repository, name) {
                (Some(out), _, _) => Target::Folder(out),
                (None, Some(repository), Some(name)) => Target::Repository { repository, name },
                _ => anyhow::bail!("give --out DIR, or --repository DIR and --name NAME"),
            };
            let plan = plan(device, precision)?;
            let keep = Keep { scripts: keep_scripts, corpus: keep_corpus };
            let keep = (keep != Keep::default()).then_some(keep);
            let options = ConvertOptions { source, target, plan, keep, force };
            let report = textgen_convert::convert(&options)?;
            // Not println!, which panics when nobody reads.
            writeln!(stdout(), "{}", report.artifact.display())?;
            chat_check::warn(&report.artifact, &report.manifest);
            Ok(ExitCode::SUCCESS)
        }
        Command::Inspect { dir } => inspect::run(&dir),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Score(arguments) => score::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    }
}

/// The reader of our output has gone, as `head` does: nothing to complain about.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
