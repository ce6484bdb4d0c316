//! Special tokens that a client writes, told from those that a template writes.
//!
//! Before a template sees a client's text, each special token in it is broken by a mark behind its first character. A
//! text that ends with the beginning of a special token gets a mark there, because the text that follows could complete
//! the token. A text that starts with the end of one gets a mark in front. The tokenizer then finds the template's
//! special tokens and no others; the marks are taken out of what lies between, which is cut as plain text. Texts without
//! special tokens, by far the most, are looked through once and stay as they are.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    ops::Range,
};

use aho_corasick::AhoCorasick;
use tokenizers::{
    Model, NormalizedString, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Result, Token,
};

use super::{Vocabulary, normalizer::normalized};
use crate::error::{Error, SHOWN, shortened};

/// Breaks a special token. Unicode keeps this character for programs' own use: it is in no text that is exchanged.
pub const MARK: char = '\u{fdd0}';
/// At most this many passes over one text. Each pass finds tokens that overlap those of the pass before.
const MAX_LOOKS: usize = 64;

/// The special tokens of one vocabulary.
pub(super) struct Guard {
    contents: AhoCorasick,
    /// What special tokens begin with, none of them whole.
    beginnings: HashSet<String>,
    /// What they end with, none of them whole.
    endings: HashSet<String>,
    /// Bytes of the longest of them.
    longest: usize,
    /// Some are found in the normalized text, where other characters may spell them.
    any_normalized: bool,
    ids: HashSet<u32>,
    /// The model's own pieces have some of them, so that it may make them of plain text.
    made_by_model: bool,
    /// The normalizer makes other characters of marks, which would reach the model.
    spoils_marks: bool,
}

impl Guard {
    pub fn new(vocabulary: &Vocabulary) -> Result<Self> {
        let added = vocabulary.get_added_vocabulary().get_added_tokens_decoder();
        let special = added
            .iter()
            .filter(|(_, token)| (token.special || marks_turns(&token.content)) && !token.content.is_empty());
        let (ids, tokens): (HashSet<u32>, Vec<_>) = special.map(|(&id, token)| (id, token)).unzip();
        let cuts = tokens.iter().flat_map(|token| {
            let cuts = token.content.char_indices().skip(1);
            cuts.map(|(at, _)| token.content.split_at(at))
        });
        let cuts = cuts.map(|(beginning, ending)| (beginning.to_owned(), ending.to_owned()));
        let (beginnings, endings) = cuts.unzip();
        let model = vocabulary.get_model();
        let mut made_by_model = false;
        for token in tokens.iter().filter(|token| model.token_to_id(&token.content).is_some()) {
            // Most have them for their ids alone, and no way that leads there.
            made_by_model |= model.tokenize(&token.content)?.iter().any(|made| made.value == token.content);
        }
        // Something around it, since a normalizer may add to the start of a text.
        let with_mark = normalized(&format!("a{MARK}b"), vocabulary)?;
        let spoils_marks = without_marks(&with_mark) != normalized("ab", vocabulary)?;
        Ok(Self {
            spoils_marks,
            contents: AhoCorasick::new(tokens.iter().map(|token| &token.content))?,
            beginnings,
            endings,
            longest: tokens.iter().map(|token| token.content.len()).max().unwrap_or(0),
            any_normalized: vocabulary.get_normalizer().is_some()
                && tokens.iter().any(|token| token.normalized),
            made_by_model,
            ids,
        })
    }

    /// `text` with a mark in each special token.
    pub fn marked<'t>(
        &self,
        text: &'t str,
        vocabulary: &Vocabulary,
    ) -> std::result::Result<Cow<'t, str>, Error> {
        if text.contains(MARK) {
            return Err(Error::invalid_argument(
                "the text has the character U+FDD0, which Unicode keeps for programs' own use; leave it out",
            ));
        }
        let mut marked = Cow::Borrowed(text);
        if self.any_normalized || self.contents.is_match(text) {
            self.mark_tokens(&mut marked, vocabulary)?;
        }
        let ends = self.beginnings_at_end(&marked);
        if !ends.is_empty() {
            mark_behind(marked.to_mut(), &ends);
        }
        if self.begins_with_ending(text) {
            marked.to_mut().insert(0, MARK);
        }
        if self.spoils_marks && matches!(marked, Cow::Owned(_)) {
            return Err(Error::invalid_argument(format!(
                "{:?} has a special token of this model, or a part of one at its start or end, and the model's tokenizer \
                 cannot read it as plain text; leave it out",
                shortened(text, SHOWN)
            )));
        }
        Ok(marked)
    }

    fn mark_tokens(
        &self,
        text: &mut Cow<'_, str>,
        vocabulary: &Vocabulary,
    ) -> std::result::Result<(), Error> {
        for _ in 0..MAX_LOOKS {
            let found = self.found(text, vocabulary);
            if found.is_empty() {
                return Ok(());
            }
            let mut firsts = BTreeSet::new();
            for (range, content) in found {
                let spelled = text.get(range.clone()).unwrap_or_default();
                // Blanks around a token may belong to what was found, and its spelling may be another one.
                let (blanks, token) = match spelled.find(&content) {
                    Some(at) => (at, &*content),
                    None => (spelled.len() - spelled.trim_start().len(), spelled.trim_start()),
                };
                if token.chars().nth(1).is_none() {
                    return Err(unmarkable(token));
                }
                firsts.insert(range.start + blanks);
            }
            mark_behind(text.to_mut(), &firsts);
        }
        Err(unmarkable(text))
    }

    /// Where the tokenizer finds special tokens, and which.
    fn found(&self, text: &str, vocabulary: &Vocabulary) -> Vec<(Range<usize>, String)> {
        let added = vocabulary.get_added_vocabulary();
        let parts = added.extract_and_normalize(vocabulary.get_normalizer(), text);
        let special = |tokens: &Option<Vec<Token>>| {
            let id = tokens.iter().flatten().map(|token| token.id).find(|id| self.ids.contains(id))?;
            added.simple_id_to_token(id)
        };
        let parts = parts.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter();
        parts.filter_map(|(_, (start, end), tokens)| Some((start..end, special(tokens)?))).collect()
    }

    /// Where what ends the text begins, if it is the beginning of a special token.
    fn beginnings_at_end(&self, text: &str) -> BTreeSet<usize> {
        let starts = text.char_indices().rev().map(|(start, _)| start);
        let near = starts.take_while(|start| text.len() - start <= self.longest);
        near.filter(|&start| self.beginnings.contains(&text[start..])).collect()
    }

    fn begins_with_ending(&self, text: &str) -> bool {
        let ends = text.char_indices().map(|(start, character)| start + character.len_utf8());
        ends.take_while(|&end| end <= self.longest).any(|end| self.endings.contains(&text[..end]))
    }

    /// True when a text that went through [`Self::marked`], or one made of such texts, needs [`parts`] and [`Self::cut`].
    pub fn needs_care(&self, text: &str) -> bool {
        self.made_by_model || text.contains(MARK)
    }

    /// Tokens of plain text: never a special one.
    pub fn cut(&self, text: &str, vocabulary: &Vocabulary) -> Result<Vec<Token>> {
        let model = vocabulary.get_model();
        let made = model.tokenize(text)?;
        let ends = self.ends_of_firsts(&made, text);
        if ends.is_empty() {
            return Ok(made);
        }
        let mut tokens = Vec::new();
        // The last part is the next one.
        let mut parts = Vec::new();
        push_parts(text, &ends, &mut parts);
        while let Some(part) = parts.pop() {
            let made = model.tokenize(part)?;
            match self.ends_of_firsts(&made, part) {
                ends if ends.is_empty() => tokens.extend(made),
                ends => push_parts(part, &ends, &mut parts),
            }
        }
        Ok(tokens)
    }

    /// Where the first character of each special token ends.
    fn ends_of_firsts(&self, made: &[Token], text: &str) -> Vec<usize> {
        // The token of what is unknown may be special; its text is another one.
        let is_special = |token: &&Token| {
            self.ids.contains(&token.id) && text.get(token.offsets.0..token.offsets.1) == Some(&*token.value)
        };
        let end = |token: &Token| {
            let (start, _) = token.offsets;
            Some(start + text.get(start..)?.chars().next()?.len_utf8())
        };
        made.iter().filter(is_special).filter_map(end).filter(|&end| end < text.len()).collect()
    }
}

/// True for what a template writes around turns, which not every tokenizer calls special. `<think>` and the like are
/// others: templates look for them in an answer.
fn marks_turns(content: &str) -> bool {
    let between =
        |begin: &str, end: &str| content.strip_prefix(begin).is_some_and(|rest| rest.ends_with(end));
    between("<|", "|>") || between("<｜", "｜>") || matches!(content, "<start_of_turn>" | "<end_of_turn>")
}

/// Pushes what lies between these places, the last part first.
fn push_parts<'t>(text: &'t str, ends: &[usize], parts: &mut Vec<&'t str>) {
    let mut rest = text;
    for &end in ends.iter().rev() {
        let (before, after) = rest.split_at(end);
        parts.push(after);
        rest = before;
    }
    parts.push(rest);
}

fn unmarkable(token: &str) -> Error {
    Error::invalid_argument(format!(
        "{:?} is a special token of this model, and its tokenizer cannot read it as plain text; leave it out",
        shortened(&without_marks(token), SHOWN)
    ))
}

/// Puts a mark behind each character that begins there.
fn mark_behind(text: &mut String, starts: &BTreeSet<usize>) {
    let mut marked = String::with_capacity(text.len() + starts.len() * MARK.len_utf8());
    for (start, character) in text.char_indices() {
        marked.push(character);
        if starts.contains(&start) {
            marked.push(MARK);
        }
    }
    *text = marked;
}

/// What lies between the special tokens of `text`, and those, without marks.
pub(super) fn parts(text: &str, vocabulary: &Vocabulary) -> Result<PreTokenizedString> {
    let added = vocabulary.get_added_vocabulary();
    let mut parts = added.extract_and_normalize(vocabulary.get_normalizer(), text);
    parts.normalize(|part: &mut NormalizedString| {
        if part.get().contains(MARK) {
            part.filter(|character| character != MARK);
        }
        Ok(())
    })?;
    if let Some(pre_tokenizer) = vocabulary.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut parts)?;
    }
    Ok(parts)
}

/// The text as the client wrote it.
pub fn without_marks(text: &str) -> String {
    text.replace(MARK, "")
}
