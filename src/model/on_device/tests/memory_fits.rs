//! Sizes that fit in a device's memory.

use super::{converted::options, *};
use crate::{
    engine::{CrossView, DecodeBatch, EncodeBatch},
    model::MayShrink,
};

const ALL: MayShrink = MayShrink { sequences: true, sources: true, targets: true, contexts: true };

/// A decoder in miniature, on a device of so many bytes.
fn reserved(
    memory: usize,
    change: impl FnOnce(&mut ExecutorOptions),
) -> (Result<DeviceExecutor>, Arc<RecordingDevice>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(textgen_artifact::DECODER_FILE), decoder()).unwrap();
    let device = Arc::new(RecordingDevice::with_memory(memory));
    let mut options = options();
    options.max_sequences = 32;
    options.may_shrink = ALL;
    change(&mut options);
    (reserved_on(&device, folder.path(), &manifest(), SPEC, &options), device)
}

/// Bytes of the caches of the miniature with so many slots, all of its positions long.
fn caches(slots: usize) -> usize {
    memory::cache_bytes(&manifest(), SPEC, ExecutorLimits { slots, ..LIMITS })
}

#[test]
fn there_are_as_many_slots_as_fit() {
    let most = reserved(1 << 30, |_| {}).0.unwrap();
    assert_eq!(most.limits().slots, 32);
    let (fewer, device) = reserved(caches(20), |_| {});
    let mut fewer = fewer.unwrap();
    let slots = fewer.limits().slots;
    assert!((10..20).contains(&slots), "{slots} slots");
    assert!(device.live_bytes() <= caches(20));
    let mut batch = DecodeBatch::default();
    batch.push(&[3, 4], slots - 1, 0, None);
    batch.want_logits();
    fewer.decode(&batch).unwrap();
}

#[test]
fn a_limit_holds_for_all_that_a_model_takes() {
    let held = reserved(1 << 30, |_| {}).0.unwrap().held_bytes();
    for room in [caches(9), caches(70)] {
        let limit = held + room;
        let (executor, device) = reserved(1 << 30, |options| options.cuda.gpu_mem_limit = Some(limit as u64));
        let executor = executor.unwrap();
        let (slots, memory) = (executor.limits().slots, executor.memory());
        assert!(slots * 2 > room / caches(1) && slots <= memory::MOST_SLOTS, "{slots} slots");
        assert!(memory.weights + memory.caches + memory.workspace.unwrap() <= limit, "{memory:?}");
        assert_eq!(memory.caches, caches(slots));
        assert!(device.live_bytes() - memory.caches < 32 * slots + 2000);
    }
}

#[test]
fn what_was_asked_for_and_does_not_fit_is_refused_with_the_numbers() {
    let (executor, device) = reserved(caches(20), |options| options.may_shrink.sequences = false);
    let error = executor.err().unwrap();
    assert_eq!(error.kind, crate::error::ErrorKind::InvalidArgument);
    for part in ["32 sequences", "12 tokens", "MiB are left", "lower max_sequences"] {
        assert!(error.message.contains(part), "{part} is not in: {error}");
    }
    assert_eq!(device.live_bytes(), 0, "a refused model gives everything back");
    let error = reserved(1 << 30, |options| options.cuda.gpu_mem_limit = Some(1)).0.err().unwrap();
    assert!(error.message.contains("0 MiB are left") && error.message.contains("gpu_mem_limit"), "{error}");
}

#[test]
fn texts_are_shorter_where_few_would_fit() {
    let long = ExecutorLimits { slots: 32, max_target_tokens: 4096, vocab_size: 2, ..LIMITS };
    let fitting = |may_shrink, bytes| memory::fit(&manifest(), SPEC, long, may_shrink, bytes);
    let bytes = |slots, max_target_tokens| {
        let limits = ExecutorLimits { slots, max_target_tokens, ..long };
        // With what a step needs.
        memory::cache_bytes(&manifest(), SPEC, limits) + 16 * slots
    };
    let sizes = |limits: ExecutorLimits| (limits.slots, limits.max_target_tokens);
    assert_eq!(fitting(ALL, bytes(7, 4096)).map(sizes), Ok((7, 4096)));
    assert_eq!(fitting(ALL, bytes(4, 2048)).map(sizes), Ok((4, 2048)));
    assert_eq!(fitting(ALL, bytes(2, 256)).map(sizes), Ok((2, 256)));
    let exact = MayShrink { contexts: false, ..ALL };
    assert_eq!(fitting(exact, bytes(3, 4096)).map(sizes), Ok((3, 4096)));
    let only_shorter = MayShrink { sequences: false, ..ALL };
    assert_eq!(fitting(only_shorter, bytes(32, 1024)).map(sizes), Ok((32, 1024)));
    assert!(fitting(ALL, bytes(1, 256) - 1).is_err());
}

#[test]
fn all_that_is_reserved_is_accounted_for() {
    for fixture in ["t5/t5", "decoder/llama"] {
        let (mut executor, _) = super::converted::loaded(fixture);
        let limits = executor.limits();
        let memory = executor.memory();
        assert!(
            memory.weights > 0 && memory.caches > 0 && memory.workspace > Some(0),
            "{fixture}: {memory:?}"
        );
        // The largest step that the limits allow finds its memory.
        let held = executor.held_bytes();
        let mut cross = None;
        if let Some(encoder) = limits.encoder {
            let mut sources = EncodeBatch::default();
            let rows = encoder.cross_slots.min(limits.slots);
            (0..rows).for_each(|slot| sources.push(&vec![3; encoder.max_source_tokens], slot));
            executor.encode(&sources).unwrap();
            cross = Some(CrossView { slot: 0, tokens: encoder.max_source_tokens });
        }
        let mut batch = DecodeBatch::default();
        batch.push(&vec![3; limits.max_target_tokens], 0, 0, cross);
        batch.want_logits();
        executor.decode(&batch).unwrap();
        assert_eq!(executor.held_bytes(), held, "{fixture}");
    }
}
