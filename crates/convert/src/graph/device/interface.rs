//! Inputs and outputs of a device's graphs, as [`textgen_artifact::device_graph`] names them.

use textgen_artifact::{Geometry, device_graph as names, graph as cache_names};

use super::{DeviceGraph, Node, Value};
use crate::{graph::Dim, weights::Float};

/// Candidates that a graph chooses for each row of logits: as many as a sampler ever looks at, few enough that their
/// way to the host costs nothing.
pub const CANDIDATES: usize = 64;

const ROWS: Dim = Dim::Symbol("rows");
const TOKENS: Dim = Dim::Symbol("tokens");
const SELF_POSITIONS: Dim = Dim::Symbol("self_positions");
const CROSS_POSITIONS: Dim = Dim::Symbol("cross_positions");
const LOGIT_ROWS: Dim = Dim::Symbol("logit_tokens");

/// Keys and values of one layer, for all rows.
#[derive(Debug, Clone, Copy)]
pub struct DeviceCache<T> {
    pub key: Value<T>,
    pub value: Value<T>,
}

/// Inputs of the encoder graph.
pub struct EncoderInputs {
    pub input_ids: Value<i64>,
    pub lengths: Value<i64>,
}

impl EncoderInputs {
    pub fn declare<T: Float>(graph: &mut DeviceGraph<T>) -> Self {
        Self {
            input_ids: graph.inner.input(names::INPUT_IDS, &[ROWS, TOKENS]),
            lengths: graph.inner.input(names::LENGTHS, &[ROWS]),
        }
    }

    /// Declares the projected keys and values of a decoder layer as outputs; `kv` is all keys, then the values.
    pub fn finish_layer<T: Float>(
        graph: &mut DeviceGraph<T>,
        geometry: &Geometry,
        address: &str,
        layer: usize,
        kv: Value<T>,
    ) {
        let width = geometry.cross_kv_heads * geometry.head_dim;
        let [key, value] = graph.split(&format!("{address}/Split"), kv, [width; 2]);
        let shape = [ROWS, TOKENS, Dim::Fixed(width)];
        graph.inner.output(key, &cache_names::present_cross_key(layer), &shape);
        graph.inner.output(value, &cache_names::present_cross_value(layer), &shape);
    }
}

/// Inputs of every decoder graph.
pub struct DecoderInputs {
    pub input_ids: Value<i64>,
    pub position_ids: Value<i64>,
    pub logit_rows: Value<i64>,
}

impl DecoderInputs {
    pub fn declare<T: Float>(graph: &mut DeviceGraph<T>) -> Self {
        Self {
            input_ids: graph.inner.input(names::INPUT_IDS, &[ROWS, TOKENS]),
            position_ids: graph.inner.input(names::POSITION_IDS, &[ROWS, TOKENS]),
            logit_rows: graph.inner.input(names::LOGIT_ROWS, &[LOGIT_ROWS]),
        }
    }

    /// The hidden states `[M, d_model]` of the tokens whose logits are wanted.
    pub fn wanted<T: Float>(
        &self,
        graph: &mut DeviceGraph<T>,
        geometry: &Geometry,
        hidden: Value<f32>,
    ) -> Value<f32> {
        let width = geometry.d_model as i64;
        let hidden = graph.reshape("/decoder/tokens", hidden, "shape.tokens", &[-1, width]);
        graph.gather("/decoder/Gather", hidden, self.logit_rows)
    }
}

/// What a decoder graph says of its logits.
pub struct Scores;

impl Scores {
    /// Declares the logits, the largest of them and their log-sum-exp as outputs; returns the number of candidates.
    pub fn finish<T: Float>(graph: &mut DeviceGraph<T>, geometry: &Geometry, logits: Value<f32>) -> usize {
        let count = CANDIDATES.min(geometry.vocab_size);
        let inner = &mut graph.inner;
        let k = inner.constant("candidates", &[count as i64]);
        let top = inner.add("/candidates/TopK", Node::onnx("TopK").input(logits).input(k).int("axis", 1));
        let values: Value<f32> = inner.result(top, 0);
        let ids: Value<i64> = inner.result(top, 1);
        // The largest is known: no reduction has to look for it, which without cuDNN no kernel could.
        let first = inner.constant("axis.0", &[0]);
        let node = Node::onnx("Gather").input(values).input(first).int("axis", 1);
        let largest: Value<f32> = inner.apply("/log_sum_exp/Gather", node);
        let below = graph.binary("/log_sum_exp/Sub", "Sub", logits, largest);
        let inner = &mut graph.inner;
        let exponentials: Value<f32> = inner.apply("/log_sum_exp/Exp", Node::onnx("Exp").input(below));
        let axes = inner.constant("axis.1", &[1]);
        let node = Node::onnx("ReduceSum").input(exponentials).input(axes);
        let sum: Value<f32> = inner.apply("/log_sum_exp/ReduceSum", node);
        let log: Value<f32> = inner.apply("/log_sum_exp/Log", Node::onnx("Log").input(sum));
        let total = graph.binary("/log_sum_exp/Add", "Add", log, largest);
        let log_sum_exp = graph.reshape("/log_sum_exp/rows", total, "shape.rows", &[-1]);

        graph.inner.output(logits, names::LOGITS, &[LOGIT_ROWS, Dim::Fixed(geometry.vocab_size)]);
        graph.inner.output(values, names::CANDIDATE_VALUES, &[LOGIT_ROWS, Dim::Fixed(count)]);
        graph.inner.output(ids, names::CANDIDATE_IDS, &[LOGIT_ROWS, Dim::Fixed(count)]);
        graph.inner.output(log_sum_exp, names::LOG_SUM_EXP, &[LOGIT_ROWS]);
        count
    }
}

/// Self-attention caches of a decoder.
pub struct SelfCaches<T> {
    pub seqlens_k: Value<i32>,
    pub total_sequence_length: Value<i32>,
    /// One for each layer.
    pub past: Vec<DeviceCache<T>>,
    /// After the step, for the layers that are in the graph so far.
    pub present: Vec<DeviceCache<T>>,
}

impl<T: Float> SelfCaches<T> {
    pub fn declare(graph: &mut DeviceGraph<T>, geometry: &Geometry) -> Self {
        let shape = self_shape(geometry);
        let inner = &mut graph.inner;
        Self {
            seqlens_k: inner.input(names::SEQLENS_K, &[ROWS]),
            total_sequence_length: inner.input(names::TOTAL_SEQUENCE_LENGTH, &[]),
            past: (0..geometry.decoder_layers)
                .map(|layer| DeviceCache {
                    key: inner.input(&cache_names::past_self_key(layer), &shape),
                    value: inner.input(&cache_names::past_self_value(layer), &shape),
                })
                .collect(),
            present: Vec::new(),
        }
    }

    /// Declares the caches after the step as outputs of the graph.
    pub fn finish(&self, graph: &mut DeviceGraph<T>, geometry: &Geometry) {
        let shape = self_shape(geometry);
        for (layer, cache) in self.present.iter().enumerate() {
            graph.inner.output(cache.key, &cache_names::present_self_key(layer), &shape);
            graph.inner.output(cache.value, &cache_names::present_self_value(layer), &shape);
        }
    }
}

/// Inputs of a decoder's cross-attention.
pub struct CrossInputs<T> {
    pub lengths: Value<i64>,
    /// The cache of each layer.
    pub past: Vec<DeviceCache<T>>,
}

impl<T: Float> CrossInputs<T> {
    pub fn declare(graph: &mut DeviceGraph<T>, geometry: &Geometry) -> Self {
        let width = geometry.cross_kv_heads * geometry.head_dim;
        let shape = [ROWS, CROSS_POSITIONS, Dim::Fixed(width)];
        let inner = &mut graph.inner;
        Self {
            lengths: inner.input(names::CROSS_LENGTHS, &[ROWS]),
            past: (0..geometry.decoder_layers)
                .map(|layer| DeviceCache {
                    key: inner.input(&cache_names::past_cross_key(layer), &shape),
                    value: inner.input(&cache_names::past_cross_value(layer), &shape),
                })
                .collect(),
        }
    }
}

/// Recurrent states of a decoder, `[B, width]`.
pub struct RecurrentStates {
    /// One for each layer.
    pub past: Vec<Value<f32>>,
}

impl RecurrentStates {
    pub fn declare<T: Float>(graph: &mut DeviceGraph<T>, geometry: &Geometry) -> Self {
        let shape = [ROWS, Dim::Fixed(geometry.state_width)];
        let layers = 0..geometry.decoder_layers;
        Self {
            past: layers.map(|layer| graph.inner.input(&cache_names::past_state(layer), &shape)).collect(),
        }
    }

    /// Declares a layer's state after the step, `[B, 1, width]`, as an output of the graph.
    pub fn finish_layer<T: Float>(
        graph: &mut DeviceGraph<T>,
        geometry: &Geometry,
        address: &str,
        layer: usize,
        state: Value<f32>,
    ) {
        let width = geometry.state_width as i64;
        let state = graph.reshape(&format!("{address}/state"), state, "shape.state", &[-1, width]);
        let shape = [ROWS, Dim::Fixed(geometry.state_width)];
        graph.inner.output(state, &cache_names::present_state(layer), &shape);
    }
}

fn self_shape(geometry: &Geometry) -> [Dim; 4] {
    [ROWS, Dim::Fixed(geometry.self_kv_heads), SELF_POSITIONS, Dim::Fixed(geometry.head_dim)]
}
