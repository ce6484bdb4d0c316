//! Runs the program as a user does, on the T5 fixtures.

#![allow(dead_code)]

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/t5").join(name)
}

pub fn reference(name: &str) -> Value {
    let file = fixture(name).join("reference.json");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// What a run of the program came to.
pub struct Run {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn new(command: &mut Command, stdin: &[u8]) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut pipe = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // A program that does not read its input closes the pipe.
            scope.spawn(move || pipe.write_all(stdin));
            child.wait_with_output().unwrap()
        });
        Self::from(output)
    }

    /// Checks the exit code and gives the standard output.
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// Checks the exit code, that nothing was printed, and that the message is one line that has all `words`.
    #[track_caller]
    pub fn failed(self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        let message = self.stderr.trim_end();
        assert!(message.starts_with("textgen: ") && !message.contains('\n'), "{message}");
        for word in words {
            assert!(message.contains(word), "no {word:?} in: {message}");
        }
    }

    /// Checks that the command line was refused with a message that has all `words`.
    #[track_caller]
    pub fn misused(self, words: &[&str]) {
        assert_eq!(self.code, Some(2), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in: {}", self.stderr);
        }
    }

    /// The objects on the standard output, one a line.
    pub fn objects(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_textgen"));
    command.args(arguments).env_remove("TEXTGEN_LOG");
    command
}

pub fn textgen<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Run {
    Run::new(&mut command(arguments), b"")
}

/// An artifact in a folder of its own.
pub struct Artifact {
    folder: TempDir,
}

impl Artifact {
    /// In f32, as the reference is.
    pub fn convert(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("artifact");
        let source = fixture(name);
        let arguments = ["convert", path(&source), "--out", path(&out), "--precision", "fp32"];
        textgen(arguments).succeeded();
        Self { folder }
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("artifact")
    }

    /// `textgen generate --jsonl` with these lines on its standard input.
    pub fn generate(&self, arguments: &[&str], lines: &[u8]) -> Run {
        self.run("generate", arguments, lines)
    }

    /// `textgen score --jsonl`, likewise.
    pub fn score(&self, lines: &[u8]) -> Run {
        self.run("score", &[], lines)
    }

    fn run(&self, name: &str, arguments: &[&str], lines: &[u8]) -> Run {
        let dir = self.dir();
        let mut command = command([name, path(&dir), "--jsonl", "--threads", "1"]);
        Run::new(command.args(arguments), lines)
    }
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The input of `--jsonl`: one object a line.
pub fn lines(objects: &[Value]) -> Vec<u8> {
    objects.iter().map(|object| format!("{object}\n")).collect::<String>().into_bytes()
}

/// Checks that `object` is the error of line `id`, with all `words` in its message.
#[track_caller]
pub fn assert_error(object: &Value, id: &Value, words: &[&str]) {
    assert_eq!(object["id"], *id, "{object}");
    assert_eq!(object.as_object().unwrap().len(), 2, "{object}");
    let message = object["error"].as_str().unwrap();
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
}
