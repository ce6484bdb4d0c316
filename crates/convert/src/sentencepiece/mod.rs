//! SentencePiece Unigram models, rewritten as a Hugging Face `tokenizer.json` and a normalizer that together
//! give the same ids.
//!
//! The parts correspond so:
//!
//! | SentencePiece | artifact |
//! | --- | --- |
//! | `precompiled_charsmap`, `remove_extra_whitespaces`, `add_dummy_prefix`, escaped spaces | `normalizer.json` |
//! | control, unknown and byte pieces, which no text spells | `tokenizer.json`: pre-tokenizer `Split` behind `<` |
//! | escaped spaces of pieces | pre-tokenizer and decoder `Metaspace` |
//! | pieces and scores | model `Unigram` |
//! | control symbols | special added tokens, which texts may name (SentencePiece itself spells them out) |
//! | sentinels | special added tokens after the pieces |
//!
//! The normalizer `Precompiled` of Hugging Face does not do for SentencePiece's: it looks at grapheme clusters,
//! where SentencePiece takes the longest match at each place, and so differs in accents that are decomposed, in
//! another order, or on a compatibility character. The backend therefore normalizes as SentencePiece does.
//! Scores are summed in f64 rather than f32, which could only matter between two ways that are as probable to
//! seven digits.

mod model;
mod tokenizer;

pub use model::SentencePiece;
pub use tokenizer::TokenizerOptions;
