//! Checkpoint to artifact.
//!
//! A family's reader gives weights through [`weights::TensorSource`]; its architecture builds the two graphs
//! with [`graph::GraphBuilder`], which appends the large tensors to `weights.bin` as they come, so that memory
//! holds about one tensor at a time.

pub mod bergamot;
mod checkpoint;
pub mod decoder_only;
pub mod error;
pub mod gguf;
pub mod graph;
pub mod huggingface;
pub mod onnx;
mod output;
mod repository;
pub mod sentencepiece;
pub mod t5;
mod tokenizer_files;
pub mod vocabulary;
pub mod weights;

use std::path::{Path, PathBuf};

use textgen_artifact::{FORMAT_VERSION, Manifest, ops};

pub use checkpoint::{Checkpoint, CudaPrecision, Description, Plan, Precision};
pub use error::{ConvertError, Result};
pub use tokenizer_files::TokenizerFiles;

use output::Staging;
use vocabulary::Keep;
use weights::WeightsWriter;

/// What the folder of a checkpoint may hold, for messages.
const CHECKPOINTS: &str = "a Bergamot model (`*.intgemm*.bin` and its vocabulary) \
     or a Hugging Face model of the T5, Llama, Qwen, Gemma or HunYuan family (`config.json`, safetensors or `pytorch_model.bin`, tokenizer), \
     or give a GGUF file of one of the latter";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Folder of the checkpoint, or a GGUF file.
    pub source: PathBuf,
    pub target: Target,
    pub plan: Plan,
    /// The part of the vocabulary to keep; none keeps all of it.
    pub keep: Option<Keep>,
    /// Replace an earlier artifact.
    pub force: bool,
}

/// Where the artifact goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Into this folder.
    Folder(PathBuf),
    /// Into version 1 of a model of a Triton model repository. A model that has no `config.pbtxt` gets one.
    Repository { repository: PathBuf, name: String },
}

/// What a conversion has made.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Folder of the artifact.
    pub artifact: PathBuf,
    pub manifest: Manifest,
}

/// Converts a checkpoint. The result appears whole, or not at all.
pub fn convert(options: &ConvertOptions) -> Result<Report> {
    let (place, is_new_entry) = match &options.target {
        Target::Folder(dir) => (dir.clone(), false),
        Target::Repository { repository, name } => {
            let entry = repository::entry(repository, name)?;
            match repository::is_configured(&entry)? {
                true => (entry.join(repository::VERSION_DIR), false),
                false => (entry, true),
            }
        }
    };
    let mut checkpoint = open(&options.source)?;
    options.plan.check(checkpoint.as_ref())?;
    if let Some(keep) = &options.keep {
        checkpoint = checkpoint.trim(keep)?;
    }
    let staging = Staging::create(&place, options.force)?;
    let dir = if is_new_entry {
        repository::prepare(staging.dir(), options.plan)?
    } else {
        staging.dir().to_owned()
    };
    let manifest = write_artifact(checkpoint.as_ref(), &dir, options.plan)?;
    let place = staging.publish()?;
    let artifact = if is_new_entry { place.join(repository::VERSION_DIR) } else { place };
    Ok(Report { artifact, manifest })
}

/// Reads the configuration of the checkpoint in a folder; the tensors stay where they are.
fn open(source: &Path) -> Result<Box<dyn Checkpoint>> {
    if let Some(file) = gguf::Gguf::find(source)?
        && let Some(checkpoint) = decoder_only::DecoderOnly::open_gguf(&file)?
    {
        return Ok(Box::new(checkpoint));
    }
    source.read_dir().map_err(ConvertError::io(source))?;
    if let Some(package) = bergamot::Package::find(source)? {
        return Ok(Box::new(bergamot::Bergamot::open(&package)?));
    }
    if let Some(checkpoint) = t5::T5::open(source)? {
        return Ok(Box::new(checkpoint));
    }
    if let Some(checkpoint) = decoder_only::DecoderOnly::open(source)? {
        return Ok(Box::new(checkpoint));
    }
    Err(ConvertError::UnknownCheckpoint {
        path: source.display().to_string(),
        reason: "none of the files that would tell its family is there".to_owned(),
        expected: CHECKPOINTS,
    })
}

fn write_artifact(checkpoint: &dyn Checkpoint, dir: &Path, plan: Plan) -> Result<Manifest> {
    let mut weights = WeightsWriter::create(dir)?;
    let description = match plan {
        Plan::Cpu(precision) => checkpoint.write(dir, &mut weights, precision)?,
        Plan::Cuda(precision) => checkpoint.write_cuda(dir, &mut weights, precision)?,
    };
    let (tensors, precision_plan) = weights.finish()?;
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        ops_version: ops::DOMAIN_VERSION,
        producer: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
        device: description.device,
        family: checkpoint.family().to_owned(),
        geometry: description.geometry,
        embeddings: description.embeddings,
        rotary: description.rotary,
        tokenizer: description.tokenizer,
        chat: description.chat,
        generation: description.generation,
        trimmed: description.trimmed,
        tensors,
        precision_plan,
    };
    manifest.write(dir)?;
    Ok(manifest)
}
