//! Contract: the tokenizer made of a SentencePiece model gives the ids of SentencePiece itself.

use std::{fs, path::PathBuf};

use serde::Deserialize;
use textgen_artifact::TokenizerSpec;
use textgen_convert::sentencepiece::{SentencePiece, TokenizerOptions};
use triton_textgen::tokenizer::Tokenizer;

const EOS: u32 = 1;
const UNKNOWN: u32 = 2;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    nmt_nfkc: Vec<Encoded>,
    bytes: Vec<Encoded>,
    bare: Vec<Encoded>,
}

#[derive(Deserialize)]
struct Encoded {
    ids: Vec<u32>,
    decoded: String,
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/t5/tokenizer").join(name)
}

fn golden() -> Golden {
    serde_json::from_str(&fs::read_to_string(fixture("ids.json")).unwrap()).unwrap()
}

fn tokenizer(model: &str, sentinels: usize) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let model = SentencePiece::read(&fixture(model)).unwrap();
    let files = model.tokenizer_files(TokenizerOptions { eos_token_id: EOS, sentinels }).unwrap();
    files.write(folder.path()).unwrap();
    let spec = TokenizerSpec { add_special_tokens: true, source_suffix: Vec::new(), normalizer: true };
    Tokenizer::load(folder.path(), &spec).unwrap()
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_source(text).unwrap()
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let (mut detokenizer, mut text) = (tokenizer.detokenizer(), String::new());
    ids.iter().for_each(|&id| detokenizer.push(id, &mut text));
    detokenizer.finish(&mut text);
    text
}

#[test]
fn ids_are_those_of_sentencepiece() {
    let golden = golden();
    let models = [("nmt_nfkc", &golden.nmt_nfkc), ("bytes", &golden.bytes), ("bare", &golden.bare)];
    for (model, expected) in models {
        let tokenizer = tokenizer(&format!("{model}.model"), 0);
        assert_eq!(golden.texts.len(), expected.len());
        for (text, expected) in golden.texts.iter().zip(expected) {
            assert_eq!(tokenizer.encode_target(text).unwrap(), expected.ids, "{model}: {text:?}");
            assert_eq!(ids(&tokenizer, text), [&expected.ids[..], &[EOS]].concat(), "{model}: {text:?}");
        }
    }
}

#[test]
fn ids_decode_to_the_same_text() {
    let golden = golden();
    let models = [("nmt_nfkc", &golden.nmt_nfkc), ("bytes", &golden.bytes), ("bare", &golden.bare)];
    for (model, expected) in models {
        let tokenizer = tokenizer(&format!("{model}.model"), 0);
        // An unknown token has no text here and a placeholder there.
        let known = expected.iter().filter(|encoded| !encoded.ids.contains(&UNKNOWN));
        for encoded in known {
            let got = decode(&tokenizer, &encoded.ids);
            assert_eq!(got, encoded.decoded, "{model}: {:?}", encoded.ids);
        }
    }
}

/// Runs of byte tokens, broken and cut in every way.
#[test]
fn bytes_decode_to_the_same_text() {
    let runs: Vec<Encoded> =
        serde_json::from_str(&fs::read_to_string(fixture("runs.json")).unwrap()).unwrap();
    let tokenizer = tokenizer("bytes.model", 0);
    assert!(runs.len() > 200);
    for Encoded { ids, decoded } in runs {
        assert_eq!(decode(&tokenizer, &ids), decoded, "{ids:?}");
    }
}

#[test]
fn sentinels_follow_the_pieces_from_the_last_to_the_first() {
    let tokenizer = tokenizer("bare.model", 10);
    let pieces = SentencePiece::read(&fixture("bare.model")).unwrap().len() as u32;
    assert_eq!(tokenizer.token_to_id("<extra_id_0>"), Some(pieces + 9));
    assert_eq!(tokenizer.token_to_id("<extra_id_9>"), Some(pieces));
    let got = ids(&tokenizer, "the<extra_id_0>the");
    assert_eq!(got.iter().filter(|&&id| id == pieces + 9).count(), 1);
}

#[test]
fn special_tokens_can_be_named_and_are_left_out_of_text() {
    let tokenizer = tokenizer("nmt_nfkc.model", 0);
    assert_eq!(ids(&tokenizer, "</s><pad>"), [EOS, 0, EOS]);
    assert_eq!(decode(&tokenizer, &[0, EOS]), "");
    // Named, not spelled by other characters that are normalized to the same.
    for text in ["＜/s＞", "<／s>", "a＜pad＞b", "＜unk＞"] {
        let ids = tokenizer.encode_target(text).unwrap();
        assert!(ids.len() > 2 && !ids.contains(&EOS) && !ids.contains(&0), "{text}: {ids:?}");
    }
}

#[test]
fn a_model_without_the_end_of_sequence_is_refused() {
    let model = SentencePiece::read(&fixture("bare.model")).unwrap();
    let options = TokenizerOptions { eos_token_id: 1 << 20, sentinels: 0 };
    assert!(model.tokenizer_files(options).unwrap_err().to_string().contains("1048576"));
}
