//! Contract: whatever is in a file of a checkpoint, a conversion ends with an artifact or an error. It does not panic,
//! abort, hang, or take more than 2 GiB.
//!
//! Each test runs itself again in a process whose memory is limited, and there converts mutants of a fixture for some
//! seconds: 5, or as many as the environment variable `TEXTGEN_FUZZ_SECONDS` says. Mutants follow from their numbers;
//! a failure names the last one, and `TEXTGEN_FUZZ_FIRST` starts with it.

mod support;

use std::{
    env, fs,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use textgen_artifact::Manifest;
use textgen_convert::{ConvertOptions, Precision, Target, convert};

const SECONDS: &str = "TEXTGEN_FUZZ_SECONDS";
const FIRST: &str = "TEXTGEN_FUZZ_FIRST";
const DEFAULT_SECONDS: u64 = 5;
/// Says that this is the process with the limit, and where it notes the mutant at hand.
const NOTE: &str = "TEXTGEN_FUZZ_NOTE";
const MEMORY_KIB: u64 = 2 << 20;
/// No mutant takes nearly as long.
const HANG: Duration = Duration::from_secs(120);

const PRECISIONS: [Precision; 3] = [Precision::Fp32, Precision::Int8, Precision::Int4];

/// Pseudo-random numbers that follow from a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A place in so many bytes, more often near an end, where headers and directories are.
    fn place(&mut self, length: usize) -> usize {
        match self.below(4) {
            0 => self.below(length),
            1 => length.saturating_sub(1 + self.below(length.min(1500))),
            _ => self.below(length.min(1500)),
        }
    }
}

fn mutant(original: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    const COUNTS: [u64; 12] = [
        0,
        1,
        2,
        127,
        255,
        1 << 16,
        1 << 30,
        i32::MAX as u64,
        u32::MAX as u64,
        1 << 40,
        i64::MAX as u64,
        u64::MAX,
    ];
    const TEXTS: [&str; 12] = [
        "-1",
        "0",
        "1e400",
        "18446744073709551615",
        "1000000000",
        "null",
        "[]",
        "{}",
        "\"\"",
        "true",
        "0.5",
        "\u{0}",
    ];
    let mut bytes = original.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.place(bytes.len());
        match numbers.below(9) {
            0 => bytes.truncate(at),
            1 => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << numbers.below(8)),
            2 => bytes.get_mut(at).into_iter().for_each(|byte| *byte = numbers.next() as u8),
            3 | 4 => {
                let value = numbers.of(&COUNTS).to_le_bytes();
                let width = numbers.of(&[4, 8]);
                if let Some(place) = bytes.get_mut(at..at + width) {
                    place.copy_from_slice(&value[..width]);
                }
            }
            5 => {
                // A number of a text, or what stands in its place.
                let digits = |byte: &u8| byte.is_ascii_digit();
                if let Some(start) = bytes.iter().skip(at).position(digits).map(|found| found + at) {
                    let end = start + bytes[start..].iter().take_while(|byte| digits(byte)).count();
                    bytes.splice(start..end, numbers.of(&TEXTS).bytes());
                }
            }
            6 => {
                let end = (at + numbers.below(64)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            7 => {
                let from = numbers.place(bytes.len());
                let part =
                    bytes[from.min(bytes.len())..(from + numbers.below(256)).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let byte = numbers.of(b"[{(\"\x85\x90\x00\xff");
                bytes.splice(at..at, vec![byte; 1 << numbers.below(17)]);
            }
        }
    }
    bytes
}

/// Puts mutants in the place of a file of `source`, and reads each with `read`.
fn fuzz(test: &str, source: &Path, file: &str, read: fn(&Path, u64)) {
    let Some(note) = env::var_os(NOTE).map(PathBuf::from) else { return guard(test) };
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse().ok());
    let end = Instant::now() + Duration::from_secs(number(SECONDS).unwrap_or(DEFAULT_SECONDS));
    let original = fs::read(source.join(file)).unwrap();
    for seed in number(FIRST).unwrap_or(0).. {
        fs::write(&note, seed.to_string()).unwrap();
        fs::write(source.join(file), mutant(&original, &mut Numbers(seed))).unwrap();
        if panic::catch_unwind(AssertUnwindSafe(|| read(source, seed))).is_err() {
            panic!("mutant {seed} made it panic");
        }
        if Instant::now() > end {
            break;
        }
    }
}

/// Runs a test again, under a limit.
fn guard(test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join("note");
    let child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {MEMORY_KIB} && exec \"$0\" \"$@\"")])
        .arg(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(NOTE, &note)
        .spawn()
        .unwrap();
    let status = wait(child, &note);
    let last = fs::read_to_string(&note).unwrap_or_default();
    assert!(status.is_some_and(|status| status.success()), "{test}: mutant {last}: {status:?}");
    assert!(last.parse::<u64>().is_ok_and(|count| count > 0), "{test}: ran {last:?} mutants");
}

/// None when it hangs.
fn wait(mut child: Child, note: &Path) -> Option<ExitStatus> {
    let (mut last, mut since) = (String::new(), Instant::now());
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        let now = fs::read_to_string(note).unwrap_or_default();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > HANG {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn convert_mutant(source: &Path, seed: u64) {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("out");
    let precision = PRECISIONS[seed as usize % PRECISIONS.len()];
    let options = ConvertOptions {
        source: source.to_owned(),
        target: Target::Folder(target.clone()),
        plan: precision.into(),
        keep: None,
        force: false,
    };
    match convert(&options) {
        Ok(report) => drop(Manifest::read(&report.artifact).unwrap()),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(!target.exists(), "{error}");
        }
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// A copy of a fixture's files.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn fuzz_folder(test: &str, name: &str, file: &str) {
    fuzz(test, copy(name).path(), file, convert_mutant);
}

#[test]
fn safetensors() {
    fuzz_folder("safetensors", "t5/t5", "model.safetensors");
}

#[test]
fn safetensors_index() {
    fuzz_folder("safetensors_index", "t5/madlad", "model.safetensors.index.json");
}

#[test]
fn sentencepiece() {
    fuzz_folder("sentencepiece", "t5/t5", "spiece.model");
}

#[test]
fn t5_config() {
    fuzz_folder("t5_config", "t5/mt5", "config.json");
}

#[test]
fn decoder_config() {
    fuzz_folder("decoder_config", "decoder/gemma3", "config.json");
}

#[test]
fn tokenizer() {
    fuzz_folder("tokenizer", "decoder/llama", "tokenizer.json");
}

#[test]
fn pytorch() {
    let dir = copy("t5/t5");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    fs::copy(fixture("torch/pytorch_model.bin"), dir.path().join("pytorch_model.bin")).unwrap();
    fuzz("pytorch", dir.path(), "pytorch_model.bin", convert_mutant);
}

fn fuzz_gguf(test: &str, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture(&format!("gguf/{name}.gguf")), dir.path().join("model.gguf")).unwrap();
    fuzz(test, dir.path(), "model.gguf", convert_mutant);
}

#[test]
fn gguf_with_merges() {
    fuzz_gguf("gguf_with_merges", "llama");
}

#[test]
fn gguf_with_scores() {
    fuzz_gguf("gguf_with_scores", "gemma3");
}

#[test]
fn bergamot() {
    let dir = tempfile::tempdir().unwrap();
    support::write_package(dir.path(), &support::model());
    fuzz("bergamot", dir.path(), "model.tiny.intgemm.alphas.bin", convert_mutant);
}

#[test]
fn manifest() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::Folder(dir.path().join("out"));
    let source = fixture("decoder/llama");
    let options = ConvertOptions { source, target, plan: Precision::Int8.into(), keep: None, force: false };
    let report = convert(&options).unwrap();
    fuzz("manifest", &report.artifact, "manifest.json", |artifact, _| {
        if let Err(error) = Manifest::read(artifact) {
            assert!(!error.to_string().is_empty());
        }
    });
}
