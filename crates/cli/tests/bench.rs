//! `textgen bench`: that it runs and what it prints, not how fast anything is.

mod support;

use serde_json::{Value, json};
use support::{Artifact, path, textgen};

#[test]
fn every_number_of_rows_is_measured() {
    let artifact = Artifact::convert("flan");
    let dir = artifact.dir();
    let bench =
        ["bench", path(&dir), "--threads", "1", "--rows", "3,1", "--source-tokens", "5", "--steps", "2"];
    let printed = textgen(bench.iter().chain(&["--json"])).succeeded();
    let report: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["family"], json!("t5"));
    assert_eq!(
        (&report["source_tokens"], &report["steps"], &report["threads"]),
        (&json!(5), &json!(2), &json!(1))
    );
    let results = report["results"].as_array().unwrap();
    let rows: Vec<&Value> = results.iter().map(|result| &result["rows"]).collect();
    assert_eq!(rows, [3, 1]);
    for result in results {
        let number = |key: &str| result[key].as_f64().unwrap_or_else(|| panic!("no {key}: {result}"));
        assert!(number("encode_ms") > 0.0 && number("step_ms") > 0.0 && number("bandwidth_share") > 0.0);
        assert!(number("total_ms") > number("encode_ms"), "{result}");
        let tokens = number("rows") * 2.0;
        assert!(
            (number("total_tokens_per_second") * number("total_ms") / 1e3 - tokens).abs() < 1e-6,
            "{result}"
        );
    }
    let table = textgen(bench).succeeded();
    assert!(table.contains("tokens/s of total") && table.lines().count() == 4, "{table}");
}

#[test]
fn real_texts_are_timed() {
    let artifact = Artifact::convert("flan");
    let dir = artifact.dir();
    let texts = dir.join("texts");
    std::fs::write(&texts, "one\n\ntwo words\nand three words\n").unwrap();
    let bench = ["bench", path(&dir), "--threads", "1", "--json", "--texts", path(&texts), "--rows"];
    let printed = textgen(bench.iter().chain(&["3,1"])).succeeded();
    let report: Value = serde_json::from_str(&printed).unwrap();
    assert!(report["resident_bytes"].as_u64().unwrap() > 1 << 20, "{report}");
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.iter().map(|result| &result["rows"]).collect::<Vec<_>>(), [3, 1]);
    for result in results {
        assert!(result["total_ms"].as_f64().unwrap() > 0.0, "{result}");
        assert!(result["total_tokens_per_second"].as_f64().unwrap() > 0.0, "{result}");
    }
    // A blank line is no text.
    textgen(bench.iter().chain(&["4"])).failed(&["--rows 4", "1 to 3"]);
    textgen(["bench", path(&dir), "--texts", path(&texts)]).misused(&["--json"]);
}

#[test]
fn sizes_that_are_not_served_are_refused() {
    let artifact = Artifact::convert("flan");
    let dir = artifact.dir();
    textgen(["bench", path(&dir), "--rows", "0"]).failed(&["--rows", "at least 1"]);
    textgen(["bench", path(&dir), "--source-tokens", "600"]).failed(&["--source-tokens 600", "512"]);
}
