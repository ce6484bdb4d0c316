//! The engine's contract, with an executor whose answers are known and which records what it was asked.
//!
//! The scripted model copies: after `n` tokens it says source token `n`, and after the last one `EOS`. Tokens from
//! `TYPO` on it corrects.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

mod choices;
mod drafts;
mod prompts;

use super::*;
use crate::{
    decoding::{SamplingParams, TopLogits},
    error::{Error, ErrorKind, Result},
};

const EOS: u32 = 1;
const START: u32 = 0;
const VOCAB: usize = 64;
/// A source token from here on is said as the one that is `CORRECTION` lower.
const TYPO: u32 = 40;
const CORRECTION: u32 = 30;
/// A source that holds it cannot be encoded.
const BAD_SOURCE: u32 = 60;
/// A sequence that feeds it fails its step.
const BAD_STEP: u32 = 61;
/// From where a sequence feeds it, its logits are not numbers.
const BAD_LOGITS: u32 = 62;

/// What happened, as the executor saw it.
#[derive(Debug, Default)]
struct Record {
    encoded_rows: Vec<usize>,
    /// Slots, positions and cross slots of each successful step.
    steps: Vec<Vec<(i32, i32, i32)>>,
    /// Tokens that each row of those fed.
    fed: Vec<Vec<usize>>,
    /// Rows of which all logits were asked for.
    whole_rows: usize,
    /// The engine has come to a closed gate.
    waits: bool,
}

/// While true, the executor waits in front of every step.
type Gate = Arc<AtomicBool>;

struct Copier {
    slots: usize,
    can_rewind: bool,
    shares_vocabulary: bool,
    /// How often a source is still being encoded when it is asked for.
    encodes_for: usize,
    /// Cross slots of an executor whose slots keep their sources.
    few_cross_slots: Option<usize>,
    /// Cross slots that are being encoded, and how often they have been asked for.
    encoding: HashMap<usize, usize>,
    /// By slot, where slots keep them.
    kept: HashMap<i32, Vec<u32>>,
    sources: HashMap<i32, Vec<u32>>,
    /// Tokens that each slot holds, and how many of them were drafts.
    held: HashMap<i32, (i32, i32)>,
    logits: Vec<f32>,
    /// How many of the largest logits it finds itself.
    top: Option<usize>,
    largest: (Vec<i64>, Vec<f32>),
    record: Arc<Mutex<Record>>,
    gate: Gate,
}

impl Copier {
    fn new(slots: usize) -> Self {
        Self {
            slots,
            can_rewind: true,
            shares_vocabulary: true,
            encodes_for: 0,
            few_cross_slots: None,
            encoding: HashMap::new(),
            kept: HashMap::new(),
            sources: HashMap::new(),
            held: HashMap::new(),
            logits: Vec::new(),
            top: None,
            largest: Default::default(),
            record: Arc::default(),
            gate: Gate::default(),
        }
    }
}

impl Copier {
    fn wait_at_the_gate(&self) {
        while self.gate.load(Ordering::Relaxed) {
            self.record.lock().unwrap().waits = true;
            std::thread::yield_now();
        }
    }
}

fn corrected(token: u32) -> u32 {
    if token < TYPO { token } else { token - CORRECTION }
}

impl Executor for Copier {
    fn limits(&self) -> ExecutorLimits {
        ExecutorLimits {
            slots: self.slots,
            max_target_tokens: 16,
            vocab_size: VOCAB,
            can_rewind: self.can_rewind,
            encoder: Some(EncoderLimits {
                cross_slots: self.few_cross_slots.unwrap_or(self.slots),
                max_source_tokens: 32,
                decoder_start_token_id: START,
                shares_vocabulary: self.shares_vocabulary,
                slots_keep_sources: self.few_cross_slots.is_some(),
            }),
        }
    }

    fn copy_prefix(&mut self, _: usize, _: usize, _: usize) -> Result<()> {
        unreachable!("a target's cache belongs to its source")
    }

    fn encode(&mut self, batch: &EncodeBatch) -> Result<()> {
        self.wait_at_the_gate();
        if batch.tokens.contains(&BAD_SOURCE) {
            return Err(Error::internal("the source cannot be encoded"));
        }
        for row in 0..batch.rows() {
            let span = batch.row_offsets[row] as usize..batch.row_offsets[row + 1] as usize;
            self.sources.insert(batch.cross_slots[row], batch.tokens[span].to_vec());
            self.encoding.insert(batch.cross_slots[row] as usize, 0);
        }
        self.record.lock().unwrap().encoded_rows.push(batch.rows());
        Ok(())
    }

    fn is_encoded(&mut self, cross_slot: usize) -> bool {
        let asked = self.encoding.entry(cross_slot).or_default();
        *asked += 1;
        *asked > self.encodes_for
    }

    fn decode(&mut self, batch: &DecodeBatch) -> Result<()> {
        self.wait_at_the_gate();
        assert!(batch.rows() <= self.slots, "more rows than slots");
        if batch.tokens.contains(&BAD_STEP) {
            return Err(Error::internal("the step fails"));
        }
        self.logits.clear();
        let mut step: Vec<(i32, i32, i32)> = Vec::new();
        let mut wanted = batch.logit_rows.iter().peekable();
        for row in 0..batch.rows() {
            let (slot, position) = (batch.slots[row], batch.positions[row]);
            assert!(!step.iter().any(|&(taken, ..)| taken == slot), "slot {slot} is in two rows");
            if position > 0 {
                let (held, drafted) = self.held[&slot];
                assert!(
                    (held - drafted..=held).contains(&position),
                    "slot {slot} does not hold what the engine believes"
                );
            }
            if position == 0 {
                self.kept.insert(slot, self.sources[&batch.cross_slots[row]].clone());
            }
            let source = match self.few_cross_slots {
                Some(_) => &self.kept[&slot],
                None => &self.sources[&batch.cross_slots[row]],
            };
            assert_eq!(source.len() as i32, batch.cross_lengths[row]);
            let (mut numbers, mut outputs) = (true, 0);
            for (place, token) in batch.row(row).iter().enumerate() {
                numbers &= *token != BAD_LOGITS;
                if wanted.next_if_eq(&&(i64::from(batch.row_offsets[row]) + place as i64)).is_none() {
                    continue;
                }
                outputs += 1;
                let next = source.get(position as usize + place).map_or(EOS, |&token| corrected(token));
                let start = self.logits.len();
                self.logits.resize(start + VOCAB, if numbers { 0.0 } else { f32::NAN });
                self.logits[start + next as usize] += 10.0;
            }
            self.held.insert(slot, (position + batch.row(row).len() as i32, (outputs - 1).max(0)));
            step.push((slot, position, batch.cross_slots[row]));
        }
        assert_eq!(wanted.next(), None, "logits of no token");
        let fed = (0..batch.rows()).map(|row| batch.row(row).len()).collect();
        self.record.lock().unwrap().fed.push(fed);
        self.record.lock().unwrap().steps.push(step);
        Ok(())
    }

    fn logits_mut(&mut self, row: usize) -> Result<&mut [f32]> {
        self.record.lock().unwrap().whole_rows += 1;
        Ok(&mut self.logits[row * VOCAB..(row + 1) * VOCAB])
    }

    fn top_logits(&mut self, row: usize) -> Option<TopLogits<'_>> {
        let logits = &self.logits[row * VOCAB..(row + 1) * VOCAB];
        let mut order: Vec<i64> = (0..VOCAB as i64).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        order.truncate(self.top?);
        let largest = order.iter().map(|&token| logits[token as usize]).collect();
        let log_sum_exp = logits.iter().map(|x| x.exp()).sum::<f32>().ln();
        self.largest = (order, largest);
        let (tokens, logits) = (&self.largest.0, &self.largest.1);
        Some(TopLogits { tokens, logits, log_sum_exp, vocab_size: VOCAB })
    }
}

/// Token 10 is "a", 11 is "b", …
struct Letters;

impl TextDecoder for Letters {
    fn push(&mut self, token: u32, text: &mut String) {
        text.push(letter(token));
    }
    fn finish(&mut self, _: &mut String) {}
}

fn letter(token: u32) -> char {
    char::from_u32(u32::from(b'a') + token - 10).unwrap()
}

impl TextDecoderFactory for Letters {
    fn text_decoder(&self) -> Box<dyn TextDecoder> {
        Box::new(Letters)
    }
}

/// A running engine.
struct Harness {
    engine: Engine,
    /// Of a [`Copier`].
    record: Arc<Mutex<Record>>,
    gate: Gate,
    outcomes: Arc<Outcomes>,
}

/// Counts what it sees, and keeps the last load.
#[derive(Default)]
struct Outcomes(Mutex<Observed>);

#[derive(Default)]
struct Observed {
    ended: HashMap<Outcome, usize>,
    load: EngineLoad,
    gaps: usize,
    generated: usize,
    drafted: usize,
    accepted: usize,
}

impl Observer for Outcomes {
    fn request_started(&self, _: Duration) {}
    fn request_ended(&self, outcome: Outcome, _: Duration) {
        *self.0.lock().unwrap().ended.entry(outcome).or_default() += 1;
    }
    fn first_token(&self, _: Duration) {}
    fn inter_token(&self, _: Duration) {
        self.0.lock().unwrap().gaps += 1;
    }
    fn prompt_tokens(&self, _: usize) {}
    fn prefix_reuse(&self, _: usize, _: usize) {}
    fn generated_tokens(&self, count: usize) {
        self.0.lock().unwrap().generated += count;
    }
    fn drafted_tokens(&self, drafted: usize, accepted: usize) {
        let mut observed = self.0.lock().unwrap();
        observed.drafted += drafted;
        observed.accepted += accepted;
    }
    fn step(&self, _: StepStats) {}
    fn load(&self, load: EngineLoad) {
        self.0.lock().unwrap().load = load;
    }
}

impl Harness {
    fn new(slots: usize, options: EngineOptions) -> Self {
        Self::copying(Copier::new(slots), options)
    }

    fn copying(copier: Copier, options: EngineOptions) -> Self {
        let (record, gate) = (copier.record.clone(), copier.gate.clone());
        Self { record, ..Self::over(copier, gate, options) }
    }

    fn over(executor: impl Executor + 'static, gate: Gate, options: EngineOptions) -> Self {
        let outcomes = Arc::new(Outcomes::default());
        let engine =
            Engine::start("test", || Ok(executor), Arc::new(Letters), outcomes.clone(), options).unwrap();
        Self { engine, record: Arc::default(), gate, outcomes }
    }

    fn submit(&self, request: Request) -> Client {
        let (events, received) = channel();
        let given_up = Arc::new(Mutex::new(None));
        self.engine.submit(GenerateRequest {
            prompts: request
                .sources
                .into_iter()
                .map(|source| Prompt { source, decoder_prefix: request.prefix.clone(), max_new_tokens: None })
                .collect(),
            params: Arc::new(SamplingParams { eos_token_ids: vec![EOS], ..request.params }),
            arrival: Instant::now(),
            deadline: request.timeout.map(|timeout| Instant::now() + timeout),
            sink: Box::new(Sink { events, given_up: given_up.clone() }),
        });
        Client { received, given_up }
    }

    fn ended(&self, outcome: Outcome) -> usize {
        self.outcomes.0.lock().unwrap().ended.get(&outcome).copied().unwrap_or(0)
    }
}

#[derive(Default)]
struct Request {
    sources: Vec<Vec<u32>>,
    prefix: Vec<u32>,
    params: SamplingParams,
    timeout: Option<Duration>,
}

fn copy(source: &[u32]) -> Request {
    Request { sources: vec![source.to_vec()], ..Request::default() }
}

enum Event {
    Update(usize, String, Vec<u32>, Option<Finished>),
    ChoiceProbabilities(usize, Vec<f64>),
    Complete,
    Failed(Error),
}

struct Sink {
    events: Sender<Event>,
    given_up: Arc<Mutex<Option<Error>>>,
}

impl EventSink for Sink {
    fn update(&mut self, update: &SequenceUpdate<'_>) {
        let _ = self.events.send(Event::Update(
            update.sequence_index,
            update.text.to_owned(),
            update.token_ids.to_vec(),
            update.finished,
        ));
    }
    fn choice_probabilities(&mut self, prompt: usize, probabilities: &[f64]) {
        let _ = self.events.send(Event::ChoiceProbabilities(prompt, probabilities.to_vec()));
    }
    fn complete(self: Box<Self>) {
        let _ = self.events.send(Event::Complete);
    }
    fn fail(self: Box<Self>, error: Error) {
        let _ = self.events.send(Event::Failed(error));
    }
    fn given_up(&self) -> Option<Error> {
        self.given_up.lock().unwrap().clone()
    }
}

struct Client {
    received: Receiver<Event>,
    given_up: Arc<Mutex<Option<Error>>>,
}

impl Client {
    fn give_up(&self, reason: Error) {
        *self.given_up.lock().unwrap() = Some(reason);
    }

    fn next(&self) -> Event {
        self.received.recv_timeout(Duration::from_secs(20)).expect("the engine says nothing")
    }

    /// Text and finish reason of each sequence; checks that exactly one end comes, and comes last.
    fn complete(self) -> std::result::Result<Vec<(String, FinishReason, usize)>, Error> {
        let mut sequences: HashMap<usize, (String, usize, Option<FinishReason>)> = HashMap::new();
        let result = loop {
            match self.next() {
                Event::Update(index, text, tokens, finished) => {
                    let sequence = sequences.entry(index).or_default();
                    assert!(sequence.2.is_none(), "an update after the end of sequence {index}");
                    sequence.0.push_str(&text);
                    sequence.1 += tokens.len();
                    if let Some(finished) = finished {
                        assert_eq!(finished.num_output_tokens, sequence.1);
                        sequence.2 = Some(finished.reason);
                    }
                }
                Event::ChoiceProbabilities(..) => panic!("nobody asked for them"),
                Event::Complete => break Ok(()),
                Event::Failed(error) => break Err(error),
            }
        };
        assert!(self.received.recv().is_err(), "an event after the end of the request");
        result.map(|()| {
            let mut sequences: Vec<_> = sequences.into_iter().collect();
            sequences.sort_by_key(|(index, _)| *index);
            assert!(sequences.iter().enumerate().all(|(expected, (index, _))| expected == *index));
            sequences.into_iter().map(|(_, (text, tokens, reason))| (text, reason.unwrap(), tokens)).collect()
        })
    }
}

#[test]
fn a_sequence_ends_at_eos_and_its_token_counts() {
    let harness = Harness::new(4, EngineOptions::default());
    let got = harness.submit(copy(&[10, 11, 12])).complete().unwrap();
    assert_eq!(got, [("abc".into(), FinishReason::Stop, 4)]);
}

#[test]
fn a_sequence_ends_at_its_limit_and_at_the_end_of_the_cache() {
    let harness = Harness::new(4, EngineOptions::default());
    let limited = Request {
        params: SamplingParams { max_new_tokens: 2, ..SamplingParams::default() },
        ..copy(&[10, 11, 12])
    };
    assert_eq!(harness.submit(limited).complete().unwrap(), [("ab".into(), FinishReason::Length, 2)]);
    // 16 tokens fit: the start token and 15 fed back; the 16th generated one need not be fed.
    let long = copy(&[10; 30]);
    assert_eq!(harness.submit(long).complete().unwrap(), [("a".repeat(16), FinishReason::Length, 16)]);
}

#[test]
fn a_stop_word_ends_a_sequence_and_is_not_said() {
    let harness = Harness::new(4, EngineOptions::default());
    let request = Request {
        params: SamplingParams { stop_words: vec!["cd".into()], ..SamplingParams::default() },
        ..copy(&[10, 11, 12, 13, 14])
    };
    assert_eq!(harness.submit(request).complete().unwrap(), [("ab".into(), FinishReason::Stop, 4)]);
}

#[test]
fn a_forced_prefix_is_fed_at_once_and_not_said() {
    let harness = Harness::new(4, EngineOptions::default());
    let request = Request { prefix: vec![10, 11], ..copy(&[10, 11, 12, 13]) };
    assert_eq!(harness.submit(request).complete().unwrap(), [("cd".into(), FinishReason::Stop, 3)]);
    assert_eq!(harness.record.lock().unwrap().steps.len(), 3);
}

#[test]
fn samples_share_one_encoded_source_and_many_prompts_share_the_slots() {
    let harness = Harness::new(4, EngineOptions::default());
    let request = Request {
        sources: (0..10).map(|index| vec![10 + index, 20]).collect(),
        params: SamplingParams { num_return_sequences: 3, ..SamplingParams::default() },
        ..Request::default()
    };
    let got = harness.submit(request).complete().unwrap();
    let expected: Vec<_> = (0..10u8)
        .flat_map(|index| std::iter::repeat_n(char::from(b'a' + index), 3))
        .map(|letter| (format!("{letter}k"), FinishReason::Stop, 3))
        .collect();
    assert_eq!(got, expected);
    let record = harness.record.lock().unwrap();
    assert_eq!(record.encoded_rows.iter().sum::<usize>(), 10, "each source is encoded once");
    let shared = record.steps.iter().any(|rows| rows.len() > 1 && rows.iter().all(|row| row.2 == rows[0].2));
    assert!(shared, "samples of one prompt read one cross slot");
}

/// Rows of each step.
fn rows(record: &Record) -> Vec<usize> {
    record.steps.iter().map(Vec::len).collect()
}

#[test]
fn whoever_runs_goes_on_while_a_source_is_encoded() {
    let harness = Harness::copying(Copier { encodes_for: 3, ..Copier::new(4) }, EngineOptions::default());
    harness.gate.store(true, Ordering::Relaxed);
    let first = harness.submit(copy(&[10; 9]));
    while !harness.record.lock().unwrap().waits {
        std::thread::yield_now();
    }
    let second = harness.submit(copy(&[11, 12]));
    harness.gate.store(false, Ordering::Relaxed);
    assert_eq!(first.complete().unwrap(), [("a".repeat(9), FinishReason::Stop, 10)]);
    assert_eq!(second.complete().unwrap(), [("bc".into(), FinishReason::Stop, 3)]);
    // Nobody waited for the first source but its own sequence; the second came when it was asked for a fourth time.
    assert_eq!(rows(&harness.record.lock().unwrap()), [1, 1, 1, 1, 2, 2, 2, 1, 1, 1]);
}

#[test]
fn a_source_that_slots_keep_makes_room_for_the_next() {
    let harness =
        Harness::copying(Copier { few_cross_slots: Some(1), ..Copier::new(4) }, EngineOptions::default());
    let request = Request { sources: vec![vec![10, 11, 12], vec![13, 14, 15]], ..Request::default() };
    let said = harness.submit(request).complete().unwrap();
    assert_eq!(said, [("abc".into(), FinishReason::Stop, 4), ("def".into(), FinishReason::Stop, 4)]);
    assert_eq!(rows(&harness.record.lock().unwrap()), [1, 2, 2, 2, 1]);
    // Samples share a source until the last of them has started.
    let request = Request {
        sources: vec![vec![10, 11], vec![12, 13]],
        params: SamplingParams { num_return_sequences: 6, ..SamplingParams::default() },
        ..Request::default()
    };
    let said = harness.submit(request).complete().unwrap();
    let texts: Vec<_> = said.iter().map(|(text, ..)| text.as_str()).collect();
    assert_eq!(texts, [["ab"; 6], ["cd"; 6]].concat());
}

#[test]
fn all_logits_are_asked_for_only_where_the_largest_are_not_enough() {
    let whole_rows = |params: SamplingParams| {
        let harness = Harness::copying(Copier { top: Some(4), ..Copier::new(2) }, EngineOptions::default());
        let request = Request { params, ..copy(&[10, 11, 12]) };
        let said = harness.submit(request).complete().unwrap();
        assert_eq!(said, [("abc".into(), FinishReason::Stop, 4)]);
        harness.record.lock().unwrap().whole_rows
    };
    let greedy = SamplingParams { suppress_tokens: vec![20], ..SamplingParams::default() };
    assert_eq!(whole_rows(greedy.clone()), 0);
    assert_eq!(whole_rows(SamplingParams { temperature: 0.1, top_k: 1, ..greedy.clone() }), 0);
    assert_eq!(whole_rows(SamplingParams { temperature: 0.1, ..greedy.clone() }), 4);
    assert_eq!(whole_rows(SamplingParams { presence_penalty: -0.1, ..greedy }), 4);
}

#[test]
fn encoding_keeps_to_its_budget_but_never_starves_a_long_source() {
    let options = EngineOptions { max_encode_tokens: 8, ..EngineOptions::default() };
    let harness = Harness::new(8, options);
    let request = Request {
        sources: vec![vec![10; 4], vec![11; 4], vec![12; 4], vec![13; 20], vec![14; 2]],
        params: SamplingParams { max_new_tokens: 1, ..SamplingParams::default() },
        ..Request::default()
    };
    harness.submit(request).complete().unwrap();
    assert_eq!(harness.record.lock().unwrap().encoded_rows, [2, 1, 1, 1]);
}

#[test]
fn a_source_that_fails_harms_no_other() {
    let harness = Harness::new(8, EngineOptions::default());
    harness.gate.store(true, Ordering::Relaxed);
    let clients: Vec<_> = [&[10, 11][..], &[BAD_SOURCE], &[12], &[13, 14, 15]]
        .into_iter()
        .map(|source| harness.submit(copy(source)))
        .collect();
    harness.gate.store(false, Ordering::Relaxed);
    let got: Vec<_> =
        clients.into_iter().map(|client| client.complete().map(|got| got[0].0.clone())).collect();
    assert_eq!(got[0].as_deref(), Ok("ab"));
    assert_eq!(got[1].as_ref().unwrap_err().kind, ErrorKind::Internal);
    assert_eq!((got[2].as_deref(), got[3].as_deref()), (Ok("c"), Ok("def")));
    assert_eq!((harness.ended(Outcome::Completed), harness.ended(Outcome::Failed)), (3, 1));
}

#[test]
fn a_row_that_fails_its_step_or_its_logits_harms_no_other() {
    for bad in [BAD_STEP, BAD_LOGITS] {
        let harness = Harness::new(8, EngineOptions::default());
        harness.gate.store(true, Ordering::Relaxed);
        let clients: Vec<_> = (0..7)
            .map(|index| {
                let prefix = if index == 3 { vec![bad] } else { Vec::new() };
                harness.submit(Request { prefix, ..copy(&[10, 11, 12, 13]) })
            })
            .collect();
        harness.gate.store(false, Ordering::Relaxed);
        for (index, client) in clients.into_iter().enumerate() {
            match client.complete() {
                Ok(got) => assert_eq!((index == 3, got[0].0.as_str()), (false, "abcd")),
                Err(error) => assert_eq!((index, error.kind), (3, ErrorKind::Internal)),
            }
        }
        // The slot of the failed row serves again.
        assert_eq!(harness.submit(copy(&[10])).complete().unwrap()[0].0, "a");
    }
}

#[test]
fn a_failing_prompt_fails_its_request_once_and_frees_everything() {
    let harness = Harness::new(4, EngineOptions::default());
    let request = Request {
        sources: vec![vec![10], vec![BAD_SOURCE], vec![BAD_SOURCE, 11], vec![12], vec![13; 4], vec![14]],
        params: SamplingParams { num_return_sequences: 2, ..SamplingParams::default() },
        ..Request::default()
    };
    assert_eq!(harness.submit(request).complete().unwrap_err().kind, ErrorKind::Internal);
    let all_slots = Request { sources: vec![vec![10, 11]; 4], ..Request::default() };
    assert_eq!(harness.submit(all_slots).complete().unwrap().len(), 4);
}

#[test]
fn the_queue_is_bounded_and_answers_at_once() {
    let harness = Harness::new(1, EngineOptions { max_queue_requests: 2, ..EngineOptions::default() });
    harness.gate.store(true, Ordering::Relaxed);
    let clients: Vec<_> = (0..6).map(|_| harness.submit(copy(&[10, 11]))).collect();
    let rejected: Vec<bool> = clients
        .into_iter()
        .map(|client| match client.received.recv_timeout(Duration::from_millis(300)) {
            Ok(Event::Failed(error)) => {
                assert_eq!(error.kind, ErrorKind::Unavailable);
                true
            }
            Ok(_) => panic!("the executor is held"),
            Err(_) => {
                // Waits, as it should; let it go.
                std::mem::forget(client);
                false
            }
        })
        .collect();
    assert!(rejected.iter().filter(|&&rejected| rejected).count() >= 3, "{rejected:?}");
    assert!(!rejected[0] && !rejected[1] && rejected[5], "{rejected:?}");
    harness.gate.store(false, Ordering::Relaxed);
}

#[test]
fn a_request_is_cancelled_while_it_waits_and_while_it_runs() {
    let harness = Harness::new(1, EngineOptions::default());
    harness.gate.store(true, Ordering::Relaxed);
    let running = harness.submit(copy(&[10; 12]));
    let waiting = harness.submit(copy(&[11; 12]));
    let other = harness.submit(copy(&[12]));
    running.give_up(Error::cancelled("gone"));
    waiting.give_up(Error::cancelled("gone"));
    harness.gate.store(false, Ordering::Relaxed);
    for client in [running, waiting] {
        assert_eq!(client.complete().unwrap_err().kind, ErrorKind::Cancelled);
    }
    assert_eq!(other.complete().unwrap()[0].0, "c");
    assert_eq!(harness.ended(Outcome::Cancelled), 2);
}

#[test]
fn requests_that_are_given_up_together_end_once_each_and_free_everything() {
    let harness = Harness::new(4, EngineOptions::default());
    harness.gate.store(true, Ordering::Relaxed);
    let many = |_| {
        let params = SamplingParams { num_return_sequences: 3, ..SamplingParams::default() };
        harness.submit(Request { sources: vec![vec![10; 12]; 5], params, ..Request::default() })
    };
    let clients: Vec<Client> = (0..20).map(many).collect();
    for client in &clients {
        client.give_up(Error::unavailable("the server shuts down"));
    }
    harness.gate.store(false, Ordering::Relaxed);
    for client in clients {
        assert_eq!(client.complete().unwrap_err().message, "the server shuts down");
    }
    assert_eq!(harness.ended(Outcome::Rejected), 20);
    let all_slots = Request { sources: vec![vec![10, 11]; 4], ..Request::default() };
    assert_eq!(harness.submit(all_slots).complete().unwrap().len(), 4);
    // The last report comes after the last answer.
    drop(harness.engine);
    let load = harness.outcomes.0.lock().unwrap().load;
    assert_eq!((load.running, load.waiting), (0, 0));
}

#[test]
fn a_deadline_counts_in_the_queue_and_while_running() {
    let harness = Harness::new(1, EngineOptions::default());
    harness.gate.store(true, Ordering::Relaxed);
    let timeout = Some(Duration::from_millis(50));
    let running = harness.submit(Request { timeout, ..copy(&[10; 12]) });
    let waiting = harness.submit(Request { timeout, ..copy(&[10; 12]) });
    std::thread::sleep(Duration::from_millis(100));
    harness.gate.store(false, Ordering::Relaxed);
    for client in [running, waiting] {
        let error = client.complete().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.message.contains("deadline"), "{error}");
    }
    assert_eq!(harness.ended(Outcome::TimedOut), 2);
}

#[test]
fn prompts_that_cannot_be_served_are_refused_with_the_numbers() {
    let harness = Harness::new(1, EngineOptions::default());
    for (request, says) in [
        (copy(&[10; 33]), "33 tokens, at most 32"),
        (copy(&[]), "no tokens"),
        (Request { prefix: vec![10; 16], ..copy(&[10]) }, "16 tokens, at most 15"),
        (Request::default(), "at least one text"),
    ] {
        let error = harness.submit(request).complete().unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(error.message.contains(says), "{error}");
    }
}

#[test]
fn dropping_the_engine_lets_requests_finish() {
    let harness = Harness::new(2, EngineOptions::default());
    let clients: Vec<_> = (0..20).map(|_| harness.submit(copy(&[10, 11, 12]))).collect();
    drop(harness.engine);
    for client in clients {
        assert_eq!(client.complete().unwrap()[0].0, "abc");
    }
}

#[test]
fn dropping_the_engine_fails_what_does_not_finish_in_time() {
    let options = EngineOptions { drain_timeout: Duration::ZERO, ..EngineOptions::default() };
    let harness = Harness::new(1, options);
    harness.gate.store(true, Ordering::Relaxed);
    let clients: Vec<_> = (0..5).map(|_| harness.submit(copy(&[10; 12]))).collect();
    let gate = harness.gate.clone();
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        gate.store(false, Ordering::Relaxed);
    });
    drop(harness.engine);
    opener.join().unwrap();
    for client in clients {
        assert_eq!(client.complete().unwrap_err().kind, ErrorKind::Unavailable);
    }
}

#[test]
fn a_model_that_does_not_load_starts_no_engine() {
    let start = |load: fn() -> Result<Copier>| {
        let started =
            Engine::start("test", load, Arc::new(Letters), Arc::new(NoObserver), EngineOptions::default());
        started.err().unwrap()
    };
    let error = start(|| Err(Error::not_found("no weights")));
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NotFound, "no weights"));
    let error = start(|| panic!("a test panics"));
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(error.message.contains("panicked while it was loaded"), "{error}");
}
