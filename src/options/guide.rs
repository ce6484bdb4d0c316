//! `guided_decoding_guide` and its type: the texts of which an answer must be one, and what else in a request would
//! keep it from being one.

use std::sync::Arc;

use serde_json::Value;

use super::{Key, RequestOptions};
use crate::{
    decoding::{ChoiceGuide, SamplingParams},
    error::{Error, Result, SHOWN, shortened},
    tokenizer::Tokenizer,
};

const GUIDE: &str = "guided_decoding_guide";
const GUIDE_TYPE: &str = "guided_decoding_guide_type";
/// The only guide type that is served.
const CHOICE: &str = "choice";
/// Types that other servers know.
const UNBUILT: &[&str] = &["json", "json_schema", "regex", "ebnf_grammar", "structural_tag"];
const MAX_CHOICES: usize = 256;
const MAX_CHOICE_BYTES: usize = 1024;

/// The texts of a choice guide, in the client's order; none without a guide.
pub(super) fn choices(options: &RequestOptions) -> Result<Option<Arc<[String]>>> {
    let kind = options.non_empty(Key::GuidedDecodingGuideType);
    match (options.non_empty(Key::GuidedDecodingGuide), kind) {
        (None, None) => Ok(None),
        (_, Some(kind)) if kind != CHOICE => Err(refused_type(kind)),
        (Some(guide), Some(_)) => parse(guide).map(Some),
        (Some(_), None) => Err(Error::invalid_argument(format!(
            "{GUIDE}: got one without a {GUIDE_TYPE}; give the type \"{CHOICE}\" with it, or leave it out"
        ))),
        (None, Some(_)) => Err(Error::invalid_argument(format!(
            "{GUIDE_TYPE}: got \"{CHOICE}\" without a {GUIDE}; give the choices in a JSON list, or leave it out"
        ))),
    }
}

fn refused_type(kind: &str) -> Error {
    let shown = shortened(kind, SHOWN);
    if UNBUILT.contains(&kind) {
        return Error::unsupported(format!(
            "{GUIDE_TYPE}: got {shown:?}, which is declared, not built; leave it out, or give \"{CHOICE}\" and a JSON list \
             of choices"
        ));
    }
    Error::invalid_argument(format!("{GUIDE_TYPE}: got {shown:?}, expected \"{CHOICE}\""))
}

fn parse(guide: &str) -> Result<Arc<[String]>> {
    let refused = |got: String| {
        Error::invalid_argument(format!(
            "{GUIDE}: got {got}, expected a JSON list of 1 to {MAX_CHOICES} different strings of 1 to {MAX_CHOICE_BYTES} \
             bytes, such as [\"yes\", \"no\"]"
        ))
    };
    let list: Vec<Value> =
        serde_json::from_str(guide).map_err(|error| refused(format!("what is no JSON list ({error})")))?;
    if !(1..=MAX_CHOICES).contains(&list.len()) {
        return Err(refused(format!("{} choices", list.len())));
    }
    let mut choices: Vec<String> = Vec::with_capacity(list.len());
    for (index, choice) in list.into_iter().enumerate() {
        let Value::String(choice) = choice else {
            return Err(refused(format!("something other than a string at place {index}")));
        };
        if !(1..=MAX_CHOICE_BYTES).contains(&choice.len()) {
            return Err(refused(format!("a string of {} bytes at place {index}", choice.len())));
        }
        if choices.contains(&choice) {
            return Err(refused(format!("{:?} twice", shortened(&choice, SHOWN))));
        }
        choices.push(choice);
    }
    Ok(choices.into())
}

/// The guide of these texts, in the only tokens that the model's tokenizer makes of each. A text that the tokenizer
/// normalizes, such as one with full-width marks, or does not know in every character, is a choice too, and is answered
/// in the request's spelling. Refuses a text of which the tokenizer knows nothing, that is the same as another one to the
/// model, or that another option of the request rules out. `max_tokens` is the request's own; without one the longest
/// choice is the limit.
pub(super) fn guide(
    choices: &Arc<[String]>,
    max_tokens: Option<usize>,
    params: &mut SamplingParams,
    tokenizer: &Tokenizer,
) -> Result<()> {
    let mut sequences: Vec<Vec<u32>> = Vec::with_capacity(choices.len());
    let mut is_respelled = false;
    for choice in choices.iter() {
        let tokens = tokenizer.encode_target(choice)?;
        let said = said(&tokens, tokenizer);
        if said != *choice {
            if said.trim().is_empty() {
                let why = "the model's tokenizer knows nothing in it; use a text that it can write";
                return Err(refused(choice, why));
            }
            is_respelled = true;
        }
        check(choice, &tokens, max_tokens, params)?;
        if let Some(earlier) = sequences.iter().position(|sequence| *sequence == tokens) {
            let earlier = choices.get(earlier).map_or("", String::as_str);
            let why = format!(
                "the model cannot tell it from {:?}; leave out one of them",
                shortened(earlier, SHOWN)
            );
            return Err(refused(choice, &why));
        }
        sequences.push(tokens);
    }
    let guide = ChoiceGuide::new(sequences, &params.eos_token_ids).map_err(|error| error.context(GUIDE))?;
    let guide = if is_respelled { guide.spelled(choices.clone()) } else { guide };
    params.max_new_tokens = max_tokens.unwrap_or(guide.max_tokens());
    params.guide = Some(Arc::new(guide));
    Ok(())
}

/// The text that a client gets of these tokens.
fn said(tokens: &[u32], tokenizer: &Tokenizer) -> String {
    let mut text = String::new();
    let mut detokenizer = tokenizer.detokenizer();
    for &token in tokens {
        detokenizer.push(token, &mut text);
    }
    detokenizer.finish(&mut text);
    text
}

fn check(choice: &str, tokens: &[u32], max_tokens: Option<usize>, params: &SamplingParams) -> Result<()> {
    let needed = tokens.len() + 1;
    if let Some(max_tokens) = max_tokens.filter(|&max_tokens| max_tokens < needed) {
        return Err(refused(
            choice,
            &format!(
                "it takes {needed} tokens, its end included, and max_tokens is {max_tokens}; raise max_tokens"
            ),
        ));
    }
    if tokens.len() < params.min_new_tokens {
        let min = params.min_new_tokens;
        return Err(refused(
            choice,
            &format!("it ends after {} tokens, and min_tokens is {min}; lower min_tokens", tokens.len()),
        ));
    }
    if let Some(word) = params.stop_words.iter().find(|word| !word.is_empty() && choice.contains(*word)) {
        let word = shortened(word, SHOWN);
        return Err(refused(choice, &format!("stop_words would end it at {word:?}; leave out one of them")));
    }
    let said = |word: &Vec<u32>| tokens.windows(word.len().max(1)).any(|window| window == word);
    if params.bad_words.iter().any(said) {
        return Err(refused(choice, "bad_words forbids it; leave out one of them"));
    }
    if let Some(token) = tokens.iter().find(|token| params.suppress_tokens.contains(token)) {
        return Err(refused(choice, &format!("this model never says its token {token}; use other words")));
    }
    if let Some(token) = tokens.iter().find(|token| params.eos_token_ids.contains(token)) {
        return Err(refused(choice, &format!("its token {token} ends a target; use other words")));
    }
    Ok(())
}

fn refused(choice: &str, why: &str) -> Error {
    Error::invalid_argument(format!("{GUIDE}: the choice {:?}: {why}", shortened(choice, SHOWN)))
}
