//! The engine's contract for decoder-only models: prompts in parts, beginnings from caches.
//!
//! The scripted model holds the tokens of each slot and says a hash of all of them, so that a slot which does not
//! hold what the engine believes shows in the text.

use super::*;

/// What happened, as the executor saw it.
#[derive(Debug, Default)]
struct Log {
    /// Tokens fed by each row of each step.
    steps: Vec<Vec<usize>>,
    /// Copied beginnings: tokens.
    copies: Vec<usize>,
    /// Steps before each of them.
    copied_after: Vec<usize>,
}

struct Hasher {
    slots: Vec<Vec<u32>>,
    logits: Vec<f32>,
    log: Arc<Mutex<Log>>,
    gate: Gate,
    copies_fail: bool,
}

pub(super) const CONTEXT: usize = 256;

fn follows(history: &[u32]) -> u32 {
    let hash =
        history.iter().fold(1u32, |hash, token| (hash ^ token).wrapping_mul(0x9E37_79B1).rotate_left(13));
    10 + hash % 12
}

impl Executor for Hasher {
    fn limits(&self) -> ExecutorLimits {
        ExecutorLimits {
            slots: self.slots.len(),
            max_target_tokens: CONTEXT,
            vocab_size: VOCAB,
            can_rewind: true,
            encoder: None,
        }
    }

    fn encode(&mut self, _: &EncodeBatch) -> Result<()> {
        unreachable!("there is no encoder")
    }

    fn decode(&mut self, batch: &DecodeBatch) -> Result<()> {
        while self.gate.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        if batch.tokens.contains(&BAD_STEP) {
            return Err(Error::internal("the step fails"));
        }
        self.logits.clear();
        let mut wanted = batch.logit_rows.iter().peekable();
        for row in 0..batch.rows() {
            let slot = &mut self.slots[batch.slots[row] as usize];
            let position = batch.positions[row] as usize;
            assert!(position <= slot.len(), "the slot holds {} tokens, not {position}", slot.len());
            slot.truncate(position);
            for (place, &token) in batch.row(row).iter().enumerate() {
                slot.push(token);
                if wanted.next_if_eq(&&(i64::from(batch.row_offsets[row]) + place as i64)).is_some() {
                    let start = self.logits.len();
                    self.logits.resize(start + VOCAB, 0.0);
                    self.logits[start + follows(slot) as usize] = 10.0;
                }
            }
            assert!(slot.len() <= CONTEXT);
        }
        assert_eq!(wanted.next(), None, "logits of no token");
        let fed = (0..batch.rows()).map(|row| batch.row(row).len()).collect();
        self.log.lock().unwrap().steps.push(fed);
        Ok(())
    }

    fn copy_prefix(&mut self, from: usize, to: usize, tokens: usize) -> Result<()> {
        if self.copies_fail {
            return Err(Error::internal("no copy"));
        }
        let copied = self.slots[from][..tokens].to_vec();
        self.slots[to] = copied;
        let mut log = self.log.lock().unwrap();
        log.copies.push(tokens);
        let steps = log.steps.len();
        log.copied_after.push(steps);
        Ok(())
    }

    fn logits_mut(&mut self, row: usize) -> Result<&mut [f32]> {
        Ok(&mut self.logits[row * VOCAB..(row + 1) * VOCAB])
    }
}

pub(super) struct PromptHarness {
    pub(super) harness: Harness,
    log: Arc<Mutex<Log>>,
}

impl PromptHarness {
    pub(super) fn new(slots: usize, options: EngineOptions) -> Self {
        Self::with(slots, options, false)
    }

    fn with(slots: usize, options: EngineOptions, copies_fail: bool) -> Self {
        let log = Arc::new(Mutex::new(Log::default()));
        let gate = Gate::default();
        let executor = Hasher {
            slots: vec![Vec::new(); slots],
            logits: Vec::new(),
            log: log.clone(),
            gate: gate.clone(),
            copies_fail,
        };
        Self { harness: Harness::over(executor, gate, options), log }
    }

    fn steps(&self) -> Vec<Vec<usize>> {
        self.log.lock().unwrap().steps.clone()
    }
}

pub(super) fn prompt(start: u32, len: u32) -> Vec<u32> {
    (0..len).map(|index| 10 + (start + index * 7) % 40).collect()
}

pub(super) fn request(source: &[u32], new_tokens: usize) -> Request {
    Request {
        params: SamplingParams { max_new_tokens: new_tokens, ..SamplingParams::default() },
        ..copy(source)
    }
}

pub(super) fn expected(source: &[u32], new_tokens: usize) -> Vec<(String, FinishReason, usize)> {
    let mut history = source.to_vec();
    for _ in 0..new_tokens {
        history.push(follows(&history));
    }
    let text = history[source.len()..].iter().map(|&token| letter(token)).collect();
    vec![(text, FinishReason::Length, new_tokens)]
}

#[test]
fn a_prompt_is_fed_whole_while_no_stream_waits() {
    let engine = PromptHarness::new(2, EngineOptions { max_encode_tokens: 30, ..EngineOptions::default() });
    let source = prompt(0, 70);
    assert_eq!(engine.harness.submit(request(&source, 3)).complete().unwrap(), expected(&source, 3));
    assert_eq!(engine.steps(), [[30], [30], [10], [1], [1]]);
}

#[test]
fn a_long_prompt_is_fed_in_parts_beside_a_stream() {
    let engine = PromptHarness::new(2, EngineOptions { max_prefill_tokens: 8, ..EngineOptions::default() });
    // A prompt of one token is a stream at once.
    let (short, long) = (prompt(0, 1), prompt(3, 100));
    engine.harness.gate.store(true, Ordering::Relaxed);
    let stream = engine.harness.submit(request(&short, 40));
    let late = engine.harness.submit(request(&long, 5));
    engine.harness.gate.store(false, Ordering::Relaxed);
    assert_eq!(late.complete().unwrap(), expected(&long, 5));
    assert_eq!(stream.complete().unwrap(), expected(&short, 40));
    let beside: Vec<_> = engine.steps().into_iter().filter(|step| step.len() == 2).collect();
    assert!(beside.len() >= 13, "{beside:?}");
    assert!(beside.iter().all(|step| step[0] == 1 && step[1] <= 8), "{beside:?}");
}

#[test]
fn samples_of_one_prompt_feed_it_once() {
    let engine = PromptHarness::new(4, EngineOptions::default());
    let source = prompt(1, 60);
    let mut samples = request(&source, 4);
    samples.params.num_return_sequences = 4;
    let got = engine.harness.submit(samples).complete().unwrap();
    assert_eq!(got, [&expected(&source, 4)[..]; 4].concat());
    assert_eq!(engine.log.lock().unwrap().copies, [59; 3]);
    assert_eq!(engine.steps().iter().flatten().filter(|&&tokens| tokens > 1).count(), 1);
}

#[test]
fn a_prompt_that_waits_for_its_twin_holds_up_nobody() {
    let options = EngineOptions { max_encode_tokens: 4, max_prefill_tokens: 4, ..EngineOptions::default() };
    let engine = PromptHarness::new(4, options);
    let (long, stranger) = (prompt(0, 200), prompt(9, 3));
    engine.harness.gate.store(true, Ordering::Relaxed);
    let leader = engine.harness.submit(request(&long, 2));
    let twin = engine.harness.submit(request(&long, 2));
    let other = engine.harness.submit(request(&stranger, 2));
    engine.harness.gate.store(false, Ordering::Relaxed);
    assert_eq!(other.complete().unwrap(), expected(&stranger, 2));
    for client in [leader, twin] {
        assert_eq!(client.complete().unwrap(), expected(&long, 2));
    }
    let log = engine.log.lock().unwrap();
    // The twin need not wait for the last few tokens.
    assert!(matches!(log.copies[..], [160..=199]), "{:?}", log.copies);
    let before = &log.steps[..log.copied_after[0]];
    assert!(before.iter().any(|step| step.len() == 2), "the stranger waited too");
}

#[test]
fn a_beginning_is_reused_by_later_requests_and_the_next_turn() {
    let engine = PromptHarness::new(2, EngineOptions::default());
    let beginning = prompt(5, 50);
    for tail in 0..6 {
        let source = [&beginning[..], &[20 + tail, 21, 22]].concat();
        assert_eq!(engine.harness.submit(request(&source, 3)).complete().unwrap(), expected(&source, 3));
        // The next turn: what was said, and more.
        let mut turn = source.clone();
        for _ in 0..3 {
            turn.push(follows(&turn));
        }
        turn.extend([30, 31]);
        assert_eq!(engine.harness.submit(request(&turn, 2)).complete().unwrap(), expected(&turn, 2));
    }
    let fed: usize = engine.steps().iter().flatten().sum();
    assert!(fed < 150, "{fed} tokens were fed for 12 requests");
}

#[test]
fn without_reuse_everything_is_fed_and_nothing_copied() {
    let options = EngineOptions { prefix_reuse: false, ..EngineOptions::default() };
    let engine = PromptHarness::new(2, options);
    let source = prompt(5, 50);
    for _ in 0..3 {
        assert_eq!(engine.harness.submit(request(&source, 1)).complete().unwrap(), expected(&source, 1));
    }
    assert_eq!(engine.steps(), [[50]; 3]);
    assert!(engine.log.lock().unwrap().copies.is_empty());
}

#[test]
fn a_copy_that_fails_costs_time_only() {
    let engine = PromptHarness::with(4, EngineOptions::default(), true);
    let source = prompt(1, 60);
    let mut samples = request(&source, 4);
    samples.params.num_return_sequences = 3;
    let got = engine.harness.submit(samples).complete().unwrap();
    assert_eq!(got, [&expected(&source, 4)[..]; 3].concat());
}

#[test]
fn a_prompt_that_fails_leaves_the_others_and_its_slot() {
    let engine = PromptHarness::new(2, EngineOptions::default());
    let good = prompt(2, 40);
    let bad = [&good[..30], &[BAD_STEP]].concat();
    engine.harness.gate.store(true, Ordering::Relaxed);
    let clients = [&bad, &good, &bad, &good].map(|source| engine.harness.submit(request(source, 5)));
    engine.harness.gate.store(false, Ordering::Relaxed);
    for (index, client) in clients.into_iter().enumerate() {
        match client.complete() {
            Ok(got) => assert_eq!((index % 2, got), (1, expected(&good, 5))),
            Err(error) => assert_eq!((index % 2, error.kind), (0, ErrorKind::Internal)),
        }
    }
    assert_eq!(engine.harness.submit(request(&good, 5)).complete().unwrap(), expected(&good, 5));
}

#[test]
fn a_prompt_given_up_midway_frees_its_slot() {
    let options = EngineOptions { max_encode_tokens: 4, ..EngineOptions::default() };
    let engine = PromptHarness::new(1, options);
    let source = prompt(0, 200);
    engine.harness.gate.store(true, Ordering::Relaxed);
    let client = engine.harness.submit(request(&source, 5));
    client.give_up(Error::cancelled("gone"));
    engine.harness.gate.store(false, Ordering::Relaxed);
    assert_eq!(client.complete().unwrap_err().kind, ErrorKind::Cancelled);
    let fed: usize = engine.steps().iter().flatten().sum();
    assert!(fed <= 8, "{fed} tokens of a prompt that nobody waits for");
    // What has been fed is worth having.
    assert_eq!(engine.harness.submit(request(&source, 2)).complete().unwrap(), expected(&source, 2));
}

#[test]
fn what_does_not_fit_the_context_is_refused_with_the_numbers_and_a_long_answer_is_cut() {
    let engine = PromptHarness::new(1, EngineOptions::default());
    let error = engine.harness.submit(request(&prompt(0, 256), 1)).complete().unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    assert!(error.message.contains("256 tokens, the context holds 256"), "{error}");
    let source = prompt(0, 250);
    assert_eq!(engine.harness.submit(request(&source, 100)).complete().unwrap(), expected(&source, 6));
}
