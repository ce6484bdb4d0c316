//! What is wrong with the chat template of a model that has just been converted, before a server finds out.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use textgen_artifact::{CHAT_TEMPLATE_FILE, Manifest, TOKENIZER_FILE};
use triton_textgen::prompt::{ChatTemplate, Conversation};

/// An answer that no template has a reason to change.
const ANSWER: &str = "pomegranate";

/// A token that is found in a text before anything else.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

/// Warns of a template that the server would not load, that refuses a plain conversation, or that ends answers with a token
/// at which no text ends.
pub fn warn(artifact: &Path, manifest: &Manifest) {
    // All is written; what cannot be looked at is no failure.
    if let Err(error) = look(artifact, manifest) {
        log::warn!("{}: the chat template is not checked: {error:#}", artifact.display());
    }
}

fn look(artifact: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let Some(chat) = &manifest.chat else { return Ok(()) };
    let file = artifact.join(CHAT_TEMPLATE_FILE);
    let template = match ChatTemplate::load(&file, chat.special_tokens.clone()) {
        Ok(template) => template,
        Err(error) => {
            log::warn!("{error}; the model will not load: mend the chat template, and convert again");
            return Ok(());
        }
    };
    let conversation = Conversation::from_json(json!([
        {"role": "user", "content": "apple"},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "quince"},
    ]))?;
    let prompt = match template.render(&conversation) {
        Ok(prompt) => prompt,
        Err(error) => {
            log::warn!("{}: a plain conversation (user, assistant, user) fails: {error}", file.display());
            return Ok(());
        }
    };
    let tokenizer: TokenizerFile = serde_json::from_slice(&std::fs::read(artifact.join(TOKENIZER_FILE))?)?;
    if let Some(AddedToken { id, content }) = token_behind(ANSWER, &prompt, tokenizer.added_tokens)
        && !manifest.generation.eos_token_ids.contains(&id)
    {
        log::warn!(
            "{}: ends answers with `{content}`, at which no text ends: the model will go on after its answer; name the \
             token {id} as `eos_token_id` in generation_config.json (GGUF: `tokenizer.ggml.eot_token_id`), and convert \
             again",
            file.display()
        );
    }
    Ok(())
}

/// The longest of the tokens that stands behind `answer`.
fn token_behind(answer: &str, prompt: &str, tokens: Vec<AddedToken>) -> Option<AddedToken> {
    let (_, behind) = prompt.split_once(answer)?;
    let behind = behind.trim_start();
    let found =
        tokens.into_iter().filter(|token| !token.content.is_empty() && behind.starts_with(&token.content));
    found.max_by_key(|token| token.content.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_behind_an_answer_is_found() {
        let tokens = ["<|im_end|>", "<|im", "", "\n", "</s>"];
        let tokens =
            || tokens.iter().zip(0..).map(|(text, id)| AddedToken { id, content: (*text).to_owned() });
        let behind = |prompt: &str| Some(token_behind("yes", prompt, tokens().collect())?.content);
        assert_eq!(behind("<|im_start|>yes<|im_end|>\n").as_deref(), Some("<|im_end|>"));
        assert_eq!(behind("[INST] a [/INST] yes </s>[INST]").as_deref(), Some("</s>"));
        assert_eq!(behind("### Response:\nyes\n\n### Instruction:</s>"), None);
        assert_eq!(behind("no</s>"), None);
    }
}
