//! Inputs and outputs of the two graphs, as [`textgen_artifact::graph`] names them.

use textgen_artifact::{Geometry, RotarySpec, graph as names};

use super::{Dim, GraphBuilder, KvCache, RowSlots, StateEntries, Value};

const TOKENS: Dim = Dim::Symbol("tokens");
const ROWS: Dim = Dim::Symbol("rows");
const OFFSETS: Dim = Dim::Symbol("rows_and_one");
const SELF_SLOTS: Dim = Dim::Symbol("self_cache_slots");
const SELF_POSITIONS: Dim = Dim::Symbol("self_positions");
const CROSS_SLOTS: Dim = Dim::Symbol("cross_cache_slots");
const CROSS_POSITIONS: Dim = Dim::Symbol("cross_positions");
const STATE_ENTRIES: Dim = Dim::Symbol("state_entries");
const LOGIT_ROWS: Dim = Dim::Symbol("logit_tokens");

/// Inputs of the encoder graph.
pub struct EncoderInputs {
    pub x: Value<f32>,
    pub row_offsets: Value<i32>,
    pub slots: Value<i32>,
    /// The cross-attention cache of each decoder layer.
    pub cross: Vec<KvCache>,
}

impl EncoderInputs {
    pub fn declare(graph: &mut GraphBuilder, geometry: &Geometry) -> Self {
        Self {
            x: graph.input(names::X, &[TOKENS, Dim::Fixed(geometry.d_model)]),
            row_offsets: graph.input(names::ROW_OFFSETS, &[OFFSETS]),
            slots: graph.input(names::SLOTS, &[ROWS]),
            cross: past_cross(graph, geometry),
        }
    }

    /// Declares the cross-attention caches after the write as the graph's outputs.
    pub fn finish(graph: &mut GraphBuilder, geometry: &Geometry, present: &[KvCache]) {
        let shape = cross_shape(geometry);
        for (layer, cache) in present.iter().enumerate() {
            graph.output(cache.key, &names::present_cross_key(layer), &shape);
            graph.output(cache.value, &names::present_cross_value(layer), &shape);
        }
    }
}

/// Inputs of every decoder graph.
pub struct DecoderInputs {
    pub x: Value<f32>,
    pub row_offsets: Value<i32>,
    pub logit_rows: Value<i64>,
}

impl DecoderInputs {
    pub fn declare(graph: &mut GraphBuilder, geometry: &Geometry) -> Self {
        let x = graph.input(names::X, &[TOKENS, Dim::Fixed(geometry.d_model)]);
        let row_offsets = graph.input(names::ROW_OFFSETS, &[OFFSETS]);
        let logit_rows = graph.input(names::LOGIT_ROWS, &[LOGIT_ROWS]);
        Self { x, row_offsets, logit_rows }
    }

    /// Declares the rotations of the tokens' positions, one input for each rotary embedding.
    pub fn rotary(&self, graph: &mut GraphBuilder, specs: &[RotarySpec]) -> Vec<Value<f32>> {
        let width = |spec: &RotarySpec| Dim::Fixed(2 * spec.inverse_frequencies.len());
        let inputs = specs.iter().enumerate();
        inputs.map(|(index, spec)| graph.input(&names::rotary(index), &[TOKENS, width(spec)])).collect()
    }

    /// Declares the logits as the graph's output.
    pub fn finish(graph: &mut GraphBuilder, geometry: &Geometry, logits: Value<f32>) {
        graph.output(logits, names::LOGITS, &[LOGIT_ROWS, Dim::Fixed(geometry.vocab_size)]);
    }
}

/// Inputs of a decoder's cross-attention.
pub struct CrossInputs {
    pub rows: RowSlots,
    /// The cache of each layer.
    pub past: Vec<KvCache>,
}

impl CrossInputs {
    pub fn declare(graph: &mut GraphBuilder, geometry: &Geometry, row_offsets: Value<i32>) -> Self {
        let rows = RowSlots {
            row_offsets,
            slots: graph.input(names::CROSS_SLOTS, &[ROWS]),
            lengths: graph.input(names::CROSS_LENGTHS, &[ROWS]),
        };
        Self { rows, past: past_cross(graph, geometry) }
    }
}

/// Self-attention caches of a decoder.
pub struct SelfCaches {
    pub rows: RowSlots,
    /// One for each layer.
    pub past: Vec<KvCache>,
}

impl SelfCaches {
    pub fn declare(graph: &mut GraphBuilder, geometry: &Geometry, row_offsets: Value<i32>) -> Self {
        let rows = RowSlots {
            row_offsets,
            slots: graph.input(names::SLOTS, &[ROWS]),
            lengths: graph.input(names::POSITIONS, &[ROWS]),
        };
        let shape = self_shape(geometry);
        let past = (0..geometry.decoder_layers).map(|layer| KvCache {
            key: graph.input(&names::past_self_key(layer), &shape),
            value: graph.input(&names::past_self_value(layer), &shape),
        });
        Self { rows, past: past.collect() }
    }

    /// Declares the caches after the step as outputs of the graph.
    pub fn finish(graph: &mut GraphBuilder, geometry: &Geometry, present: &[KvCache]) {
        let shape = self_shape(geometry);
        for (layer, cache) in present.iter().enumerate() {
            graph.output(cache.key, &names::present_self_key(layer), &shape);
            graph.output(cache.value, &names::present_self_value(layer), &shape);
        }
    }
}

/// Recurrent states of a decoder.
pub struct RecurrentStates {
    pub entries: StateEntries,
    /// One for each layer.
    pub past: Vec<Value<f32>>,
}

impl RecurrentStates {
    pub fn declare(graph: &mut GraphBuilder, geometry: &Geometry) -> Self {
        let entries = StateEntries {
            reads: graph.input(names::STATE_READS, &[ROWS]),
            writes: graph.input(names::STATE_WRITES, &[ROWS]),
        };
        let shape = state_shape(geometry);
        let past = (0..geometry.decoder_layers).map(|layer| graph.input(&names::past_state(layer), &shape));
        Self { entries, past: past.collect() }
    }

    /// Declares the states after the step as outputs of the graph.
    pub fn finish(graph: &mut GraphBuilder, geometry: &Geometry, present: &[Value<f32>]) {
        let shape = state_shape(geometry);
        for (layer, &state) in present.iter().enumerate() {
            graph.output(state, &names::present_state(layer), &shape);
        }
    }
}

fn past_cross(graph: &mut GraphBuilder, geometry: &Geometry) -> Vec<KvCache> {
    let shape = cross_shape(geometry);
    let caches = (0..geometry.decoder_layers).map(|layer| KvCache {
        key: graph.input(&names::past_cross_key(layer), &shape),
        value: graph.input(&names::past_cross_value(layer), &shape),
    });
    caches.collect()
}

fn cross_shape(geometry: &Geometry) -> [Dim; 4] {
    [CROSS_SLOTS, Dim::Fixed(geometry.cross_kv_heads), CROSS_POSITIONS, Dim::Fixed(geometry.head_dim)]
}

fn self_shape(geometry: &Geometry) -> [Dim; 4] {
    [SELF_SLOTS, Dim::Fixed(geometry.self_kv_heads), SELF_POSITIONS, Dim::Fixed(geometry.head_dim)]
}

fn state_shape(geometry: &Geometry) -> [Dim; 2] {
    [STATE_ENTRIES, Dim::Fixed(geometry.state_width)]
}
