//! Tokens to text, one by one: pieces that are characters, and characters that are split into bytes.

use std::{hint::black_box, path::Path};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use textgen_artifact::TokenizerSpec;
use triton_textgen::tokenizer::Tokenizer;

const TEXTS: [(&str, &str); 3] = [
    ("ASCII", "the text is in the house and you are there, to explain it again. "),
    ("Chinese", "你好，中文。中文你好。"),
    ("emoji in bytes", "😀 the 🎉 the 🚀 the "),
];

fn tokenizer() -> Tokenizer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoder/gemma3");
    let spec = TokenizerSpec { add_special_tokens: false, source_suffix: Vec::new(), normalizer: false };
    Tokenizer::load(&dir, &spec).unwrap()
}

#[inline(never)]
fn measured(tokenizer: &Tokenizer, tokens: &[u32], text: &mut String) {
    let mut detokenizer = tokenizer.detokenizer();
    for &token in tokens {
        detokenizer.push(token, text);
    }
    detokenizer.finish(text);
}

fn detokenize(criterion: &mut Criterion) {
    let tokenizer = tokenizer();
    let mut group = criterion.benchmark_group("detokenizer");
    for (name, text) in TEXTS {
        let expected = text.repeat(20);
        let tokens = tokenizer.encode_target(&expected).unwrap();
        let mut text = String::new();
        measured(&tokenizer, &tokens, &mut text);
        assert_eq!(text, expected);
        group.throughput(Throughput::Elements(tokens.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                text.clear();
                measured(&tokenizer, black_box(&tokens), &mut text);
            });
        });
    }
}

criterion_group!(benches, detokenize);
criterion_main!(benches);
