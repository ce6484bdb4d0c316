//! The executor with converted fixtures of every family, on the recording device, against the stored results of the
//! reference: within what 16 bits cost, a target at once and token by token beside another one. What the graphs compute,
//! in every precision and form, `tests/device_graphs` asks.

use serde_json::Value;
use textgen_artifact::Device as ConvertedFor;
use textgen_convert::{ConvertOptions, CudaPrecision, Plan, Target};

use super::*;
use crate::{
    decoding::log_probability,
    engine::{CrossView, EncodeBatch, score},
    model::{CudaOptions, MayShrink, ModelExecutor, Placement},
};

#[path = "../../../../crates/convert/tests/support/mod.rs"]
pub(super) mod bergamot;

/// Log-probabilities may be off by so much; wrong positions, masks or caches are off by more than a tenth.
const TOLERANCE: f32 = 0.03;

pub(super) fn options() -> ExecutorOptions {
    ExecutorOptions {
        intra_op_threads: 1,
        max_sequences: 4,
        max_source_tokens: 64,
        max_target_tokens: 64,
        max_context_tokens: 96,
        may_shrink: MayShrink::default(),
        placement: Placement::AsConverted,
        cuda: CudaOptions::default(),
    }
}

/// The executor of a fixture, and its cases.
pub(super) fn loaded(source: &str) -> (DeviceExecutor, Vec<Case>) {
    loaded_with(source, |_| {}).unwrap()
}

/// The same, once `change` has been at the manifest.
fn loaded_with(source: &str, change: impl Fn(&mut Manifest)) -> Result<(DeviceExecutor, Vec<Case>)> {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(source);
    let folder = tempfile::tempdir().unwrap();
    let mut report = textgen_convert::convert(&ConvertOptions {
        source: source.clone(),
        target: Target::Folder(folder.path().join("artifact")),
        plan: Plan::Cuda(CudaPrecision::Fp16),
        keep: None,
        force: false,
    })
    .unwrap();
    change(&mut report.manifest);
    let executor = loaded_from(&report)?;
    let reference: Value =
        serde_json::from_str(&fs::read_to_string(source.join("reference.json")).unwrap()).unwrap();
    let cases = reference["cases"].as_array().unwrap().iter().map(Case::read).collect();
    Ok((executor, cases))
}

/// The executor of an artifact for CUDA.
fn loaded_from(report: &textgen_convert::Report) -> Result<DeviceExecutor> {
    let ConvertedFor::Cuda(spec) = report.manifest.device else { panic!("an artifact for the CPU") };
    let device = Arc::new(RecordingDevice::default());
    reserved_on(&device, &report.artifact, &report.manifest, spec, &options())
}

pub(super) struct Case {
    source: Vec<u32>,
    target: Vec<u32>,
    logprobs: Vec<f32>,
}

impl Case {
    fn read(case: &Value) -> Self {
        Self {
            source: serde_json::from_value(case["input_ids"].clone()).unwrap(),
            target: serde_json::from_value(case["target_ids"].clone()).unwrap(),
            logprobs: serde_json::from_value(case["logprobs"].clone()).unwrap(),
        }
    }

    fn distance(&self, got: &[f32]) -> f32 {
        assert_eq!(got.len(), self.logprobs.len());
        got.iter().zip(&self.logprobs).map(|(got, expected)| (got - expected).abs()).fold(0.0, |a, b| {
            assert!(!b.is_nan());
            a.max(b)
        })
    }
}

/// Log-probabilities of the targets, token by token, all cases in one batch: case `i` in slot `2 i + 1`.
fn stepwise(executor: &mut DeviceExecutor, cases: &[Case]) -> Vec<Vec<f32>> {
    let encoder = executor.limits().encoder;
    let mut given: Vec<Vec<u32>> = cases.iter().map(|case| case.source.clone()).collect();
    if let Some(encoder) = encoder {
        let mut batch = EncodeBatch::default();
        cases.iter().enumerate().for_each(|(index, case)| batch.push(&case.source, index));
        executor.encode(&batch).unwrap();
        given.iter_mut().for_each(|tokens| *tokens = vec![encoder.decoder_start_token_id]);
    }
    let mut scores = vec![Vec::new(); cases.len()];
    let mut fed = vec![0; cases.len()];
    for step in 0.. {
        let mut batch = DecodeBatch::default();
        let running: Vec<usize> =
            (0..cases.len()).filter(|&index| step < cases[index].target.len()).collect();
        if running.is_empty() {
            return scores;
        }
        for &index in &running {
            let cross = encoder.map(|_| CrossView { slot: index, tokens: cases[index].source.len() });
            let tokens = if step == 0 { &given[index][..] } else { &cases[index].target[step - 1..step] };
            batch.push(tokens, 2 * index + 1, fed[index], cross);
            batch.want_logits();
            fed[index] += tokens.len();
        }
        executor.decode(&batch).unwrap();
        for (row, &index) in running.iter().enumerate() {
            let logits = executor.logits_mut(row).unwrap();
            scores[index].push(log_probability(logits, cases[index].target[step]).unwrap());
        }
    }
    unreachable!("every target ends")
}

fn agrees(fixtures: &[&str]) {
    let mut wrong = Vec::new();
    for fixture in fixtures {
        let (mut executor, mut cases) = loaded(fixture);
        cases.truncate(2);
        let at_once = cases.iter().map(|case| {
            let got = score(&mut executor, &case.source, &case.target).unwrap();
            case.distance(&got)
        });
        let at_once = at_once.fold(0.0, f32::max);
        let got = stepwise(&mut executor, &cases);
        let stepwise = cases.iter().zip(&got).map(|(case, got)| case.distance(got)).fold(0.0, f32::max);
        println!("{fixture}: at once {at_once:e}, stepwise {stepwise:e}");
        if at_once.max(stepwise) > TOLERANCE {
            wrong.push(format!("{fixture}: off by {at_once} at once, by {stepwise} token by token"));
        }
    }
    assert!(wrong.is_empty(), "at most {TOLERANCE} is allowed: {wrong:#?}");
}

/// The other fixtures have heads of sizes that the attention operator does not take.
#[test]
fn decoder_only_families_agree_with_the_reference() {
    agrees(&["decoder/llama", "decoder/llama-bias", "decoder/gemma3"]);
}

#[test]
fn the_t5_family_agrees_with_the_reference() {
    agrees(&["t5/t5", "t5/t5-stray", "t5/umt5", "t5/madlad"]);
}

/// A recurrent state belongs to its slot, whoever is in the step: each target beside another is what it is alone, and
/// what the artifact for the CPU says.
#[test]
fn recurrent_states_stay_with_their_sequences() {
    let folder = tempfile::tempdir().unwrap();
    bergamot::write_package(folder.path(), &bergamot::model());
    let artifact = |plan| {
        let target = Target::Folder(folder.path().join(format!("{plan:?}")));
        let source = folder.path().to_owned();
        textgen_convert::convert(&ConvertOptions { source, target, plan, keep: None, force: false }).unwrap()
    };
    let on_cpu = artifact(Plan::Cpu(textgen_convert::Precision::Fp32));
    let mut reference =
        ModelExecutor::load(runtime(), &on_cpu.artifact, &on_cpu.manifest, &options()).unwrap();
    let cases = [
        (vec![5, 6, 7, 0], vec![9, 10, 11, 12]),
        (vec![20, 0], vec![30, 31]),
        (vec![40, 41, 0], vec![50, 51, 52]),
    ];
    let cases = cases.map(|(source, target)| {
        let logprobs = score(&mut reference, &source, &target).unwrap();
        Case { source, target, logprobs }
    });
    let on_device = artifact(Plan::Cuda(CudaPrecision::Fp16));
    let mut executor = loaded_from(&on_device).unwrap();
    for case in &cases {
        let got = score(&mut executor, &case.source, &case.target).unwrap();
        assert!(case.distance(&got) < TOLERANCE, "{got:?}, on the CPU {:?}", case.logprobs);
    }
    for cases in [&cases[..2], &cases[1..], &cases[..1]] {
        for (case, got) in cases.iter().zip(stepwise(&mut executor, cases)) {
            assert!(case.distance(&got) < TOLERANCE, "{got:?}, on the CPU {:?}", case.logprobs);
        }
    }
}

#[test]
fn heads_of_a_size_that_cannot_be_computed_are_refused_at_load() {
    let loaded = loaded_with("decoder/llama", |manifest| manifest.geometry.head_dim = 6);
    let error = loaded.err().unwrap();
    assert!(error.message.contains("heads of size 6") && error.message.contains("multiple of 8"), "{error}");
}
