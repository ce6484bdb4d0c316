//! `textgen convert` and `textgen inspect`.

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Artifact, fixture, path, textgen};

const FILES: [&str; 6] =
    ["decoder.onnx", "encoder.onnx", "manifest.json", "normalizer.json", "tokenizer.json", "weights.bin"];

fn names(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_artifact_is_written_and_its_place_printed() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("new/artifact");
    let printed = textgen(["convert", path(&fixture("t5")), "--out", path(&out)]).succeeded();
    assert_eq!(printed, format!("{}\n", out.display()));
    assert_eq!(names(&out), FILES);
    assert_eq!(names(&root.path().join("new")), ["artifact"]);
}

#[test]
fn an_entry_of_a_repository_is_written() {
    let root = tempfile::tempdir().unwrap();
    let source = fixture("t5");
    let arguments = ["convert", path(&source), "--repository", path(root.path()), "--name"];
    let printed = textgen(arguments.iter().chain(&["tiny"])).succeeded();
    assert_eq!(printed, format!("{}\n", root.path().join("tiny/1").display()));
    assert_eq!(names(&root.path().join("tiny")), ["1", "config.pbtxt"]);
    assert_eq!(names(&root.path().join("tiny/1")), FILES);
    textgen(arguments.iter().chain(&["a/tiny"])).failed(&["a/tiny", "slash"]);
}

#[test]
fn an_entry_with_a_configuration_is_filled_and_keeps_it() {
    let root = tempfile::tempdir().unwrap();
    let entry = root.path().join("mine");
    fs::create_dir_all(entry.join("1")).unwrap();
    fs::write(entry.join("1/.gitkeep"), "").unwrap();
    let config = "# mine\nbackend: \"textgen\"\nmax_batch_size: 4\n";
    fs::write(entry.join("config.pbtxt"), config).unwrap();
    let with = |source: &str, arguments: &[&str]| {
        let source = fixture(source);
        let convert = ["convert", path(&source), "--repository", path(root.path()), "--name", "mine"];
        textgen(convert.iter().chain(arguments))
    };

    assert_eq!(with("flan", &[]).succeeded(), format!("{}\n", entry.join("1").display()));
    let weights = fs::read(entry.join("1/weights.bin")).unwrap();
    with("mt5", &[]).failed(&["mine/1", "not empty", "--force"]);
    assert_eq!(fs::read(entry.join("1/weights.bin")).unwrap(), weights);
    with("mt5", &["--force"]).succeeded();
    assert_ne!(fs::read(entry.join("1/weights.bin")).unwrap(), weights);
    assert_eq!(fs::read_to_string(entry.join("config.pbtxt")).unwrap(), config);
    assert_eq!(names(&entry), ["1", "config.pbtxt"]);
    assert!(entry.join("1/.gitkeep").is_file());

    fs::write(entry.join("config.pbtxt"), "platform: \"ensemble\"\n").unwrap();
    with("flan", &["--force"]).failed(&["mine", "config.pbtxt", "backend"]);
}

#[test]
fn a_missing_or_unknown_source_is_named() {
    let root = tempfile::tempdir().unwrap();
    let (missing, out) = (root.path().join("missing"), root.path().join("out"));
    textgen(["convert", path(&missing), "--out", path(&out)]).failed(&[path(&missing), "No such file"]);
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    textgen(["convert", path(&empty), "--out", path(&out)]).failed(&[path(&empty), "config.json", "intgemm"]);
    assert_eq!(names(root.path()), ["empty"], "a failed conversion leaves nothing");
}

#[test]
fn an_earlier_result_is_replaced_only_by_force() {
    let artifact = Artifact::convert("flan");
    let dir = artifact.dir();
    let before = fs::read(dir.join("weights.bin")).unwrap();
    let source = fixture("mt5");
    let again = ["convert", path(&source), "--out", path(&dir)];
    textgen(again).failed(&[path(&dir), "not empty", "--force"]);
    assert_eq!(fs::read(dir.join("weights.bin")).unwrap(), before);
    textgen(again.iter().chain(&["--force"])).succeeded();
    assert_ne!(fs::read(dir.join("weights.bin")).unwrap(), before);

    let letters = tempfile::tempdir().unwrap();
    fs::write(letters.path().join("letter.txt"), "dear").unwrap();
    textgen(["convert", path(&source), "--out", path(letters.path()), "--force"])
        .failed(&[path(letters.path()), "something other than a converted model"]);
    assert_eq!(names(letters.path()), ["letter.txt"]);
}

#[test]
fn inspect_tells_what_an_artifact_is() {
    let artifact = Artifact::convert("flan");
    let report = textgen(["inspect", path(&artifact.dir())]).succeeded();
    let value = |key: &str| told(&report, key);
    assert_eq!(value("family"), "t5");
    assert_eq!(value("device"), "cpu");
    assert_eq!(value("layers"), "2 encoder, 3 decoder");
    assert_eq!(value("d_model"), "16");
    assert_eq!(value("cache heads"), "3 self, 3 cross, 4 wide");
    assert_eq!(value("vocabulary"), "120");
    for file in FILES.iter().filter(|file| **file != "manifest.json") {
        let bytes = fs::metadata(artifact.dir().join(file)).unwrap().len();
        assert!(value(&format!("  {file}")).ends_with(&format!("{bytes} bytes")), "{file}: {report}");
    }
    assert!(report.contains("[36, 16] /encoder/layers.0/self_attn/qkv"), "{report}");
    assert!(!report.contains("int8"), "{report}");

    let dir = artifact.dir();
    textgen(["convert", path(&fixture("flan")), "--out", path(&dir), "--precision", "int8", "--force"])
        .succeeded();
    let report = textgen(["inspect", path(&dir)]).succeeded();
    assert!(report.contains("int8 column    [120, 16] /lm_head"), "{report}");
}

/// What `inspect` says behind a key.
fn told(report: &str, key: &str) -> String {
    let line = report.lines().find(|line| line.starts_with(key));
    line.unwrap_or_else(|| panic!("no {key}: {report}"))[key.len()..].trim().to_owned()
}

#[test]
fn each_precision_for_cuda_is_written_and_told() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("artifact");
    let decoder_only = fixture("../decoder/llama");
    let encoder_decoder = fixture("t5");
    // The caches, then the formats of a layer whose inputs fill blocks, of one whose do not, and of the head.
    let (qkv, down) = ("/decoder/layers.0/self_attn/qkv", "/decoder/layers.0/mlp/down");
    for (precision, caches, formats) in [
        (None, "f16", ["f16", "f16", "f16"]),
        (Some("fp16"), "f16", ["f16", "f16", "f16"]),
        (Some("bf16"), "bf16", ["bf16", "bf16", "f16"]),
        (Some("int8"), "f16", ["int8 weight", "f16", "int8 weight"]),
        (Some("int4"), "f16", ["int4 weight", "f16", "int8 weight"]),
    ] {
        let convert = ["convert", path(&decoder_only), "--out", path(&out), "--device", "cuda", "--force"];
        let precision: Vec<&str> =
            precision.iter().flat_map(|precision| ["--precision", precision]).collect();
        let printed = textgen(convert.iter().chain(&precision)).succeeded();
        assert_eq!(printed, format!("{}\n", out.display()));
        assert!(!names(&out).contains(&"encoder.onnx".to_owned()));
        let report = textgen(["inspect", path(&out)]).succeeded();
        assert_eq!(told(&report, "device"), format!("cuda, caches in {caches}"));
        for (layer, format) in [qkv, down, "/lm_head"].into_iter().zip(formats) {
            let line = report.lines().find(|line| line.ends_with(layer)).unwrap();
            assert!(line.starts_with(&format!("  {format:<14} [")), "{precision:?}: {line}");
        }
    }
    for precision in ["fp16", "bf16", "int8"] {
        let convert = ["convert", path(&encoder_decoder), "--out", path(&out), "--force"];
        textgen(convert.iter().chain(&["--device", "cuda", "--precision", precision])).succeeded();
        assert_eq!(names(&out), FILES);
        let report = textgen(["inspect", path(&out)]).succeeded();
        assert!(told(&report, "device").starts_with("cuda"), "{report}");
        // The end of a feed-forward block stays in f32 where the rest is in f16.
        let line = report.lines().find(|line| line.ends_with("/encoder/layers.0/mlp/wo")).unwrap();
        let format = match precision {
            "fp16" => "f32",
            "bf16" => "bf16",
            _ => "int8 weight",
        };
        assert!(line.starts_with(&format!("  {format:<14} [")), "{precision}: {line}");
    }
}

#[test]
fn a_device_and_a_precision_must_agree() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("artifact");
    let convert = |source: &str, arguments: &[&str]| {
        let source = fixture(source);
        let convert = ["convert", path(&source), "--out", path(&out)];
        textgen(convert.iter().chain(arguments))
    };
    let cuda = ["--device", "cuda", "--precision"];
    let with = |precision: &'static str| [&cuda[..], &[precision]].concat();
    convert("t5", &with("int4")).failed(&["`t5`", "no int4 form", "choose int8, fp16 or bf16"]);
    convert("t5", &["--precision", "int4"]).failed(&["`t5`", "no int4 form", "choose int8 or fp32"]);
    for source in ["t5", "../decoder/llama"] {
        convert(source, &with("fp32")).failed(&[
            "--device cuda",
            "fp32",
            "expected --precision fp16, bf16, int8 or int4",
        ]);
        for precision in ["fp16", "bf16"] {
            convert(source, &["--precision", precision]).failed(&[
                "--device cpu",
                "16-bit",
                "expected --precision fp32, int8 or int4",
            ]);
        }
        convert(source, &with("fp8")).misused(&["--precision", "fp8", "bf16"]);
        convert(source, &["--device", "tpu"]).misused(&["--device", "tpu", "cuda"]);
    }
    convert("../decoder/qwen3", &with("fp16")).failed(&[
        "config.json",
        "head",
        "12",
        "a multiple of 8",
        "CPU",
    ]);
    assert_eq!(names(root.path()), [""; 0], "a refused conversion leaves nothing");
}

#[test]
fn an_artifact_for_cuda_says_so_to_the_server_and_to_the_program() {
    let root = tempfile::tempdir().unwrap();
    let texts = root.path().join("texts.txt");
    fs::write(&texts, "human rights\n").unwrap();
    let source = fixture("t5");
    let arguments = ["convert", path(&source), "--repository", path(root.path()), "--name"];
    textgen(arguments.iter().chain(&["plain"])).succeeded();
    let trimmed = ["fast", "--device", "cuda", "--keep-corpus", path(&texts)];
    textgen(arguments.iter().chain(&trimmed)).succeeded();
    let config = |entry: &str| fs::read_to_string(root.path().join(entry).join("config.pbtxt")).unwrap();
    let for_gpu = "\ninstance_group [ { count: 1, kind: KIND_GPU } ]\n";
    assert!(config("fast").ends_with(for_gpu) && !config("plain").contains(for_gpu));

    let artifact = root.path().join("fast/1");
    let report = textgen(["inspect", path(&artifact)]).succeeded();
    assert_eq!(told(&report, "device"), "cuda, caches in f16");
    let rows = told(&report, "vocabulary");
    assert!(rows.parse::<usize>().unwrap() < 60 && report.contains(&format!("[{rows}, 16] /lm_head")));
    // This machine's runtime computes on the CPU.
    textgen(["generate", path(&artifact), "human rights"])
        .failed(&["expected", "libonnxruntime_providers_cuda.so"]);
}

#[test]
fn a_part_of_a_vocabulary_is_kept_and_told() {
    let root = tempfile::tempdir().unwrap();
    let (source, out, texts) = (fixture("flan"), root.path().join("out"), root.path().join("texts.txt"));
    fs::write(&texts, "human rights\n").unwrap();
    let convert =
        ["convert", path(&source), "--out", path(&out), "--precision", "fp32", "--keep-corpus", path(&texts)];
    textgen(convert).succeeded();
    let report = textgen(["inspect", path(&out)]).succeeded();
    assert!(report.contains("\ntrimmed from     120, to texts of texts.txt\n"), "{report}");
    let rows: usize =
        report.lines().find_map(|line| line.strip_prefix("vocabulary")).unwrap().trim().parse().unwrap();
    assert!(rows < 60 && report.contains(&format!("[{rows}, 16] /lm_head")), "{report}");
    let generated = textgen(["generate", path(&out), "human rights", "--set", "max_tokens=4"]).succeeded();
    assert_eq!(generated.lines().count(), 1);

    let scripts = ["--keep-scripts", "Latin,cyrl", "--force"];
    textgen(convert.iter().chain(&scripts)).failed(&["the script Cyrillic is 0", "Latin"]);
    textgen(convert.iter().chain(&["--keep-scripts", "Latin", "--force"])).succeeded();
    let report = textgen(["inspect", path(&out)]).succeeded();
    assert!(report.contains("trimmed from     120, to Latin, texts of texts.txt\n"), "{report}");
}

#[test]
fn a_vocabulary_is_trimmed_to_what_exists() {
    let root = tempfile::tempdir().unwrap();
    let (source, out) = (fixture("flan"), root.path().join("out"));
    let convert = ["convert", path(&source), "--out", path(&out)];
    let scripts = ["--keep-scripts", "han,lattin"];
    textgen(convert.iter().chain(&scripts)).misused(&["--keep-scripts", "`lattin`", "Latin"]);
    textgen(convert.iter().chain(&["--keep-scripts", ""])).misused(&["--keep-scripts", "Cyrillic"]);
    let missing = root.path().join("missing");
    textgen(convert.iter().chain(&["--keep-corpus", path(&missing)]))
        .failed(&[path(&missing), "No such file"]);
    assert_eq!(names(root.path()), [""; 0]);
}

/// Converts a decoder-only fixture with other settings of its tokenizer, and gives what was said.
fn said_of_chat(name: &str, settings: Value, template: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    for file in fs::read_dir(fixture("../decoder").join(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), source.join(file.file_name())).unwrap();
    }
    let edit = |name: &str, keys: Value| {
        let mut json: Value = serde_json::from_slice(&fs::read(source.join(name)).unwrap()).unwrap();
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        fs::write(source.join(name), json.to_string()).unwrap();
    };
    for file in ["config.json", "generation_config.json"] {
        edit(file, json!({"eos_token_id": 150}));
    }
    edit("tokenizer_config.json", settings);
    if let Some(template) = template {
        fs::write(source.join("chat_template.jinja"), template).unwrap();
    }
    let out = folder.path().join("out");
    let run = textgen(["convert", path(&source), "--out", path(&out), "--precision", "fp32"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.stderr
}

#[test]
fn an_answer_that_does_not_end_is_told_of() {
    for name in ["qwen2", "qwen3"] {
        let said = said_of_chat(name, json!({"eos_token": null}), None);
        for word in ["chat_template.jinja", "`<|im_end|>`", "152", "eos_token_id"] {
            assert!(said.contains(word), "{name}: no {word:?} in: {said}");
        }
        assert_eq!(said_of_chat(name, json!({}), None), "", "{name}");
    }
    let plain = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}";
    assert_eq!(said_of_chat("qwen2", json!({"eos_token": null}), Some(plain)), "");
}

#[test]
fn a_chat_template_that_will_not_do_is_told_of() {
    let broken = said_of_chat("qwen2", json!({}), Some("{% for message in messages %}{{ message.content }}"));
    assert!(broken.contains("chat_template.jinja: line 1") && broken.contains("convert again"), "{broken}");
    let refuses = said_of_chat("qwen2", json!({}), Some("{{ raise_exception('never') }}"));
    assert!(refuses.contains("chat_template.jinja: ") && refuses.contains("never"), "{refuses}");
}
