//! GGUF, the one-file format of llama.cpp, given as the Hugging Face checkpoint that it was made of.
//!
//! What llama.cpp's converter changes is undone: names ([`names`]), metadata for `config.json` ([`config`]), the
//! tokenizer ([`tokenizer`]), the order of rows that llama's rotation wants, and Gemma's norms, stored as 1 + w.

mod config;
mod ends;
mod header;
mod names;
mod tensors;
mod tokenizer;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    error::{ConvertError, Result},
    huggingface::{CONFIG_FILE, GenerationConfig},
};

use header::{Header, MAGIC};
use names::Architecture;

const EXTENSION: &str = "gguf";
const SPLIT_COUNT: &str = "split.count";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// A model file. Holds its metadata; tensors are read when asked for.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    header: Header,
    architecture: Architecture,
    /// Tensors of the file by the names that Hugging Face gives them.
    tensors: BTreeMap<String, tensors::Stored>,
}

impl Gguf {
    /// The model file that is meant by a path: itself, or the only one in a folder without `config.json`.
    pub fn find(source: &Path) -> Result<Option<PathBuf>> {
        if source.is_file() {
            let is_named = source.extension().is_some_and(|extension| extension == EXTENSION);
            let mut magic = [0; MAGIC.len()];
            let mut file = File::open(source).map_err(ConvertError::io(source))?;
            let is_marked = file.read_exact(&mut magic).is_ok() && magic == MAGIC;
            return Ok((is_named || is_marked).then(|| source.to_owned()));
        }
        if source.join(CONFIG_FILE).exists() {
            return Ok(None);
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(source).map_err(ConvertError::io(source))? {
            let path = entry.map_err(ConvertError::io(source))?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                files.push(path);
            }
        }
        files.sort();
        let name = |file: &PathBuf| format!("`{}`", file.file_name().unwrap_or_default().to_string_lossy());
        match files.len() {
            0 | 1 => Ok(files.pop()),
            _ => Err(ConvertError::Unsupported {
                path: source.display().to_string(),
                what: "what to convert".to_owned(),
                got: format!("one of {}", files.iter().map(name).collect::<Vec<_>>().join(", ")),
                expected: "one GGUF file in a folder; name the file itself".to_owned(),
            }),
        }
    }

    /// Opens a model file, and checks that each of its tensors has a place in its architecture.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(ConvertError::io(path))?;
        let header = Header::read(path, &file)?;
        if let Some(files) = header.unsigned(SPLIT_COUNT)?.filter(|&files| files > 1) {
            return Err(header.unsupported(
                "the model",
                format!("split over {files} files"),
                "one file; join them first (`llama-gguf-split --merge`)",
            ));
        }
        let architecture = Architecture::of(&header)?;
        let tensors = tensors::by_name(&header, &architecture)?;
        Ok(Self { path: path.to_owned(), file, header, architecture, tensors })
    }

    /// The Jinja template that makes a prompt of a conversation.
    pub fn chat_template(&self) -> Result<Option<String>> {
        Ok(self.header.text(CHAT_TEMPLATE)?.map(str::to_owned))
    }

    /// What `generation_config.json` would say.
    pub fn generation(&self) -> Result<GenerationConfig> {
        let json = json!({ "eos_token_id": self.ends()?, "pad_token_id": self.special_id("padding")? });
        serde_json::from_value(json).map_err(|error| ConvertError::Syntax {
            path: self.path.display().to_string(),
            reason: format!("special tokens: {error}"),
        })
    }
}
