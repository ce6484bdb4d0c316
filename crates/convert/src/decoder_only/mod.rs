//! Decoder-only models: Llama, Qwen 2 and 3, Gemma 1 to 3, HunYuan V1 dense. One graph serves all of them; what
//! sets them apart is in [`config`].
//!
//! Precision plan of `int8`: every product in signed 8 bits with a scale for each output, the head among them.
//! The inputs of the feed-forward output have outliers, which are multiplied in full. Embedding tables are f16;
//! residual, norms and attention f32. `int4` has blocks of 4 bits instead, the head excepted.

mod config;
mod decoder;
mod device;
mod folder;
mod gguf_file;
mod package;
mod parts;
mod rope;
mod stack;

use std::{fs, path::Path};

use textgen_artifact::{
    CHAT_TEMPLATE_FILE, ChatSpec, DECODER_FILE, Device, EmbeddingSpec, Embeddings, GenerationSpec, Geometry,
    TokenizerSpec,
};
use tokenizers::Tokenizer;

use crate::{
    checkpoint::{Checkpoint, CudaPrecision, Description, Precision},
    error::{ConvertError, Result},
    graph::device::check_heads,
    huggingface::check_token_ids,
    weights::{EmbeddingFormat, StoredTable, Weight, WeightsWriter},
};

use config::Config;
use device::DeviceLayers;
pub use package::{Chat, Package};
use parts::Parts;

/// Token embeddings, and the head where it is tied to them.
const EMBEDDING: &str = "model.embed_tokens";
const HEAD: &str = "lm_head";

/// A checkpoint of the family.
pub struct DecoderOnly {
    package: Package,
    config: Config,
    tied_head: bool,
}

impl DecoderOnly {
    /// Opens the folder of a checkpoint; none when its `config.json` is of another family.
    pub fn open(source: &Path) -> Result<Option<Self>> {
        match folder::config(source)? {
            Some((path, json)) if Config::read(&path, &json)?.is_some() => {
                Self::of(folder::package(source, path, json)?)
            }
            _ => Ok(None),
        }
    }

    /// Opens a GGUF file.
    pub fn open_gguf(path: &Path) -> Result<Option<Self>> {
        Self::of(gguf_file::package(path)?)
    }

    /// Checks a package; none when it is of another family.
    pub fn of(package: Package) -> Result<Option<Self>> {
        let Some(config) = Config::read(&package.path, &package.config)? else { return Ok(None) };
        let has_head = package.tensors.contains(&format!("{HEAD}.weight"));
        let tied_head = config.tied_head.unwrap_or(!has_head);
        if config.tied_head.is_none() && has_head {
            log::debug!("{}: the head is its own, since the checkpoint has one", package.path);
        }
        Ok(Some(Self { package, config, tied_head }))
    }

    fn geometry(&self) -> Geometry {
        let config = &self.config;
        Geometry {
            d_model: config.d_model,
            encoder_layers: 0,
            decoder_layers: config.layers.len(),
            vocab_size: config.vocab_size,
            head_dim: config.head_dim,
            self_kv_heads: config.kv_heads,
            cross_kv_heads: 0,
            state_width: 0,
            max_source_tokens: None,
            max_target_tokens: Some(config.context),
        }
    }

    /// Writes tokenizer and chat template.
    fn write_text(&self, dir: &Path) -> Result<TextSide> {
        let Package { path, tokenizer, chat, eos_token, .. } = &self.package;
        let unusable = |reason: String| ConvertError::Tokenizer { path: path.clone(), reason };
        let parsed = Tokenizer::from_bytes(&tokenizer.json).map_err(|error| unusable(error.to_string()))?;
        let count = |with_added: bool| {
            parsed.get_vocab(with_added).into_values().max().map_or(0, |largest| largest as usize + 1)
        };
        // Gemma 3's text models have the tokenizer of those that see images: an added token may have no row. A text
        // that holds it is refused.
        let ids = count(true).min(self.config.vocab_size);
        if count(true) > ids {
            log::warn!("{path}: added tokens from id {ids} on have no row in the model's embedding");
        }
        let own = count(false);
        if own > self.config.vocab_size {
            return Err(unusable(format!(
                "it has {own} ids, the model's embedding {} rows; they are of different models",
                self.config.vocab_size
            )));
        }
        tokenizer.write(dir)?;
        let chat = match chat {
            None => None,
            Some(Chat { template, special_tokens }) => {
                let file = dir.join(CHAT_TEMPLATE_FILE);
                fs::write(&file, template).map_err(ConvertError::io(&file))?;
                Some(ChatSpec { special_tokens: special_tokens.clone() })
            }
        };
        let spec = TokenizerSpec {
            add_special_tokens: true,
            source_suffix: Vec::new(),
            normalizer: tokenizer.normalizer.is_some(),
        };
        let eos_token_id = eos_token.as_ref().and_then(|token| parsed.token_to_id(token));
        let eos_token_id = eos_token_id.filter(|&id| (id as usize) < ids);
        Ok(TextSide { tokenizer: spec, chat, generation: self.generation(ids, eos_token_id)? })
    }

    /// Defaults of generation, given the number of the tokenizer's ids, and its own end of a text.
    fn generation(&self, ids: usize, eos_token_id: Option<u32>) -> Result<GenerationSpec> {
        let mut given = self.package.generation.clone();
        given.add_ends(eos_token_id);
        let path = &self.package.path;
        for name in given.not_carried() {
            log::warn!("{path}: the generation option `{name}` is not carried over");
        }
        let vocab_size = self.config.vocab_size;
        // Rows of the embedding that no token has: never to be generated.
        let unused = (ids..vocab_size).map(|id| id as u32);
        let mut spec = GenerationSpec { max_new_tokens: given.new_tokens(), ..given.spec() };
        spec.suppress_tokens.extend(unused);
        if spec.eos_token_ids.is_empty() {
            log::warn!("{path}: no end-of-sequence token is named; texts end by their length only");
        }
        check_token_ids(path, &spec, vocab_size)?;
        Ok(spec)
    }
}

impl Checkpoint for DecoderOnly {
    fn family(&self) -> &'static str {
        self.config.family.name()
    }

    fn has_int4(&self) -> bool {
        true
    }

    fn write(&self, dir: &Path, weights: &mut WeightsWriter, precision: Precision) -> Result<Description> {
        // First what is quick and may be refused.
        let text = self.write_text(dir)?;
        let geometry = self.geometry();
        let format = match precision {
            Precision::Fp32 => EmbeddingFormat::F32,
            Precision::Int8 | Precision::Int4 => EmbeddingFormat::F16,
        };
        let table = self.write_embedding(weights, format)?;
        let tied_head = self.tied_head.then_some(&table);
        let layers = decoder::Layers { parts: self.parts(), precision, tied_head };
        layers.graph(&geometry, weights)?.write(&dir.join(DECODER_FILE))?;
        Ok(self.description(Device::Cpu, geometry, table, text))
    }

    fn write_cuda(
        &self,
        dir: &Path,
        weights: &mut WeightsWriter,
        precision: CudaPrecision,
    ) -> Result<Description> {
        check_heads(&self.package.path, self.config.head_dim)?;
        let text = self.write_text(dir)?;
        let geometry = self.geometry();
        let table = self.write_embedding(weights, EmbeddingFormat::F16)?;
        let layers =
            DeviceLayers { parts: self.parts(), precision, table: &table, tied_head: self.tied_head };
        let device = precision.write(&layers, dir, &geometry, weights)?;
        Ok(self.description(device, geometry, table, text))
    }
}

/// What an artifact says of texts.
struct TextSide {
    tokenizer: TokenizerSpec,
    chat: Option<ChatSpec>,
    generation: GenerationSpec,
}

impl DecoderOnly {
    fn parts(&self) -> Parts<'_> {
        Parts { config: &self.config, tensors: self.package.tensors.as_ref() }
    }

    fn write_embedding(&self, weights: &mut WeightsWriter, format: EmbeddingFormat) -> Result<StoredTable> {
        let Config { vocab_size, d_model, .. } = self.config;
        let tensors = self.package.tensors.as_ref();
        let table = Weight::stored(tensors, &format!("{EMBEDDING}.weight"), vocab_size, d_model);
        weights.embedding(EMBEDDING, &table, format)
    }

    fn description(
        &self,
        device: Device,
        geometry: Geometry,
        table: StoredTable,
        text: TextSide,
    ) -> Description {
        let decoder = EmbeddingSpec {
            table: table.table,
            row_scale: table.row_scale,
            scale: self.config.embedding_scale,
            positions: None,
        };
        Description {
            device,
            geometry,
            embeddings: Embeddings { encoder: None, decoder },
            rotary: self.config.rotary.clone(),
            tokenizer: text.tokenizer,
            chat: text.chat,
            generation: text.generation,
            trimmed: None,
        }
    }
}
