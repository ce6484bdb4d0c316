//! The two graphs of a Bergamot model: a post-norm encoder, and a decoder whose self-attention is replaced by a
//! recurrent cell.
//!
//! ```text
//! encoder layer   x ─ qkv ─ RaggedAttention ─ out ─ LN(x + ·) ─ fc1 ─ relu ─ fc2 ─ LN(x + ·)
//! encoder end     x ─ key | value of each decoder layer ─ CacheWrite
//! decoder layer   x ─ forget | input ─ SimpleRecurrentCell ─ relu ─ LN(x + ·)
//!                   ─ q ─ CrossAttention ─ out ─ LN(x + ·) ─ fc1 ─ relu ─ fc2 ─ LN(x + ·)
//! decoder end     rows whose logits are wanted ─ head (the embedding) + bias
//! ```

use std::path::Path;

use textgen_artifact::{
    DECODER_FILE, Device, ENCODER_FILE, EmbeddingSpec, Embeddings, GenerationSpec, Geometry, Part,
    TokenizerSpec, ops::Activation,
};

use super::{
    Container, Package,
    config::Config,
    device::DeviceModel,
    positions::{self, MAX_POSITIONS},
    vocabulary::{EOS, Vocabulary},
};
use crate::{
    checkpoint::{Checkpoint, CudaPrecision, Description, Precision},
    error::{ConvertError, Result},
    graph::{
        CrossInputs, DecoderInputs, EncoderInputs, GraphBuilder, Heads, Linear, LinearFormat, Norm,
        RecurrentStates, Value, device::check_heads,
    },
    weights::{EmbeddingFormat, Matrix, StoredTable, TensorSource, Weight, WeightsWriter},
};

const FAMILY: &str = "bergamot";
const EPSILON: f32 = 1e-6;
/// Bergamot's `max-length-factor`.
const MAX_TARGET_PER_SOURCE: f32 = 2.5;

/// Source embedding, target embedding and head in one.
const EMBEDDING: &str = "Wemb";
/// Tensor of the fixed positions in `weights.bin`.
const POSITIONS: &str = "embedding.positions";
pub(super) const HEAD_BIAS: &str = "decoder_ff_logit_out_b";

/// A Bergamot model, ready to be converted.
pub struct Bergamot {
    pub(super) container: Container,
    pub(super) config: Config,
    vocabulary: Vocabulary,
}

impl Bergamot {
    /// Reads and checks all but the tensors.
    pub fn open(package: &Package) -> Result<Self> {
        let container = Container::open(&package.model)?;
        let config = Config::read(&container)?;
        // The depths come from a text: nothing is built after them before the tensors say the same.
        check_depth(&container, "encoder", config.encoder_layers)?;
        check_depth(&container, "decoder", config.decoder_layers)?;
        let vocabulary = Vocabulary::read(package, config.vocab_size)?;
        Ok(Self { container, config, vocabulary })
    }

    fn geometry(&self) -> Geometry {
        let Config { d_model, heads, encoder_layers, decoder_layers, vocab_size, .. } = self.config;
        Geometry {
            d_model,
            encoder_layers,
            decoder_layers,
            vocab_size,
            head_dim: d_model / heads,
            self_kv_heads: 0,
            cross_kv_heads: heads,
            state_width: d_model,
            max_source_tokens: Some(MAX_POSITIONS),
            max_target_tokens: Some(MAX_POSITIONS),
        }
    }

    pub(super) fn heads(&self) -> Heads {
        let head_dim = self.config.d_model / self.config.heads;
        Heads { query: self.config.heads, kv: self.config.heads, scale: (head_dim as f32).sqrt().recip() }
    }

    fn encoder<'w>(
        &self,
        weights: &'w mut WeightsWriter,
        geometry: &Geometry,
        format: LinearFormat,
    ) -> Result<GraphBuilder<'w>> {
        let mut graph = GraphBuilder::new(Part::Encoder, weights);
        let inputs = EncoderInputs::declare(&mut graph, geometry);
        let mut x = inputs.x;
        for layer in 0..self.config.encoder_layers {
            let (address, tensors) = (format!("/encoder/layers.{layer}"), format!("encoder_l{}", layer + 1));
            let (attention, attention_tensors) = (format!("{address}/self_attn"), format!("{tensors}_self"));
            let qkv = self.projections(&attention_tensors, &["q", "k", "v"], format)?;
            let qkv = graph.linear(&format!("{attention}/qkv"), x, qkv)?;
            let mixed = graph.ragged_attention(&attention, qkv, inputs.row_offsets, None, self.heads());
            x = self.attention_end(&mut graph, &attention, &attention_tensors, x, mixed, format)?;
            x = self.feed_forward(&mut graph, &address, &tensors, x, format)?;
        }
        let mut present = Vec::with_capacity(inputs.cross.len());
        for (layer, &past) in inputs.cross.iter().enumerate() {
            let address = format!("/decoder/layers.{layer}/cross_attn");
            let tensors = format!("decoder_l{}_context", layer + 1);
            let kv = self.projections(&tensors, &["k", "v"], format)?;
            let kv = graph.linear(&format!("{address}/kv"), x, kv)?;
            let heads = self.config.heads;
            present.push(graph.cache_write(&address, kv, inputs.row_offsets, inputs.slots, past, heads));
        }
        EncoderInputs::finish(&mut graph, geometry, &present);
        Ok(graph)
    }

    fn decoder<'w>(
        &self,
        weights: &'w mut WeightsWriter,
        geometry: &Geometry,
        table: &StoredTable,
        format: LinearFormat,
    ) -> Result<GraphBuilder<'w>> {
        let mut graph = GraphBuilder::new(Part::Decoder, weights);
        let inputs = DecoderInputs::declare(&mut graph, geometry);
        let cross = CrossInputs::declare(&mut graph, geometry, inputs.row_offsets);
        let states = RecurrentStates::declare(&mut graph, geometry);
        let mut x = inputs.x;
        let mut present = Vec::with_capacity(states.past.len());
        for (layer, (&past, &cache)) in states.past.iter().zip(&cross.past).enumerate() {
            let (address, tensors) = (format!("/decoder/layers.{layer}"), format!("decoder_l{}", layer + 1));

            let (cell, cell_tensors) = (format!("{address}/rnn"), format!("{tensors}_rnn"));
            let (forget, input) = self.recurrent_inputs(&mut graph, &cell, &cell_tensors, x, format)?;
            let (c, state) =
                graph.simple_recurrent_cell(&cell, forget, input, inputs.row_offsets, states.entries, past);
            present.push(state);
            let c = graph.relu(&format!("{cell}/Relu"), c);
            let norm = self.norm(&format!("{cell_tensors}_ffn"))?;
            x = graph.add_layer_norm(&format!("{cell}/norm"), x, c, None, &norm)?;

            let (attention, attention_tensors) =
                (format!("{address}/cross_attn"), format!("{tensors}_context"));
            let q = self.projections(&attention_tensors, &["q"], format)?;
            let q = graph.linear(&format!("{attention}/q"), x, q)?;
            let mixed = graph.cross_attention(&attention, q, cross.rows, cache, self.heads());
            x = self.attention_end(&mut graph, &attention, &attention_tensors, x, mixed, format)?;
            x = self.feed_forward(&mut graph, &address, &tensors, x, format)?;
        }
        x = graph.gather_rows("/decoder/Gather", x, inputs.logit_rows);
        let logits = self.head(&mut graph, x, table, format)?;
        DecoderInputs::finish(&mut graph, geometry, logits);
        RecurrentStates::finish(&mut graph, geometry, &present);
        Ok(graph)
    }

    /// The cell's forget gate before its sigmoid, and its input; one product for both.
    fn recurrent_inputs(
        &self,
        graph: &mut GraphBuilder,
        address: &str,
        tensors: &str,
        x: Value<f32>,
        format: LinearFormat,
    ) -> Result<(Value<f32>, Value<f32>)> {
        let both = self.recurrent_layer(tensors, format)?;
        let both = graph.linear(&format!("{address}/forget_input"), x, both)?;
        Ok(graph.halves(&format!("{address}/Split"), both))
    }

    /// The product of both, the forget gate first.
    pub(super) fn recurrent_layer<F>(&self, tensors: &str, format: F) -> Result<Linear<'_, F>> {
        let d_model = self.config.d_model;
        let weight = Weight::stack(
            ["Wf", "W"].map(|part| self.weight(&format!("{tensors}_{part}"), d_model, d_model)),
        );
        let mut bias = self.container.vector(&format!("{tensors}_bf"), d_model)?;
        // The input has none.
        bias.resize(2 * d_model, 0.0);
        Ok(Linear { weight, bias: Some(bias), format })
    }

    /// The embedding as a product.
    pub(super) fn embedding_weight(&self) -> Weight<'_> {
        self.weight(EMBEDDING, self.config.vocab_size, self.config.d_model)
    }

    /// Projections of one input, stacked in the order of `parts`.
    pub(super) fn projections<F>(&self, tensors: &str, parts: &[&str], format: F) -> Result<Linear<'_, F>> {
        let d_model = self.config.d_model;
        let mut weights = Vec::with_capacity(parts.len());
        let mut bias = Vec::with_capacity(parts.len() * d_model);
        for part in parts {
            weights.push(self.weight(&format!("{tensors}_W{part}"), d_model, d_model));
            bias.extend(self.container.vector(&format!("{tensors}_b{part}"), d_model)?);
        }
        Ok(Linear { weight: Weight::stack(weights), bias: Some(bias), format })
    }

    /// Output projection, residual and norm.
    fn attention_end(
        &self,
        graph: &mut GraphBuilder,
        address: &str,
        tensors: &str,
        x: Value<f32>,
        mixed: Value<f32>,
        format: LinearFormat,
    ) -> Result<Value<f32>> {
        let d_model = self.config.d_model;
        let weight = self.weight(&format!("{tensors}_Wo"), d_model, d_model);
        let bias = self.container.vector(&format!("{tensors}_bo"), d_model)?;
        let out = Linear { weight, bias: None, format };
        let out = graph.linear(&format!("{address}/out"), mixed, out)?;
        let norm = self.norm(&format!("{tensors}_Wo"))?;
        graph.add_layer_norm(&format!("{address}/norm"), x, out, Some(&bias), &norm)
    }

    fn feed_forward(
        &self,
        graph: &mut GraphBuilder,
        layer: &str,
        tensors: &str,
        x: Value<f32>,
        format: LinearFormat,
    ) -> Result<Value<f32>> {
        let (address, tensors) = (format!("{layer}/mlp"), format!("{tensors}_ffn"));
        let Config { d_model, d_ffn, .. } = self.config;
        let weight = self.weight(&format!("{tensors}_W1"), d_ffn, d_model);
        let bias = Some(self.container.vector(&format!("{tensors}_b1"), d_ffn)?);
        let fc1 = Linear { weight, bias, format };
        let hidden = graph.activated_linear(&format!("{address}/fc1"), x, fc1, Activation::Relu)?;
        let weight = self.weight(&format!("{tensors}_W2"), d_model, d_ffn);
        let bias = self.container.vector(&format!("{tensors}_b2"), d_model)?;
        let out = graph.linear(&format!("{address}/fc2"), hidden, Linear { weight, bias: None, format })?;
        let norm = self.norm(&format!("{tensors}_ffn"))?;
        graph.add_layer_norm(&format!("{address}/norm"), x, out, Some(&bias), &norm)
    }

    pub(super) fn weight(&self, tensor: &str, rows: usize, columns: usize) -> Weight<'_> {
        Weight::stored(&self.container, tensor, rows, columns)
    }

    pub(super) fn norm(&self, tensors: &str) -> Result<Norm> {
        let d_model = self.config.d_model;
        Ok(Norm {
            scale: self.container.vector(&format!("{tensors}_ln_scale"), d_model)?,
            bias: Some(self.container.vector(&format!("{tensors}_ln_bias"), d_model)?),
            epsilon: EPSILON,
        })
    }

    fn head(
        &self,
        graph: &mut GraphBuilder,
        x: Value<f32>,
        table: &StoredTable,
        format: LinearFormat,
    ) -> Result<Value<f32>> {
        const ADDRESS: &str = "/lm_head";
        let Config { d_model, vocab_size, .. } = self.config;
        let bias = self.container.vector(HEAD_BIAS, vocab_size)?;
        if format == LinearFormat::F32 {
            return graph.tied_linear(ADDRESS, x, table, [vocab_size, d_model], Some(&bias));
        }
        let weight = self.weight(EMBEDDING, vocab_size, d_model);
        graph.linear(ADDRESS, x, Linear { weight, bias: Some(bias), format })
    }

    /// Writes the table, with a row of zeros after the vocabulary: the decoder starts from nothing.
    fn write_embedding(
        &self,
        weights: &mut WeightsWriter,
        format: EmbeddingFormat,
    ) -> Result<(StoredTable, EmbeddingSpec)> {
        let Config { d_model, vocab_size, .. } = self.config;
        let zeros = Matrix::quantized(1, d_model, vec![0; d_model], vec![0.0]);
        let table = Weight::stack([self.weight(EMBEDDING, vocab_size, d_model), zeros.into()]);
        let table = weights.embedding("embedding.weight", &table, format)?;
        weights.write(POSITIONS, &[MAX_POSITIONS, d_model], &positions::table(d_model))?;
        let spec = EmbeddingSpec {
            table: table.table.clone(),
            row_scale: table.row_scale.clone(),
            scale: (d_model as f32).sqrt(),
            positions: Some(POSITIONS.to_owned()),
        };
        Ok((table, spec))
    }
}

/// A stack of `layers` layers has a tensor in its last layer, and none after that.
fn check_depth(container: &Container, stack: &str, layers: usize) -> Result<()> {
    let tensor = |layer: usize| format!("{stack}_l{layer}_ffn_W1");
    let refuse = |got: &str| {
        Err(ConvertError::Damaged {
            path: container.path().display().to_string(),
            what: format!("the {stack}"),
            got: got.to_owned(),
            expected: format!("{layers} layers as its configuration says"),
        })
    };
    if !container.contains(&tensor(layers)) {
        return refuse("shallower");
    }
    match layers.checked_add(1) {
        Some(next) if container.contains(&tensor(next)) => refuse("deeper"),
        _ => Ok(()),
    }
}

impl Checkpoint for Bergamot {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn write(&self, dir: &Path, weights: &mut WeightsWriter, precision: Precision) -> Result<Description> {
        let (linear, embedding) = match precision {
            Precision::Fp32 => (LinearFormat::F32, EmbeddingFormat::F32),
            // The checkpoint is quantized already, and its values are kept as they are.
            Precision::Int8 | Precision::Int4 => (LinearFormat::Int8Column, EmbeddingFormat::Int8Row),
        };
        let geometry = self.geometry();
        let (table, embedding) = self.write_embedding(weights, embedding)?;
        self.encoder(weights, &geometry, linear)?.write(&dir.join(ENCODER_FILE))?;
        self.decoder(weights, &geometry, &table, linear)?.write(&dir.join(DECODER_FILE))?;
        self.vocabulary.files.write(dir)?;
        Ok(self.description(Device::Cpu, geometry, embedding))
    }

    fn write_cuda(
        &self,
        dir: &Path,
        weights: &mut WeightsWriter,
        precision: CudaPrecision,
    ) -> Result<Description> {
        let geometry = self.geometry();
        check_heads(&self.container.path().display().to_string(), geometry.head_dim)?;
        let (table, embedding) = self.write_embedding(weights, EmbeddingFormat::F16)?;
        let model = DeviceModel { model: self, precision, table: &table, positions: POSITIONS };
        let device = precision.write(&model, dir, &geometry, weights)?;
        self.vocabulary.files.write(dir)?;
        Ok(self.description(device, geometry, embedding))
    }
}

impl Bergamot {
    fn description(&self, device: Device, geometry: Geometry, embedding: EmbeddingSpec) -> Description {
        Description {
            device,
            geometry,
            embeddings: Embeddings { encoder: Some(embedding.clone()), decoder: embedding },
            rotary: Vec::new(),
            tokenizer: TokenizerSpec {
                add_special_tokens: false,
                source_suffix: vec![EOS],
                normalizer: self.vocabulary.files.normalizer.is_some(),
            },
            chat: None,
            generation: GenerationSpec {
                decoder_start_token_id: Some(self.vocabulary.size),
                eos_token_ids: vec![EOS],
                pad_token_id: None,
                suppress_tokens: self.vocabulary.unknown.into_iter().collect(),
                max_new_tokens: None,
                max_new_tokens_per_source_token: Some(MAX_TARGET_PER_SOURCE),
                do_sample: false,
                temperature: None,
                top_k: None,
                top_p: None,
                min_p: None,
                repetition_penalty: None,
            },
            trimmed: None,
        }
    }
}
