//! The engine's contract for drafts: they change how many steps an answer takes, and nothing else.

use super::{
    choices::{guided, told},
    prompts::{PromptHarness, expected, prompt, request},
    *,
};

fn drafting(num_tokens: usize) -> EngineOptions {
    EngineOptions {
        prompt_lookup: PromptLookup { num_tokens, ..PromptLookup::default() },
        ..EngineOptions::default()
    }
}

/// Text, tokens and end of each sequence.
type Answers = Vec<(String, Vec<u32>, Finished)>;

fn answers(client: &Client) -> std::result::Result<Answers, Error> {
    let mut answers: Vec<(String, Vec<u32>, Option<Finished>)> = Vec::new();
    loop {
        match client.next() {
            Event::Update(index, text, tokens, finished) => {
                answers.resize(answers.len().max(index + 1), Default::default());
                let answer = &mut answers[index];
                assert!(!tokens.is_empty() && answer.2.is_none());
                answer.0.push_str(&text);
                answer.1.extend(tokens);
                answer.2 = finished;
            }
            Event::ChoiceProbabilities(..) => {}
            Event::Complete => break,
            Event::Failed(error) => return Err(error),
        }
    }
    Ok(answers.into_iter().map(|(text, tokens, finished)| (text, tokens, finished.unwrap())).collect())
}

/// What the same request comes to without drafts.
fn undrafted(request: Request) -> Answers {
    answers(&Harness::new(8, EngineOptions::default()).submit(request)).unwrap()
}

fn letters(count: u32) -> Vec<u32> {
    (10..10 + count).collect()
}

fn limited(source: &[u32], max_new_tokens: usize) -> Request {
    Request { params: SamplingParams { max_new_tokens, ..SamplingParams::default() }, ..copy(source) }
}

/// Tokens of each step of a single sequence.
fn fed(harness: &Harness) -> Vec<usize> {
    harness.record.lock().unwrap().fed.iter().map(|rows| rows[0]).collect()
}

#[test]
fn a_copy_takes_few_steps_and_every_token_counts_once() {
    let harness = Harness::new(4, drafting(5));
    let client = harness.submit(copy(&letters(14)));
    let (mut pieces, mut text) = (Vec::new(), String::new());
    let finished = loop {
        match client.next() {
            Event::Update(0, piece, tokens, finished) => {
                text.push_str(&piece);
                pieces.push(tokens.len());
                if let Some(finished) = finished {
                    break finished;
                }
            }
            _ => panic!("an update was expected"),
        }
    };
    assert_eq!((text.as_str(), finished.reason), ("abcdefghijklmn", FinishReason::Stop));
    assert_eq!((finished.num_input_tokens, finished.num_output_tokens), (14, 15));
    // Nothing is fed along before a guess was right. The last draft runs into what stands behind the source.
    assert_eq!(fed(&harness), [1, 1, 3, 6, 5]);
    assert_eq!(pieces, [1, 1, 3, 6, 4]);
    drop(harness.engine);
    let observed = harness.outcomes.0.lock().unwrap();
    assert_eq!((observed.generated, observed.gaps), (15, 14));
    assert_eq!((observed.drafted, observed.accepted), (11, 10));
}

#[test]
fn a_draft_may_be_wrong_at_any_place() {
    for place in 0..14 {
        for other in place..14 {
            let mut source = letters(14);
            source[place] = TYPO + 3;
            source[other] = TYPO + 4;
            let harness = Harness::new(4, drafting(5));
            assert_eq!(
                answers(&harness.submit(copy(&source))).unwrap(),
                undrafted(copy(&source)),
                "{source:?}"
            );
        }
    }
    let mut source = letters(14);
    source[8] = TYPO;
    let harness = Harness::new(4, drafting(5));
    answers(&harness.submit(copy(&source))).unwrap();
    assert_eq!(fed(&harness)[..4], [1, 1, 3, 6]);
    drop(harness.engine);
    let observed = harness.outcomes.0.lock().unwrap();
    assert_eq!(observed.generated, 15);
    assert!(observed.accepted >= 2 + 3 && observed.accepted < observed.drafted, "{}", observed.accepted);
}

#[test]
fn a_sequence_ends_in_the_middle_of_a_draft() {
    for place in 0..12 {
        let mut source = letters(14);
        source[place] = EOS;
        let harness = Harness::new(4, drafting(5));
        let got = answers(&harness.submit(copy(&source))).unwrap();
        assert_eq!((got[0].1.len(), got[0].2.reason), (place + 1, FinishReason::Stop));
        assert_eq!(got, undrafted(copy(&source)));
        drop(harness.engine);
        let observed = harness.outcomes.0.lock().unwrap();
        assert_eq!((observed.generated, observed.gaps), (place + 1, place));
    }
    for (stop, text) in [("c", "ab"), ("ef", "abcd"), ("ijk", "abcdefgh"), ("no", "abcdefghijklm")] {
        let request = || {
            let stop_words = vec![stop.to_owned()];
            Request {
                params: SamplingParams { stop_words, ..SamplingParams::default() },
                ..copy(&letters(15))
            }
        };
        let got = answers(&Harness::new(4, drafting(5)).submit(request())).unwrap();
        assert_eq!((got[0].0.as_str(), got[0].2.reason), (text, FinishReason::Stop));
        assert_eq!(got, undrafted(request()));
    }
}

#[test]
fn limits_and_the_end_of_the_cache_hold() {
    for max_new_tokens in 1..16 {
        let harness = Harness::new(4, drafting(8));
        let got = answers(&harness.submit(limited(&letters(20), max_new_tokens))).unwrap();
        assert_eq!((got[0].1.len(), got[0].2.reason), (max_new_tokens, FinishReason::Length));
        assert_eq!(got, undrafted(limited(&letters(20), max_new_tokens)));
        // Nothing is fed that cannot be used.
        assert_eq!(fed(&harness).iter().sum::<usize>(), max_new_tokens);
    }
    let got = answers(&Harness::new(4, drafting(8)).submit(copy(&letters(20)))).unwrap();
    assert_eq!((got[0].1.len(), got[0].2.reason), (16, FinishReason::Length));
}

#[test]
fn processors_see_each_token_in_its_place() {
    let source: Vec<u32> = [letters(3), letters(3), letters(3), letters(3)].concat();
    let params = || SamplingParams::default();
    for params in [
        SamplingParams { min_new_tokens: 14, ..params() },
        SamplingParams { repetition_penalty: 1.5, ..params() },
        SamplingParams { frequency_penalty: 3.0, presence_penalty: 2.0, ..params() },
        SamplingParams { bad_words: vec![vec![12, 10, 11, 12, 10], vec![11, 11]], ..params() },
    ] {
        let request = || Request { params: params.clone(), ..copy(&source) };
        assert_eq!(answers(&Harness::new(4, drafting(5)).submit(request())).unwrap(), undrafted(request()));
    }
}

#[test]
fn samples_with_a_seed_stay_what_they_are() {
    let harness = Harness::new(8, drafting(5));
    for seed in 0..20 {
        let request = || Request {
            params: SamplingParams {
                temperature: 2.0,
                top_k: 30,
                seed: Some(seed),
                num_return_sequences: 3,
                suppress_tokens: (0..10).filter(|&token| token != EOS).chain(TYPO..VOCAB as u32).collect(),
                logprobs: true,
                ..SamplingParams::default()
            },
            ..copy(&letters(14))
        };
        assert_eq!(answers(&harness.submit(request())).unwrap(), undrafted(request()), "seed {seed}");
    }
    drop(harness.engine);
    let observed = harness.outcomes.0.lock().unwrap();
    assert!(observed.accepted > 50 && observed.drafted > observed.accepted + 50, "{}", observed.accepted);
}

#[test]
fn choices_and_their_scores_stay_what_they_are() {
    let request = || {
        let params = SamplingParams { num_return_sequences: 2, ..SamplingParams::default() };
        guided(&[&letters(8), &[10, 11, 10, 11]], &[&letters(8), &[10, 11, 10, 11], &[11]], params)
    };
    let plain = told(&Harness::new(4, EngineOptions::default()).submit(request())).unwrap();
    assert_eq!(told(&Harness::new(4, drafting(5)).submit(request())).unwrap(), plain);
}

#[test]
fn drafts_keep_a_step_small_and_many_rows_leave_no_room_for_them() {
    for rows in [1, 3, 8, 15, 16, 24] {
        let harness = Harness::new(24, drafting(10));
        harness.gate.store(true, Ordering::Relaxed);
        let clients: Vec<_> = (0..rows).map(|_| harness.submit(copy(&letters(14)))).collect();
        harness.gate.store(false, Ordering::Relaxed);
        for client in clients {
            assert_eq!(client.complete().unwrap()[0].0, "abcdefghijklmn");
        }
        let record = harness.record.lock().unwrap();
        for step in &record.fed {
            assert!(step.iter().sum::<usize>() <= step.len().max(16), "{step:?}");
        }
        let drafts =
            record.fed.iter().any(|step| step.len() == rows && step.iter().any(|&tokens| tokens > 1));
        assert_eq!(drafts, rows < 16, "{rows} rows");
    }
}

#[test]
fn a_guess_is_no_reason_to_fail() {
    for bad in [BAD_STEP, BAD_LOGITS] {
        let mut source = letters(14);
        source[4] = bad;
        let harness = Harness::new(4, drafting(5));
        harness.gate.store(true, Ordering::Relaxed);
        let sources = [letters(14), source.clone(), letters(9)];
        let clients: Vec<_> = sources.iter().map(|source| harness.submit(copy(source))).collect();
        harness.gate.store(false, Ordering::Relaxed);
        for (client, source) in clients.iter().zip(&sources) {
            assert_eq!(answers(client).unwrap(), undrafted(copy(source)));
        }
        drop(harness.engine);
        let observed = harness.outcomes.0.lock().unwrap();
        assert_eq!(observed.ended, HashMap::from([(Outcome::Completed, 3)]));
        assert_eq!(observed.generated, 15 + 15 + 10);
        assert!(observed.accepted > 0);
    }
}

#[test]
fn a_sequence_that_fails_in_a_draft_has_said_what_was_before() {
    // Its logits are no numbers once it has fed the token that it says itself.
    let source: Vec<u32> =
        (0..14).map(|place| if place == 5 { BAD_LOGITS + CORRECTION } else { 10 + place }).collect();
    for options in [EngineOptions::default(), drafting(5)] {
        let harness = Harness::new(4, options);
        let failing = harness.submit(copy(&source));
        let mut said = Vec::new();
        let error = loop {
            match failing.next() {
                Event::Update(_, _, tokens, None) => said.extend(tokens),
                Event::Failed(error) => break error,
                _ => panic!("it cannot end well"),
            }
        };
        assert_eq!((said.len(), error.kind), (6, ErrorKind::Internal));
        assert_eq!(answers(&harness.submit(copy(&letters(3)))).unwrap(), undrafted(copy(&letters(3))));
    }
}

#[test]
fn a_model_that_cannot_go_back_drafts_nothing() {
    let harness = Harness::copying(Copier { can_rewind: false, ..Copier::new(2) }, drafting(5));
    assert_eq!(harness.submit(copy(&letters(12))).complete().unwrap()[0].0, "abcdefghijkl");
    assert_eq!(fed(&harness), [1; 13]);
}

#[test]
fn a_source_in_other_words_is_not_looked_through() {
    let harness = Harness::copying(Copier { shares_vocabulary: false, ..Copier::new(2) }, drafting(5));
    assert_eq!(harness.submit(copy(&letters(12))).complete().unwrap()[0].0, "abcdefghijkl");
    assert_eq!(fed(&harness), [1; 13]);
    // What has been said is.
    let repeated = [letters(4), letters(4), letters(4)].concat();
    assert_eq!(harness.submit(copy(&repeated)).complete().unwrap()[0].0, "abcdabcdabcd");
    assert!(fed(&harness)[13..].iter().any(|&tokens| tokens > 1));
}

#[test]
fn caches_are_shared_and_reused_as_without_drafts() {
    let engine = PromptHarness::new(3, drafting(4));
    for round in 0..12 {
        // All letters, so that something is always guessed.
        let shared: Vec<u32> = [prompt(round % 4, 50), letters(26)].concat();
        let mut clients = Vec::new();
        for tail in 0..4 {
            let source = [&shared[..], &[20 + tail, 21]].concat();
            clients.push((engine.harness.submit(request(&source, 90)), source));
        }
        for (client, source) in clients {
            assert_eq!(client.complete().unwrap(), expected(&source, 90));
            // The next turn begins with all that was said, drafts that were wrong not among it.
            let mut turn = source.clone();
            turn.extend(answers_of(&source, 90));
            turn.push(12);
            assert_eq!(engine.harness.submit(request(&turn, 30)).complete().unwrap(), expected(&turn, 30));
        }
    }
    drop(engine.harness.engine);
    let observed = engine.harness.outcomes.0.lock().unwrap();
    assert_eq!(observed.generated, 12 * 4 * (90 + 30));
    let (drafted, accepted) = (observed.drafted, observed.accepted);
    assert!(accepted > 40 && drafted > accepted + 100, "{accepted} of {drafted}");
}

/// The tokens that the model of `prompts` says.
fn answers_of(source: &[u32], new_tokens: usize) -> Vec<u32> {
    expected(source, new_tokens)[0].0.chars().map(|letter| letter as u32 - 'a' as u32 + 10).collect()
}
