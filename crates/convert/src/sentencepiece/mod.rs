//! SentencePiece Unigram models, rewritten as a Hugging Face `tokenizer.json` that gives the same ids.
//!
//! The parts correspond so:
//!
//! | SentencePiece | `tokenizer.json` |
//! | --- | --- |
//! | `precompiled_charsmap` | normalizer `Precompiled`, after `NFC` where the map is one of the NFKC ones |
//! | `remove_extra_whitespaces` | normalizers `Replace`: spaces at the ends, runs of spaces |
//! | `add_dummy_prefix` | normalizer `Prepend` |
//! | escaped spaces | normalizer `Replace`, pre-tokenizer and decoder `Metaspace` |
//! | pieces and scores | model `Unigram` |
//! | control symbols | special added tokens, which texts may name (SentencePiece itself spells them out) |
//! | sentinels | special added tokens after the pieces |
//!
//! `Precompiled` looks at grapheme clusters of up to five bytes by their shortest match and at larger ones
//! character by character, where SentencePiece takes the longest match at each place. `NFC` makes up for it
//! with decomposed letters, Vietnamese and Korean ones above all. What remains is rare: a composed letter
//! followed by another mark, marks in another order than the canonical one (SentencePiece leaves both as they
//! are), and a compatibility character with a mark (a full-width letter with an accent).
//! Scores are summed in f64 rather than f32, which could only matter between two ways that are as probable to
//! seven digits.

mod model;
mod tokenizer;

pub use model::SentencePiece;
pub use tokenizer::TokenizerOptions;
