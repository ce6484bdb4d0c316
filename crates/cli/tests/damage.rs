//! An artifact that is damaged is refused with a message that names the file; nothing crashes.

mod support;

use std::fs;

use support::{Artifact, path, textgen};

/// What turns text into tokens; their last byte is a line feed.
const TEXT_FILES: [&str; 2] = ["tokenizer.json", "normalizer.json"];
const FILES: [&str; 6] =
    ["manifest.json", "encoder.onnx", "decoder.onnx", "weights.bin", TEXT_FILES[0], TEXT_FILES[1]];

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for command in
        [&["inspect", path(&missing)][..], &["generate", path(&missing), "text"], &["bench", path(&missing)]]
    {
        textgen(command).failed(&[path(&missing), "manifest.json", "No such file"]);
    }
}

#[test]
fn a_damaged_file_is_named() {
    let artifact = Artifact::convert("flan");
    let dir = artifact.dir();
    let run = || textgen(["generate", path(&dir), "text", "--threads", "1", "--set", "max_tokens=2"]);
    for name in FILES {
        let file = dir.join(name);
        let bytes = fs::read(&file).unwrap();
        // Cut in half, by one byte, and to nothing.
        for length in [bytes.len() / 2, bytes.len() - 1, 0] {
            // The last byte of these is a line feed, or padding that nothing reads.
            let ends_in_nothing = name == "manifest.json" || TEXT_FILES.contains(&name);
            if length > 0 && length == bytes.len() - 1 && ends_in_nothing {
                continue;
            }
            fs::write(&file, &bytes[..length]).unwrap();
            run().failed(&[path(&file)]);
        }
        fs::write(&file, vec![0xa5; bytes.len()]).unwrap();
        // Any bytes are weights.
        if name != "weights.bin" {
            run().failed(&[path(&file)]);
        }
        fs::remove_file(&file).unwrap();
        run().failed(&[path(&file)]);
        fs::create_dir(&file).unwrap();
        run().failed(&[path(&file)]);
        fs::remove_dir(&file).unwrap();
        fs::write(&file, bytes).unwrap();
    }
    run().succeeded();
}

#[test]
fn files_of_two_artifacts_do_not_crash_together() {
    let (artifact, other) = (Artifact::convert("flan"), Artifact::convert("mt5"));
    let dir = artifact.dir();
    for name in FILES.iter().filter(|name| !TEXT_FILES.contains(name)) {
        let file = dir.join(name);
        let bytes = fs::read(&file).unwrap();
        fs::copy(other.dir().join(name), &file).unwrap();
        let run = textgen(["generate", path(&dir), "text", "--threads", "1", "--set", "max_tokens=2"]);
        // Weights of the same size or larger cannot be told from this model's.
        let refused = *name != "weights.bin";
        assert_eq!(run.code, Some(i32::from(refused)), "{name}: {}", run.stderr);
        fs::write(&file, bytes).unwrap();
    }
}
