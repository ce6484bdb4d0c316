//! Which tokens end a text: those that the metadata names, and those that llama.cpp knows by their texts, since few
//! files name them all.

use super::{
    Gguf,
    tokenizer::{Kind, Vocabulary},
};
use crate::error::Result;

/// Names of such tokens in the metadata.
const NAMED: [&str; 6] = ["eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"];

/// Ends of a text, a turn, or a message.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// What a model of code writes where a file or a repository ends.
const ENDS_OF_CODE: [&str; 11] = [
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// A token that ends nothing in a vocabulary that has one of each of these groups: there it stands inside of an answer.
const EXCEPTIONS: [(&str, &[&[&str]]); 3] = [
    ("<|end|>", &[&["<|return|>"], &["<|call|>", "<|calls|>"]]),
    ("<|end|>", &[&["<|flush|>"], &["<|call|>", "<|calls|>"]]),
    ("</s>", &[&["<|tool_response>"]]),
];

impl Gguf {
    /// Ids of the tokens that end a text, those of the metadata first.
    pub fn ends(&self) -> Result<Vec<usize>> {
        let mut ends = Vec::new();
        for name in NAMED {
            ends.extend(self.special_id(name)?.filter(|id| !ends.contains(id)));
        }
        let vocabulary = self.vocabulary()?;
        let known = (0..vocabulary.tokens.len()).filter(|&id| is_end(&vocabulary, id));
        let unnamed: Vec<usize> = known.filter(|id| !ends.contains(id)).collect();
        ends.extend(unnamed);

        let text = |id: usize| vocabulary.tokens[id].as_str();
        let has = |group: &&[&str]| ends.iter().any(|&id| group.contains(&text(id)));
        let excepted: Vec<&str> = EXCEPTIONS
            .iter()
            .filter(|(_, groups)| groups.iter().all(has))
            .map(|(excepted, _)| *excepted)
            .collect();
        ends.retain(|&id| !excepted.contains(&text(id)));
        Ok(ends)
    }
}

fn is_end(vocabulary: &Vocabulary, id: usize) -> bool {
    let text = vocabulary.tokens[id].as_str();
    let is_known = ENDS.contains(&text) || ENDS_OF_CODE.contains(&text);
    // Some files do not mark these tokens. Gemma's vocabulary has `</s>` as a tag of HTML.
    let may_be = match vocabulary.kinds[id] {
        Kind::Control => true,
        Kind::Unused | Kind::Byte => false,
        Kind::Normal | Kind::Unknown | Kind::UserDefined => text != "</s>",
    };
    is_known && may_be
}
