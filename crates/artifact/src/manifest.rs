//! `manifest.json`: what an artifact is, and how it wants to be run.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

pub const MANIFEST_FILE: &str = "manifest.json";
pub const ENCODER_FILE: &str = "encoder.onnx";
pub const DECODER_FILE: &str = "decoder.onnx";
pub const WEIGHTS_FILE: &str = "weights.bin";
pub const TOKENIZER_FILE: &str = "tokenizer.json";
pub const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";

/// Version of the artifact format; a reader refuses any other.
pub const FORMAT_VERSION: u32 = 2;

/// Alignment of large tensors in `weights.bin`, in bytes: a page, so that each can be mapped alone.
pub const PAGE_BYTES: u64 = 4096;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format_version: u32,
    /// Version of [`crate::ops`] that the graphs use.
    pub ops_version: i64,
    /// Program and version that wrote the artifact.
    pub producer: String,
    /// What the graphs are for.
    #[serde(default, skip_serializing_if = "Device::is_cpu")]
    pub device: Device,
    /// Model family as the converter knows it: `bergamot`, `t5`, …
    pub family: String,
    pub geometry: Geometry,
    pub embeddings: Embeddings,
    /// Rotary position embeddings, as the graph numbers them; empty when the model has none.
    #[serde(default)]
    pub rotary: Vec<RotarySpec>,
    pub tokenizer: TokenizerSpec,
    /// How a conversation becomes a prompt; none when the checkpoint has no chat template.
    #[serde(default)]
    pub chat: Option<ChatSpec>,
    pub generation: GenerationSpec,
    /// What was kept of the checkpoint's vocabulary; none when all of it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<TrimSpec>,
    /// Every tensor of `weights.bin`, in file order. Graph tensors carry the name of their initializer.
    pub tensors: Vec<TensorSpec>,
    /// One entry for each matrix product and embedding: which format it is in.
    pub precision_plan: Vec<PrecisionEntry>,
}

/// What runs an artifact's graphs, and so which they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// Graphs as in [`crate::graph`], with the operators of [`crate::ops`].
    #[default]
    Cpu,
    /// Graphs as in [`crate::device_graph`], with operators that ONNX Runtime has for CUDA.
    Cuda(CudaSpec),
}

impl Device {
    pub fn is_cpu(&self) -> bool {
        *self == Self::Cpu
    }
}

/// What a reader of the graphs for CUDA must know besides their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaSpec {
    /// Elements of the attention caches: f16 or bf16.
    pub caches: DType,
    /// Candidates of each row of logits, not more than there are tokens.
    pub candidates: usize,
}

/// Sizes of a model. Lengths are counted in tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    pub d_model: usize,
    /// 0 for a decoder-only model.
    pub encoder_layers: usize,
    pub decoder_layers: usize,
    /// Width of `logits`.
    pub vocab_size: usize,
    pub head_dim: usize,
    /// Heads of the decoder's self-attention caches; 0 when the decoder has no self-attention.
    pub self_kv_heads: usize,
    /// Heads of the cross-attention caches; 0 for a decoder-only model.
    pub cross_kv_heads: usize,
    /// Width of each decoder layer's recurrent state; 0 when it has none.
    pub state_width: usize,
    /// Longest source that the positions allow; none when the model has relative positions only.
    pub max_source_tokens: Option<usize>,
    /// Longest target, likewise, the decoder's start token included. For a decoder-only model the context: prompt
    /// and generated text together.
    pub max_target_tokens: Option<usize>,
}

/// Lookup tables of the input embeddings. The backend looks them up and the graphs start at `x`; those for a device
/// look up for themselves, in the same tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embeddings {
    /// None for a decoder-only model.
    pub encoder: Option<EmbeddingSpec>,
    pub decoder: EmbeddingSpec,
}

/// `x = table[id] · row_scale[id] · scale + positions[p]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSpec {
    /// Tensor `[rows, d_model]`, f32, f16 or i8, for a device f16 or bf16. It may have more rows than the vocabulary: a zero row serves
    /// as the start of a decoder that begins from nothing.
    pub table: String,
    /// Tensor f32 `[rows]`, for an i8 table.
    pub row_scale: Option<String>,
    pub scale: f32,
    /// Tensor f32 `[max positions, d_model]`; row 0 belongs to the first token.
    pub positions: Option<String>,
}

/// Rotation of position `p` and pair `i`: the angle `p · inverse_frequencies[i]`, cosine and sine multiplied by
/// `magnitude`. Whatever scaling a checkpoint asks for is in the frequencies already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotarySpec {
    /// Radians a position; one for each pair of a head's rotated elements, `(i, i + pairs)`.
    pub inverse_frequencies: Vec<f32>,
    pub magnitude: f32,
}

/// What the template in `chat_template.jinja` is rendered with, besides the messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatSpec {
    /// Texts of special tokens by the name templates know them by: `bos_token`, `eos_token`, `pad_token`, …
    pub special_tokens: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSpec {
    /// Let the tokenizer's own post-processor add its special tokens.
    pub add_special_tokens: bool,
    /// Ids appended to every source after that, as `</s>` where the tokenizer does not add it.
    pub source_suffix: Vec<u32>,
    /// Texts are normalized by the rules in `normalizer.json` rather than by the tokenizer's own.
    #[serde(default)]
    pub normalizer: bool,
}

/// Defaults of generation, from the checkpoint's own configuration; a request overrides them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationSpec {
    /// Row of the decoder embedding that starts a sequence; none for a decoder-only model, where the prompt does.
    pub decoder_start_token_id: Option<u32>,
    /// Each ends a text; the first one is put behind a text that is scored.
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
    /// Never generated.
    #[serde(default)]
    pub suppress_tokens: Vec<u32>,
    /// New tokens at most when the request does not say; none means as many as the cache holds.
    pub max_new_tokens: Option<usize>,
    /// New tokens at most as a multiple of the source length (Bergamot: 2.5); the smaller limit holds.
    pub max_new_tokens_per_source_token: Option<f32>,
    pub do_sample: bool,
    pub temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

impl GenerationSpec {
    /// Every token id in it.
    pub fn token_ids_mut(&mut self) -> impl Iterator<Item = &mut u32> {
        let starts = self.decoder_start_token_id.iter_mut().chain(&mut self.pad_token_id);
        starts.chain(&mut self.eos_token_ids).chain(&mut self.suppress_tokens)
    }
}

/// A vocabulary of which a part was kept. Ids are those of the part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrimSpec {
    /// Rows of the checkpoint's embedding.
    pub original_vocab_size: usize,
    /// Unicode names of the scripts whose tokens were kept.
    pub scripts: Vec<String>,
    /// Name of the file whose texts' tokens were kept.
    pub corpus: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// First byte in `weights.bin`.
    pub offset: u64,
}

impl TensorSpec {
    /// Size in bytes; none when it does not fit in 64 bits.
    pub fn bytes(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(self.dtype.bytes() as u64, |bytes, &dim| bytes.checked_mul(u64::try_from(dim).ok()?))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    F32,
    F16,
    BF16,
    I8,
    /// Bytes of a packed format.
    U8,
    I32,
}

impl DType {
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::I8 | DType::U8 => 1,
        }
    }
}

/// Inputs that share a scale in [`WeightFormat::Int4Block`].
pub const INT4_BLOCK: usize = 32;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrecisionEntry {
    /// Graph node or embedding table.
    pub name: String,
    pub part: Part,
    pub format: WeightFormat,
    pub shape: Vec<usize>,
}

impl PrecisionEntry {
    /// Size of the weights with their scales, in bytes.
    pub fn bytes(&self) -> usize {
        let [rows, columns] = [self.shape.first(), self.shape.get(1)].map(|dim| dim.copied().unwrap_or(0));
        let weights = rows * columns;
        match self.format {
            WeightFormat::F32 => 4 * weights,
            WeightFormat::F16 | WeightFormat::Bf16 => 2 * weights,
            // An f32 scale and an i32 sum for each output.
            WeightFormat::Int8Column | WeightFormat::Int8Outlier => weights + 8 * rows,
            // An f32 scale for each row.
            WeightFormat::Int8Row => weights + 4 * rows,
            // Half a byte each, and an f32 scale a block.
            WeightFormat::Int4Block => weights / 2 + weights / INT4_BLOCK * 4,
            WeightFormat::Int4Weight { block } => weights / 2 + weights / block.max(1) * 2,
            WeightFormat::Int8Weight { block } => weights + weights / block.max(1) * 2,
        }
    }
}

/// What reads a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Embedding,
    Encoder,
    Decoder,
}

impl Part {
    /// As it appears in names.
    pub fn name(self) -> &'static str {
        match self {
            Part::Embedding => "embedding",
            Part::Encoder => "encoder",
            Part::Decoder => "decoder",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    F32,
    F16,
    Bf16,
    /// Signed 8-bit weights with one scale for each output column; activations quantized for each row.
    Int8Column,
    /// Signed 8-bit embedding rows, each with its own scale.
    Int8Row,
    /// As `int8_column`; inputs far beyond their row's root mean square are multiplied in full precision.
    Int8Outlier,
    /// 4-bit weights in blocks of 32 inputs, a scale for each block of an output; activations in 8 bits, quantized
    /// in the same blocks.
    Int4Block,
    /// 4-bit weights with a scale for each block of an output's inputs; activations are not quantized.
    Int4Weight {
        block: usize,
    },
    /// 8-bit weights, likewise.
    Int8Weight {
        block: usize,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path}: not a valid manifest: {source}; convert the model again")]
    Json { path: String, source: serde_json::Error },
    #[error("{path}: artifact format {got}, this program reads {expected}; convert the model again")]
    Version { path: String, got: u64, expected: u32 },
    #[error("{path}: operator version {got}, this program has {expected}; convert the model again")]
    OpsVersion { path: String, got: i64, expected: i64 },
}

impl Manifest {
    /// Reads and checks `dir/manifest.json`. The version is looked at first, so that a newer artifact says so
    /// instead of naming a field this program does not know.
    pub fn read(dir: &Path) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u64,
        }
        let file = dir.join(MANIFEST_FILE);
        let path = file.display().to_string();
        let text =
            fs::read_to_string(&file).map_err(|source| ManifestError::Io { path: path.clone(), source })?;
        let json = |source| ManifestError::Json { path: path.clone(), source };
        let version: Version = serde_json::from_str(&text).map_err(json)?;
        if version.format_version != u64::from(FORMAT_VERSION) {
            return Err(ManifestError::Version {
                path,
                got: version.format_version,
                expected: FORMAT_VERSION,
            });
        }
        let manifest: Manifest = serde_json::from_str(&text).map_err(json)?;
        if manifest.ops_version != crate::ops::DOMAIN_VERSION {
            return Err(ManifestError::OpsVersion {
                path,
                got: manifest.ops_version,
                expected: crate::ops::DOMAIN_VERSION,
            });
        }
        Ok(manifest)
    }

    /// Writes `dir/manifest.json`.
    pub fn write(&self, dir: &Path) -> Result<(), ManifestError> {
        let file = dir.join(MANIFEST_FILE);
        let path = file.display().to_string();
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| ManifestError::Json { path: path.clone(), source })?;
        fs::write(&file, text + "\n").map_err(|source| ManifestError::Io { path, source })
    }

    /// Bytes of weights that one decoder step reads; the embedding, of which it reads a few rows, excluded.
    pub fn decoder_weight_bytes(&self) -> usize {
        let decoder = self.precision_plan.iter().filter(|entry| entry.part == Part::Decoder);
        decoder.map(PrecisionEntry::bytes).sum()
    }

    /// True for a model without an encoder, whose prompt is the beginning of what it continues.
    pub fn is_decoder_only(&self) -> bool {
        self.embeddings.encoder.is_none()
    }

    /// The embedding of sources: the encoder's, or that of a decoder-only model.
    pub fn source_embedding(&self) -> &EmbeddingSpec {
        self.embeddings.encoder.as_ref().unwrap_or(&self.embeddings.decoder)
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorSpec> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_names_no_device_is_for_the_cpu_and_is_written_as_before() {
        #[derive(Deserialize, Serialize)]
        struct Part {
            #[serde(default, skip_serializing_if = "Device::is_cpu")]
            device: Device,
        }
        let cpu: Part = serde_json::from_str("{}").unwrap();
        assert_eq!(cpu.device, Device::Cpu);
        assert_eq!(serde_json::to_string(&cpu).unwrap(), "{}");
        let cuda = r#"{"device":{"cuda":{"caches":"bf16","candidates":64}}}"#;
        let part: Part = serde_json::from_str(cuda).unwrap();
        assert_eq!(part.device, Device::Cuda(CudaSpec { caches: DType::BF16, candidates: 64 }));
        assert_eq!(serde_json::to_string(&part).unwrap(), cuda);
    }
}
