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
    /// Makes control tokens of the ends that a file has as other pieces, as llama.cpp does.
    pub(super) fn mark_ends(&self, vocabulary: &mut Vocabulary) -> Result<()> {
        let mut named = Vec::new();
        for name in NAMED {
            named.extend(self.special_id(name)?);
        }
        for (id, (text, kind)) in vocabulary.tokens.iter().zip(&mut vocabulary.kinds).enumerate() {
            // Gemma's vocabulary has `</s>` as a tag of HTML, and a base model may end at a word or a line feed.
            let is_end = match named.contains(&id) {
                true => text.starts_with('<') && text.ends_with('>'),
                false => text != "</s>" && is_known(text),
            };
            if is_end && matches!(kind, Kind::Normal | Kind::UserDefined) {
                *kind = Kind::Control;
            }
        }
        Ok(())
    }

    /// Ids of the tokens that end a text, those of the metadata first.
    pub fn ends(&self) -> Result<Vec<usize>> {
        let mut ends = Vec::new();
        for name in NAMED {
            ends.extend(self.special_id(name)?.filter(|id| !ends.contains(id)));
        }
        let vocabulary = self.vocabulary()?;
        let is_special = |id: usize| matches!(vocabulary.kinds[id], Kind::Control | Kind::Unknown);
        let known =
            (0..vocabulary.tokens.len()).filter(|&id| is_special(id) && is_known(&vocabulary.tokens[id]));
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

fn is_known(text: &str) -> bool {
    ENDS.contains(&text) || ENDS_OF_CODE.contains(&text)
}
