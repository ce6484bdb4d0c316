//! The whole engine over the recording device: whatever else runs, a request gets what it gets alone, no rule of a
//! device is broken, and all memory is given back.

use std::{
    slice::from_ref,
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use textgen_artifact::Device as ConvertedFor;
use textgen_convert::{ConvertOptions, CudaPrecision, Plan, Precision, Report, Target};

use super::{
    converted::{bergamot, options},
    *,
};
use crate::{
    decoding::SamplingParams,
    engine::{
        CrossView, DecodeBatch, EncodeBatch, Engine, EngineOptions, EventSink, GenerateRequest, NoObserver,
        Prompt, PromptLookup, SequenceUpdate, TextDecoder, TextDecoderFactory, score,
    },
    model::ModelExecutor,
};

/// As for [`super::converted`].
const TOLERANCE: f32 = 0.03;

const NEW_TOKENS: usize = 12;

/// Tokens have no text here.
struct NoText;

impl TextDecoder for NoText {
    fn push(&mut self, _: u32, _: &mut String) {}
    fn finish(&mut self, _: &mut String) {}
}

impl TextDecoderFactory for NoText {
    fn text_decoder(&self) -> Box<dyn TextDecoder> {
        Box::new(NoText)
    }
}

/// What a sequence has said: tokens and their log-probabilities.
type Said = Vec<(u32, f32)>;

enum Event {
    Update(usize, Said),
    Ended(Option<Error>),
}

struct Sink(std::sync::mpsc::Sender<Event>);

impl EventSink for Sink {
    fn update(&mut self, update: &SequenceUpdate<'_>) {
        let said = update.token_ids.iter().copied().zip(update.logprobs.iter().copied()).collect();
        let _ = self.0.send(Event::Update(update.sequence_index, said));
    }
    fn choice_probabilities(&mut self, _: usize, _: &[f64]) {}
    fn complete(self: Box<Self>) {
        let _ = self.0.send(Event::Ended(None));
    }
    fn fail(self: Box<Self>, error: Error) {
        let _ = self.0.send(Event::Ended(Some(error)));
    }
    fn given_up(&self) -> Option<Error> {
        None
    }
}

/// A request, and what came of it.
struct Client(Receiver<Event>);

impl Client {
    fn next(&self) -> Event {
        self.0.recv_timeout(Duration::from_secs(60)).expect("the engine says nothing")
    }

    /// All sequences, whole.
    fn answer(self) -> Vec<Said> {
        let mut sequences: Vec<Said> = Vec::new();
        loop {
            match self.next() {
                Event::Update(index, said) => {
                    sequences.resize(sequences.len().max(index + 1), Said::new());
                    sequences[index].extend(said);
                }
                Event::Ended(None) => return sequences,
                Event::Ended(Some(error)) => panic!("{error}"),
            }
        }
    }
}

/// An artifact for the device, the same model for the CPU, and sources.
struct Model {
    name: &'static str,
    /// Where both are.
    _folder: tempfile::TempDir,
    on_device: Report,
    on_cpu: Report,
    sources: Vec<Vec<u32>>,
}

impl Model {
    fn of(name: &'static str, checkpoint: &Path, sources: Vec<Vec<u32>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let artifact = |name: &str, plan| {
            textgen_convert::convert(&ConvertOptions {
                source: checkpoint.to_owned(),
                target: Target::Folder(folder.path().join(name)),
                plan,
                keep: None,
                force: false,
            })
            .unwrap()
        };
        let on_device = artifact("device", Plan::Cuda(CudaPrecision::Fp16));
        let on_cpu = artifact("cpu", Plan::Cpu(Precision::Fp32));
        Self { name, _folder: folder, on_device, on_cpu, sources }
    }

    fn fixture(name: &'static str) -> Self {
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let reference: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(source.join("reference.json")).unwrap()).unwrap();
        let cases = reference["cases"].as_array().unwrap();
        let sources = cases.iter().map(|case| serde_json::from_value(case["input_ids"].clone()).unwrap());
        let sources: Vec<Vec<u32>> = sources.filter(|ids: &Vec<u32>| ids.len() < 50).collect();
        // Some begin alike, some are the same.
        let longer = sources.iter().map(|ids| [&ids[..], &ids[..1]].concat());
        let sources = sources.iter().cloned().chain(longer).chain(sources.iter().take(2).cloned()).collect();
        Self::of(name, &source, sources)
    }

    fn bergamot() -> Self {
        let checkpoint = tempfile::tempdir().unwrap();
        bergamot::write_package(checkpoint.path(), &bergamot::model());
        let sources =
            (0..9).map(|i| (0..=i % 4).map(|token| 5 + 7 * token + i).chain([0]).collect()).collect();
        Self::of("bergamot", checkpoint.path(), sources)
    }

    /// An executor on a device of its own, which has been looked at since it was loaded.
    fn executor(&self, records: bool) -> (DeviceExecutor, Arc<RecordingDevice>) {
        let manifest = &self.on_device.manifest;
        let ConvertedFor::Cuda(spec) = manifest.device else { panic!("an artifact for the CPU") };
        let device = Arc::new(RecordingDevice::default());
        let mut sizes = options();
        sizes.max_sequences = 5;
        sizes.cuda.enable_cuda_graph = records;
        let executor = reserved_on(&device, &self.on_device.artifact, manifest, spec, &sizes).unwrap();
        device.traffic();
        (executor, device)
    }

    fn engine(&self, records: bool, drafts: usize) -> (Engine, Arc<RecordingDevice>) {
        let (executor, device) = self.executor(records);
        let options = EngineOptions {
            prompt_lookup: PromptLookup { num_tokens: drafts, ..PromptLookup::default() },
            ..EngineOptions::default()
        };
        let engine =
            Engine::start("device", || Ok(executor), Arc::new(NoText), Arc::new(NoObserver), options);
        (engine.unwrap(), device)
    }

    /// Greedy, and nothing ends early.
    fn params() -> SamplingParams {
        SamplingParams { max_new_tokens: NEW_TOKENS, logprobs: true, ..SamplingParams::default() }
    }

    /// The probabilities of what was said are those that the artifact for the CPU gives.
    fn check(&self, answers: &[Vec<Said>]) {
        let mut executor =
            ModelExecutor::load(runtime(), &self.on_cpu.artifact, &self.on_cpu.manifest, &options()).unwrap();
        for (source, answers) in self.sources.iter().zip(answers) {
            for said in answers {
                let target: Vec<u32> = said.iter().map(|&(token, _)| token).collect();
                assert_eq!(target.len(), NEW_TOKENS);
                let expected = score(&mut executor, source, &target).unwrap();
                for ((token, got), expected) in said.iter().zip(expected) {
                    let (name, off) = (self.name, (got - expected).abs());
                    assert!(
                        off < TOLERANCE,
                        "{name}: token {token} of {target:?}: {got}, on the CPU {expected}"
                    );
                }
            }
        }
    }
}

fn submit(engine: &Engine, sources: &[Vec<u32>], params: &SamplingParams) -> Client {
    let (sender, receiver) = channel();
    engine.submit(GenerateRequest {
        prompts: sources
            .iter()
            .map(|source| Prompt { source: source.clone(), decoder_prefix: Vec::new(), max_new_tokens: None })
            .collect(),
        params: Arc::new(params.clone()),
        arrival: Instant::now(),
        deadline: None,
        sink: Box::new(Sink(sender)),
    });
    Client(receiver)
}

/// The same tokens, and log-probabilities that are the same but for the order of sums.
fn same(what: &str, got: &[Said], alone: &[Said]) {
    let tokens = |all: &[Said]| -> Vec<Vec<u32>> {
        all.iter().map(|said| said.iter().map(|&(token, _)| token).collect()).collect()
    };
    assert_eq!(tokens(got), tokens(alone), "{what}");
    for (got, alone) in got.iter().flatten().zip(alone.iter().flatten()) {
        assert!((got.1 - alone.1).abs() < 5e-3, "{what}: {got:?}, alone {alone:?}");
    }
}

/// Every source alone, all at once, and the others once one of them runs.
fn agrees(model: &Model, engine: &Engine, params: &SamplingParams) -> Vec<Vec<Said>> {
    let alone: Vec<Vec<Said>> =
        model.sources.iter().map(|source| submit(engine, from_ref(source), params).answer()).collect();
    let together: Vec<Client> =
        model.sources.iter().map(|source| submit(engine, from_ref(source), params)).collect();
    for (index, (client, alone)) in together.into_iter().zip(&alone).enumerate() {
        same(&format!("{}: source {index} among the others", model.name), &client.answer(), alone);
    }
    let first = submit(engine, &model.sources[..1], params);
    let Event::Update(..) = first.next() else { panic!("{}: ended at once", model.name) };
    let later: Vec<Client> =
        model.sources.iter().map(|source| submit(engine, from_ref(source), params)).collect();
    for (index, (client, alone)) in later.into_iter().zip(&alone).enumerate() {
        same(&format!("{}: source {index} joining", model.name), &client.answer(), alone);
    }
    alone
}

fn models() -> Vec<Model> {
    let fixtures = ["t5/t5", "t5/umt5", "decoder/llama", "decoder/gemma3"].map(Model::fixture);
    fixtures.into_iter().chain([Model::bergamot()]).collect()
}

#[test]
fn a_request_gets_what_it_gets_alone() {
    for model in models() {
        let params = Model::params();
        // All logits are needed for these, and each source has several sequences.
        let sampled =
            SamplingParams { temperature: 0.9, seed: Some(7), num_return_sequences: 3, ..params.clone() };
        let mut answers = Vec::new();
        for records in [false, true] {
            let (engine, device) = model.engine(records, 0);
            let mut all = agrees(&model, &engine, &params);
            let traffic = device.traffic();
            let replayed = traffic.runs.iter().any(|(_, replayed)| *replayed);
            assert_eq!(replayed, records, "{}", model.name);
            // One copy tells the decoder all, two the encoder; the largest logits come in three pieces, after one wait.
            let encoded = traffic.runs.iter().filter(|(graph, _)| graph == "encoder").count();
            assert_eq!(traffic.uploads.len(), traffic.runs.len() + encoded, "{}", model.name);
            assert_eq!(traffic.downloads.len(), 3 * traffic.waits, "{}", model.name);
            for (of_source, sampled) in all.iter_mut().zip(agrees(&model, &engine, &sampled)) {
                of_source.extend(sampled);
            }
            drop(engine);
            assert_eq!(device.live_bytes(), 0, "{}", model.name);
            answers.push(all);
        }
        for (plain, recorded) in answers[0].iter().zip(&answers[1]) {
            same(&format!("{}: recorded", model.name), recorded, plain);
        }
        model.check(&answers[0]);
    }
}

/// What is drafted and wrong lies behind what the slot holds.
#[test]
fn drafts_change_nothing() {
    for model in models().into_iter().filter(|model| model.on_device.manifest.geometry.state_width == 0) {
        let params = Model::params();
        let (engine, _) = model.engine(false, 0);
        let plain = agrees(&model, &engine, &params);
        for records in [false, true] {
            let (engine, _) = model.engine(records, 4);
            for (got, plain) in agrees(&model, &engine, &params).iter().zip(&plain) {
                same(&format!("{}: with drafts", model.name), got, plain);
            }
        }
    }
}

#[test]
fn a_source_is_not_overwritten_while_it_is_copied() {
    let model = Model::fixture("t5/t5");
    let (mut executor, _) = model.executor(false);
    let mut sources = EncodeBatch::default();
    sources.push(&model.sources[1], 0);
    executor.encode(&sources).unwrap();
    let mut batch = DecodeBatch::default();
    batch.push(&[0], 0, 0, Some(CrossView { slot: 0, tokens: model.sources[1].len() }));
    // Nobody waits for this step.
    executor.decode(&batch).unwrap();
    sources.clear();
    sources.push(&model.sources[2], 0);
    executor.encode(&sources).unwrap();
}

/// Sources of one batch share runs, and each is what it is alone.
#[test]
fn several_sources_are_encoded_at_once() {
    let model = Model::fixture("t5/t5");
    let (engine, device) = model.engine(false, 0);
    submit(&engine, &model.sources, &Model::params()).answer();
    let runs = device.traffic().runs;
    let encoded = runs.iter().filter(|(graph, _)| graph == "encoder").count();
    assert!(encoded < model.sources.len(), "{encoded} runs for {} sources", model.sources.len());
}
