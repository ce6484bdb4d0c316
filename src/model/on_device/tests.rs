//! The executor over a decoder in miniature, on the recording device: each sequence gets the logits that it would get
//! alone, whatever else is in the slots, and no rule of a device is broken.
//!
//! The graph has one layer of ONNX Runtime's own attention, with an embedding and positions before it and a head after.

use std::{collections::HashMap, env, fs, path::PathBuf};

use serde_json::json;
use textgen_artifact::{DType, device_graph, graph};

use super::*;
use crate::{
    engine::{DecodeBatch, Executor, ExecutorLimits},
    model::device::recording::{RecordingDevice, Traffic},
};

mod converted;
mod engine;
mod memory_fits;

const VOCAB: usize = 40;
const WIDTH: usize = 8;
const POSITIONS: usize = 13;
const CANDIDATES: usize = 6;
const SPEC: CudaSpec = CudaSpec { caches: DType::F32, candidates: CANDIDATES };
const LIMITS: ExecutorLimits = ExecutorLimits {
    slots: 5,
    max_target_tokens: POSITIONS - 1,
    vocab_size: VOCAB,
    can_rewind: true,
    encoder: None,
};

/// ONNX's protocol buffers, as far as the graph needs them.
mod proto {
    pub const FLOAT: u64 = 1;
    pub const INT32: u64 = 6;
    pub const INT64: u64 = 7;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value > 127 {
            bytes.push(value as u8 | 128);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    pub fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    pub fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
        [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
    }

    pub fn node(
        domain: &str,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        integers: &[(&str, i64)],
    ) -> Vec<u8> {
        let mut node = Vec::new();
        inputs.iter().for_each(|name| node.extend(bytes(1, name.as_bytes())));
        outputs.iter().for_each(|name| node.extend(bytes(2, name.as_bytes())));
        node.extend(bytes(4, operator.as_bytes()));
        for (name, value) in integers {
            let attribute = [bytes(1, name.as_bytes()), number(3, *value as u64), number(20, 2)].concat();
            node.extend(bytes(5, &attribute));
        }
        node.extend(bytes(7, domain.as_bytes()));
        bytes(1, &node)
    }

    pub fn initializer(name: &str, element: u64, dims: &[usize], data: &[u8]) -> Vec<u8> {
        let mut tensor: Vec<u8> = dims.iter().flat_map(|&dim| number(1, dim as u64)).collect();
        tensor.extend([number(2, element), bytes(8, name.as_bytes()), bytes(9, data)].concat());
        bytes(5, &tensor)
    }

    /// An input (field 11) or an output (field 12); a dimension of 0 is open.
    pub fn tensor(field: u64, name: &str, element: u64, dims: &[usize]) -> Vec<u8> {
        let dims: Vec<u8> = dims
            .iter()
            .flat_map(|&dim| {
                bytes(1, &if dim == 0 { bytes(2, name.as_bytes()) } else { number(1, dim as u64) })
            })
            .collect();
        let kind = bytes(1, &[number(1, element), bytes(2, &dims)].concat());
        bytes(field, &[bytes(1, name.as_bytes()), bytes(2, &kind)].concat())
    }
}

/// Numbers without a pattern, around 0.
fn weights(count: usize, seed: u32) -> Vec<u8> {
    (0..count as u32)
        .flat_map(|i| {
            let bits = (i + seed).wrapping_mul(2_654_435_761);
            ((bits >> 8) as f32 / 8_388_608.0 - 1.0).to_le_bytes()
        })
        .collect()
}

fn decoder() -> Vec<u8> {
    use proto::{FLOAT, INT32, INT64, bytes, initializer, node, number, tensor};
    let [past_key, past_value] = [graph::past_self_key(0), graph::past_self_value(0)];
    let [present_key, present_value] = [graph::present_self_key(0), graph::present_self_value(0)];
    let integer = |value: i64| value.to_le_bytes();
    let cache = [0, 1, 0, WIDTH];
    let graph = [
        node("", "Gather", &["table", device_graph::INPUT_IDS], &["embedded"], &[]),
        node("", "Gather", &["places", device_graph::POSITION_IDS], &["placed"], &[]),
        node("", "Add", &["embedded", "placed"], &["x"], &[]),
        node(
            "com.microsoft",
            "GroupQueryAttention",
            &[
                "x",
                "x",
                "x",
                &past_key,
                &past_value,
                device_graph::SEQLENS_K,
                device_graph::TOTAL_SEQUENCE_LENGTH,
            ],
            &["attended", &present_key, &present_value],
            &[("num_heads", 1), ("kv_num_heads", 1)],
        ),
        node("", "Reshape", &["attended", "flat"], &["tokens"], &[]),
        node("", "Gather", &["tokens", device_graph::LOGIT_ROWS], &["wanted"], &[]),
        node("", "MatMul", &["wanted", "head"], &[device_graph::LOGITS], &[]),
        node(
            "",
            "TopK",
            &[device_graph::LOGITS, "candidates"],
            &[device_graph::CANDIDATE_VALUES, device_graph::CANDIDATE_IDS],
            &[],
        ),
        node(
            "",
            "ReduceLogSumExp",
            &[device_graph::LOGITS, "last"],
            &[device_graph::LOG_SUM_EXP],
            &[("keepdims", 0)],
        ),
        bytes(2, b"decoder"),
        initializer("table", FLOAT, &[VOCAB, WIDTH], &weights(VOCAB * WIDTH, 1)),
        initializer("places", FLOAT, &[POSITIONS, WIDTH], &weights(POSITIONS * WIDTH, 5000)),
        initializer("head", FLOAT, &[WIDTH, VOCAB], &weights(WIDTH * VOCAB, 9000)),
        initializer("flat", INT64, &[2], &[integer(-1), integer(WIDTH as i64)].concat()),
        initializer("candidates", INT64, &[1], &integer(CANDIDATES as i64)),
        initializer("last", INT64, &[1], &integer(-1)),
        tensor(11, device_graph::INPUT_IDS, INT64, &[0, 0]),
        tensor(11, device_graph::POSITION_IDS, INT64, &[0, 0]),
        tensor(11, device_graph::SEQLENS_K, INT32, &[0]),
        tensor(11, device_graph::TOTAL_SEQUENCE_LENGTH, INT32, &[]),
        tensor(11, device_graph::LOGIT_ROWS, INT64, &[0]),
        tensor(11, &past_key, FLOAT, &cache),
        tensor(11, &past_value, FLOAT, &cache),
        tensor(12, device_graph::LOGITS, FLOAT, &[0, VOCAB]),
        tensor(12, device_graph::CANDIDATE_VALUES, FLOAT, &[0, CANDIDATES]),
        tensor(12, device_graph::CANDIDATE_IDS, INT64, &[0, CANDIDATES]),
        tensor(12, device_graph::LOG_SUM_EXP, FLOAT, &[0]),
        tensor(12, &present_key, FLOAT, &cache),
        tensor(12, &present_value, FLOAT, &cache),
    ]
    .concat();
    let opset = |domain: &str, version| bytes(8, &[bytes(1, domain.as_bytes()), number(2, version)].concat());
    [number(1, 10), bytes(7, &graph), opset("", 21), opset("com.microsoft", 1)].concat()
}

fn manifest() -> Manifest {
    serde_json::from_value(json!({
        "format_version": textgen_artifact::FORMAT_VERSION, "ops_version": 1, "producer": "test", "family": "test",
        "geometry": {
            "d_model": WIDTH, "encoder_layers": 0, "decoder_layers": 1, "vocab_size": VOCAB, "head_dim": WIDTH,
            "self_kv_heads": 1, "cross_kv_heads": 0, "state_width": 0, "max_target_tokens": POSITIONS - 1
        },
        "embeddings": {"decoder": {"table": "table", "scale": 1.0}},
        "tokenizer": {"add_special_tokens": false, "source_suffix": []},
        "generation": {"eos_token_ids": [0], "do_sample": false},
        "tensors": [{"name": "table", "dtype": "f32", "shape": [VOCAB, WIDTH], "offset": 0}], "precision_plan": [],
    }))
    .unwrap()
}

fn runtime() -> &'static Runtime {
    let library = env::var_os("TEXTGEN_RUNTIME_LIBRARY").map(PathBuf::from);
    let library = library.expect("TEXTGEN_RUNTIME_LIBRARY must name libonnxruntime.so; `make test` sets it");
    Runtime::load(&library).unwrap()
}

/// What `options` ask for of the artifact in `folder`, on `device`.
fn reserved_on(
    device: &Arc<RecordingDevice>,
    folder: &Path,
    manifest: &Manifest,
    spec: CudaSpec,
    options: &ExecutorOptions,
) -> Result<DeviceExecutor> {
    let session = |path: &Path, _| runtime().session(path, SessionDevice::Cpu, 1);
    let graphs = Graphs::load(folder, manifest, spec, device.clone(), &session)?;
    reserve(graphs, manifest, spec, options, &**device)
}

/// An executor, and the tokens that each slot holds.
struct Bench {
    executor: DeviceExecutor,
    device: Arc<RecordingDevice>,
    held: HashMap<usize, Vec<u32>>,
}

impl Bench {
    fn new(records: bool) -> Self {
        let runtime = runtime();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(textgen_artifact::DECODER_FILE), decoder()).unwrap();
        let device = Arc::new(RecordingDevice::default());
        let session = |path: &Path, _| runtime.session(path, SessionDevice::Cpu, 1);
        let graphs = Graphs::load(folder.path(), &manifest(), SPEC, device.clone(), &session).unwrap();
        let mut executor = DeviceExecutor::reserve(graphs, &manifest(), SPEC, LIMITS).unwrap();
        if records {
            executor.record().unwrap();
        }
        Self { executor, device, held: HashMap::new() }
    }

    /// Feeds `tokens` to slots, all in one step, and holds the logits after each against those of the sequence alone.
    fn step(&mut self, feeds: &[(usize, &[u32])]) -> Traffic {
        let mut batch = DecodeBatch::default();
        for &(slot, tokens) in feeds {
            let position = self.held.get(&slot).map_or(0, Vec::len);
            batch.push(&tokens[..1], slot, position, None);
            batch.want_logits();
            batch.push_draft(&tokens[1..]);
        }
        self.executor.compact(&batch).unwrap();
        self.device.traffic();
        self.device.begin_step();
        self.executor.decode(&batch).unwrap();
        self.device.end_step();
        let traffic = self.device.traffic();
        let mut row = 0;
        for &(slot, tokens) in feeds {
            for &token in tokens {
                let held = self.held.entry(slot).or_default();
                held.push(token);
                let expected = alone(held);
                let got = self.executor.logits_mut(row).unwrap().to_vec();
                let same = got.iter().zip(&expected).all(|(got, expected)| (got - expected).abs() < 1e-5);
                assert!(same, "slot {slot} after {held:?}: {got:?}, alone {expected:?}");
                self.check_top(row, &got);
                row += 1;
            }
        }
        traffic
    }

    fn check_top(&mut self, row: usize, logits: &[f32]) {
        let top = self.executor.top_logits(row).unwrap();
        assert_eq!((top.tokens.len(), top.vocab_size), (CANDIDATES, VOCAB));
        for (&token, &logit) in top.tokens.iter().zip(top.logits) {
            assert_eq!(logits[token as usize], logit);
            assert!(logits.iter().filter(|&&other| other > logit).count() < CANDIDATES);
        }
        let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
        assert!((top.log_sum_exp - sum.ln()).abs() < 1e-4);
    }

    /// The slot goes back to its first `tokens`.
    fn rewind(&mut self, slot: usize, tokens: usize) {
        self.held.get_mut(&slot).unwrap().truncate(tokens);
    }

    fn fork(&mut self, from: usize, to: usize, tokens: usize) {
        self.executor.copy_prefix(from, to, tokens).unwrap();
        let held = self.held[&from][..tokens].to_vec();
        self.held.insert(to, held);
    }
}

/// Logits after `tokens`, by plain loops over the graph's weights.
fn alone(tokens: &[u32]) -> Vec<f32> {
    let floats = |count, seed| -> Vec<f32> {
        weights(count, seed).chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    let (table, places) = (floats(VOCAB * WIDTH, 1), floats(POSITIONS * WIDTH, 5000));
    let head = floats(WIDTH * VOCAB, 9000);
    let x: Vec<Vec<f32>> = tokens
        .iter()
        .enumerate()
        .map(|(position, &token)| {
            (0..WIDTH).map(|i| table[token as usize * WIDTH + i] + places[position * WIDTH + i]).collect()
        })
        .collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let query = x.last().unwrap();
    let scores: Vec<f32> = x.iter().map(|key| (dot(query, key) / (WIDTH as f32).sqrt()).exp()).collect();
    let total: f32 = scores.iter().sum();
    let attended: Vec<f32> =
        (0..WIDTH).map(|i| scores.iter().zip(&x).map(|(score, x)| score / total * x[i]).sum()).collect();
    (0..VOCAB).map(|token| (0..WIDTH).map(|i| attended[i] * head[i * VOCAB + token]).sum()).collect()
}

fn scenario(bench: &mut Bench) {
    bench.step(&[(3, &[5, 6, 7])]);
    bench.step(&[(1, &[8])]);
    // Slots 0 and 2 are holes that hold nothing.
    bench.step(&[(3, &[9]), (1, &[10])]);
    // A draft, of which but one token is kept, beside a stream and a prompt.
    bench.step(&[(3, &[11, 12, 13]), (1, &[14]), (2, &[20, 21])]);
    bench.rewind(3, 5);
    // Slot 3 is a hole that holds more than counts.
    bench.step(&[(1, &[15]), (4, &[30])]);
    bench.step(&[(3, &[16]), (4, &[31])]);
    bench.step(&[(2, &[22]), (3, &[17])]);
    bench.fork(3, 0, 4);
    bench.step(&[(0, &[32]), (3, &[18]), (1, &[19]), (4, &[33]), (2, &[23])]);
    // To the end of a slot, and holes behind it.
    bench.step(&[(1, &[1, 2, 3, 4, 5, 6])]);
    let room = LIMITS.max_target_tokens - bench.held[&1].len();
    bench.step(&[(1, &[7; 12][..room])]);
    bench.step(&[(0, &[34]), (4, &[35])]);
}

#[test]
fn a_sequence_gets_the_logits_that_it_would_get_alone() {
    scenario(&mut Bench::new(false));
}

#[test]
fn so_it_does_when_steps_are_recorded_and_replayed() {
    let mut bench = Bench::new(true);
    scenario(&mut bench);
    let replayed = bench.step(&[(0, &[36]), (4, &[37])]).runs;
    assert_eq!(replayed, [("decoder".to_owned(), true)]);
}

#[test]
fn a_step_moves_a_few_integers_for_each_row_and_its_largest_logits() {
    let mut bench = Bench::new(false);
    bench.step(&[(0, &[5, 6, 7])]);
    let traffic = bench.step(&[(0, &[8]), (2, &[9])]);
    // Ids, positions and lengths of three rows, one of them a hole, and two logit rows.
    assert_eq!(traffic.uploads, [3 * (8 + 8) + 2 * 8 + 16]);
    assert_eq!(traffic.downloads.iter().sum::<usize>(), 2 * (CANDIDATES * 12 + 4));
    assert_eq!((traffic.copies.len(), traffic.runs.len(), traffic.waits), (0, 1, 1));
}

#[test]
fn what_still_runs_comes_to_the_first_rows_and_nothing_is_lost() {
    let mut bench = Bench::new(true);
    bench.step(&[(0, &[5]), (1, &[6]), (2, &[7]), (3, &[8, 9]), (4, &[10])]);
    let mut batch = DecodeBatch::default();
    batch.push(&[11], 3, 2, None);
    batch.push(&[12], 4, 1, None);
    bench.executor.compact(&batch).unwrap();
    // Two of value make room: keys and values, of which only the tokens that are there.
    let copies = bench.device.traffic().copies;
    let token = WIDTH * size_of::<f32>();
    assert_eq!(copies, [[token; 2], [2 * token; 2], [token; 2], [token; 2]].concat());
    let traffic = bench.step(&[(3, &[11]), (4, &[12])]);
    // Two rows, their ids, positions, lengths and logits.
    assert_eq!(traffic.uploads, [2 * (8 + 8 + 4 + 8)]);
    bench.step(&[(0, &[13]), (1, &[14]), (2, &[15]), (3, &[16]), (4, &[17])]);
    let traffic = bench.step(&[(2, &[18])]);
    assert_eq!((traffic.uploads, traffic.runs.len()), (vec![8 + 8 + 8 + 8], 1));
}

#[test]
fn all_memory_is_given_back() {
    let Bench { executor, device, .. } = Bench::new(false);
    let integers = device.live_bytes() - memory::cache_bytes(&manifest(), SPEC, LIMITS);
    assert!(integers < 2000, "{integers} bytes are not accounted for");
    drop(executor);
    assert_eq!(device.live_bytes(), 0);
}
