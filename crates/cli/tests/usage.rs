//! The command line: help, exit codes, and what is said when it is wrong.

mod support;

use std::{fs, process::Stdio};

use support::{Artifact, Run, command, fixture, path, textgen};

#[test]
fn help_names_every_command_and_option() {
    let runtime =
        ["--runtime-library", "--threads", "--max-sequences", "--max-source-tokens", "--max-target-tokens"];
    let commands: [(&str, &[&str], bool); 5] = [
        (
            "convert",
            &["<SOURCE>", "--out", "--repository", "--name", "--precision", "fp32", "int8", "--force"],
            false,
        ),
        ("inspect", &["<DIR>"], false),
        ("generate", &["<DIR>", "[TEXT]...", "--jsonl", "--set", "input_ids", "text_input"], true),
        ("score", &["<DIR>", "--jsonl", "text_output", "target_ids"], true),
        ("bench", &["<DIR>", "--rows", "--source-tokens", "--steps", "--json"], true),
    ];
    let overview = textgen(["--help"]).succeeded();
    for (name, words, runs_models) in commands {
        assert!(overview.lines().any(|line| line.trim_start().starts_with(name)), "{name}: {overview}");
        let help = textgen([name, "--help"]).succeeded();
        let words = words.iter().chain(if runs_models { &runtime[..] } else { &[] });
        for word in words {
            assert!(help.contains(word), "{name}: no {word} in: {help}");
        }
        // The description is on the option's own line, or on the next.
        let lines: Vec<&str> = help.lines().map(str::trim).collect();
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("--")) {
            let next = lines.get(index + 1).unwrap_or(&"");
            let described = line.contains("  ") || !(next.is_empty() || next.starts_with('-'));
            assert!(described, "{name}: {line} is not described");
        }
    }
}

#[test]
fn a_wrong_command_line_is_refused() {
    textgen::<&str>([]).misused(&["Usage"]);
    textgen(["translate"]).misused(&["translate"]);
    textgen(["inspect"]).misused(&["<DIR>"]);
    textgen(["generate", "dir"]).misused(&["<TEXT>"]);
    textgen(["generate", "dir", "text", "--jsonl"]).misused(&["--jsonl"]);
    textgen(["generate", "dir", "text", "--threads", "0"]).misused(&["--threads"]);
    textgen(["score", "dir"]).misused(&["--jsonl"]);
    textgen(["bench", "dir", "--rows", "few"]).misused(&["--rows"]);
    textgen(["convert", "source"]).misused(&["--out"]);
    textgen(["convert", "source", "--repository", "models"]).misused(&["--name"]);
    textgen(["convert", "source", "--out", "x", "--repository", "y", "--name", "z"]).misused(&["--out"]);
    textgen(["convert", "source", "--out", "x", "--precision", "int3"]).misused(&["int8", "fp32"]);
}

#[test]
fn a_missing_runtime_is_named_with_what_was_tried() {
    let artifact = Artifact::convert("flan");
    let dir = artifact.dir();
    let model = ["generate", path(&dir), "text"];

    let missing = dir.join("no-such-library.so");
    textgen(model.iter().chain(&["--runtime-library", path(&missing)])).failed(&[path(&missing)]);
    Run::new(command(model).env("TEXTGEN_RUNTIME_LIBRARY", &missing), b"").failed(&[path(&missing)]);

    let other = dir.join("manifest.json");
    textgen(model.iter().chain(&["--runtime-library", path(&other)])).failed(&[path(&other), "ONNX Runtime"]);

    // A copy of the program, so that no library lies beside it.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = place.path().join("textgen");
    fs::hard_link(env!("CARGO_BIN_EXE_textgen"), &program).unwrap();
    let mut copy = std::process::Command::new(&program);
    copy.args(model).env_remove("TEXTGEN_RUNTIME_LIBRARY").env_remove("TEXTGEN_LOG");
    let beside = place.path().join("libonnxruntime.so");
    let below = place.path().join("textgen/libonnxruntime.so");
    Run::new(&mut copy, b"").failed(&[
        path(&beside),
        path(&below),
        "../../textgen/libonnxruntime.so",
        "--runtime-library",
        "TEXTGEN_RUNTIME_LIBRARY",
    ]);
}

#[test]
fn nobody_has_to_read_what_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (fixture("flan"), folder.path().join("out"));
    for arguments in
        [&["convert", path(&source), "--out", path(&out)][..], &["inspect", path(&out)], &["--help"]]
    {
        let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
