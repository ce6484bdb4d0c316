//! The T5 family: T5, T5 v1.1, Flan, mT5, umT5, MADLAD.
//!
//! Pre-norm RMSNorm without biases, a relative position bias instead of positions, no scale in attention, and
//! a final norm on each stack. What tells the variants apart is read from `config.json` ([`config`]) and,
//! where that is known to mislead, from the tensors that are there ([`tensors`]).
//!
//! Precision plan of `int8`: every product in signed 8 bits with a scale for each output, the head among them,
//! but for the feed-forward output `wo`. Its inputs have outliers (120,000 in published checkpoints), which
//! would take a row's whole range; it is in blocks of 32 with activations quantized by block, or in f32 where
//! `d_ff` is no multiple of 32. Embedding tables are f16; residual, norms and attention f32.

mod bias;
mod config;
mod decoder;
mod device;
mod encoder;
mod layers;
mod parts;
mod tensors;

use std::path::Path;

use textgen_artifact::{
    DECODER_FILE, Device, ENCODER_FILE, EmbeddingSpec, Embeddings, GenerationSpec, Geometry, TrimSpec,
};

use crate::{
    checkpoint::{Checkpoint, CudaPrecision, Description, Precision},
    error::Result,
    graph::device::check_heads,
    huggingface::{
        CONFIG_FILE, CheckpointTokenizer, GenerationConfig, TokenizerFacts, check_token_ids, open_tensors,
    },
    vocabulary::Keep,
    weights::{EmbeddingFormat, SelectedRows, StoredTable, TensorSource, Weight, WeightsWriter},
};

use config::Config;
use device::DeviceLayers;
use layers::Layers;
use parts::Parts;
use tensors::Layout;

/// Token that ends a sequence and that which starts one, where no configuration names them.
const DEFAULT_EOS: u32 = 1;
const DEFAULT_START: u32 = 0;

/// A checkpoint of the family.
pub struct T5 {
    config: Config,
    tensors: Box<dyn TensorSource>,
    layout: Layout,
    generation: GenerationSpec,
    tokenizer: CheckpointTokenizer,
    trimmed: Option<TrimSpec>,
}

impl T5 {
    /// Opens the folder of a checkpoint; none when it is not of this family.
    pub fn open(source: &Path) -> Result<Option<Self>> {
        let Some(config) = Config::read(source)? else { return Ok(None) };
        let tensors = open_tensors(source)?;
        let layout = Layout::of(tensors.as_ref(), &config)?;
        let mut given = GenerationConfig::read(source)?;
        let eos_token_id = given.eos_token_ids().first().copied().unwrap_or(DEFAULT_EOS);
        let facts = TokenizerFacts { eos_token_id, vocab_size: config.vocab_size };
        let tokenizer = CheckpointTokenizer::read(source, facts)?;
        given.add_ends(tokenizer.eos_token_id);
        let generation = generation(source, &config, given)?;
        Ok(Some(Self { config, tensors, layout, generation, tokenizer, trimmed: None }))
    }

    fn geometry(&self) -> Geometry {
        let config = &self.config;
        Geometry {
            d_model: config.d_model,
            encoder_layers: config.encoder_layers,
            decoder_layers: config.decoder_layers,
            vocab_size: config.vocab_size,
            head_dim: config.head_dim,
            self_kv_heads: config.heads,
            cross_kv_heads: config.heads,
            state_width: 0,
            max_source_tokens: None,
            max_target_tokens: None,
        }
    }

    fn parts(&self) -> Parts<'_> {
        Parts { config: &self.config, layout: &self.layout, tensors: self.tensors.as_ref() }
    }

    fn write_embedding(
        &self,
        weights: &mut WeightsWriter,
        tensor: &str,
        format: EmbeddingFormat,
    ) -> Result<StoredTable> {
        let table =
            Weight::stored(self.tensors.as_ref(), tensor, self.config.vocab_size, self.config.d_model);
        weights.embedding(tensor.trim_end_matches(".weight"), &table, format)
    }

    /// The tables of encoder and decoder, which may be one.
    fn write_embeddings(
        &self,
        weights: &mut WeightsWriter,
        format: EmbeddingFormat,
    ) -> Result<[StoredTable; 2]> {
        let encoder = self.write_embedding(weights, &self.layout.encoder_embedding, format)?;
        let decoder = if self.layout.decoder_embedding == self.layout.encoder_embedding {
            encoder.clone()
        } else {
            self.write_embedding(weights, &self.layout.decoder_embedding, format)?
        };
        Ok([encoder, decoder])
    }

    fn description(&self, device: Device, geometry: Geometry, tables: [StoredTable; 2]) -> Description {
        let [encoder, decoder] = tables.map(|table| EmbeddingSpec {
            table: table.table,
            row_scale: table.row_scale,
            scale: 1.0,
            positions: None,
        });
        Description {
            device,
            geometry,
            embeddings: Embeddings { encoder: Some(encoder), decoder },
            rotary: Vec::new(),
            tokenizer: self.tokenizer.spec.clone(),
            chat: None,
            generation: self.generation.clone(),
            trimmed: self.trimmed.clone(),
        }
    }
}

impl Checkpoint for T5 {
    fn family(&self) -> &'static str {
        self.config.variant.name()
    }

    fn trim(self: Box<Self>, keep: &Keep) -> Result<Box<dyn Checkpoint>> {
        let mut trimmed = *self;
        let vocab_size = trimmed.config.vocab_size;
        let kept = trimmed.tokenizer.trim(keep, &mut trimmed.generation)?;
        trimmed.trimmed = Some(keep.spec(vocab_size));
        trimmed.config.vocab_size = kept.len();
        let Layout { encoder_embedding, decoder_embedding, head, .. } = &trimmed.layout;
        let tables = [Some(encoder_embedding), Some(decoder_embedding), head.as_ref()].into_iter().flatten();
        trimmed.tensors = Box::new(SelectedRows::new(trimmed.tensors, tables, kept));
        Ok(Box::new(trimmed))
    }

    fn write(&self, dir: &Path, weights: &mut WeightsWriter, precision: Precision) -> Result<Description> {
        self.tokenizer.files.write(dir)?;

        let format = match precision {
            Precision::Fp32 => EmbeddingFormat::F32,
            Precision::Int8 | Precision::Int4 => EmbeddingFormat::F16,
        };
        let tables = self.write_embeddings(weights, format)?;
        let geometry = self.geometry();
        let layers = Layers { parts: self.parts(), precision };
        encoder::graph(&layers, &geometry, weights)?.write(&dir.join(ENCODER_FILE))?;
        decoder::graph(&layers, &geometry, &tables[1], weights)?.write(&dir.join(DECODER_FILE))?;
        Ok(self.description(Device::Cpu, geometry, tables))
    }

    fn write_cuda(
        &self,
        dir: &Path,
        weights: &mut WeightsWriter,
        precision: CudaPrecision,
    ) -> Result<Description> {
        check_heads(&self.tensors.path().display().to_string(), self.config.head_dim)?;
        self.tokenizer.files.write(dir)?;
        let tables = self.write_embeddings(weights, EmbeddingFormat::F16)?;
        let geometry = self.geometry();
        let [encoder_table, decoder_table] = tables.each_ref();
        let layers = DeviceLayers { parts: self.parts(), precision, encoder_table, decoder_table };
        let device = precision.write(&layers, dir, &geometry, weights)?;
        Ok(self.description(device, geometry, tables))
    }
}

fn generation(source: &Path, config: &Config, mut given: GenerationConfig) -> Result<GenerationSpec> {
    for name in given.not_carried() {
        log::warn!("{}: the generation option `{name}` is not carried over", source.display());
    }
    if given.eos_token_ids().is_empty() {
        given.add_ends([DEFAULT_EOS]);
    }
    let start = given.decoder_start_token_id.or(given.pad_token_id).unwrap_or(DEFAULT_START);
    let spec = GenerationSpec {
        decoder_start_token_id: Some(start),
        max_new_tokens: given.max_new_tokens(),
        ..given.spec()
    };
    check_token_ids(&source.join(CONFIG_FILE).display().to_string(), &spec, config.vocab_size)?;
    Ok(spec)
}
