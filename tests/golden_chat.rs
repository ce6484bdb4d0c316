//! Chat templates and tokenizers together, against transformers: every conversation of the decoder-only fixtures
//! becomes the reference's prompt and the reference's tokens.

mod support;

use std::{collections::BTreeMap, fs};

use serde_json::Value;
use support::{fixture, ids, read_json};
use textgen_artifact::TokenizerSpec;
use triton_textgen::{
    prompt::{ChatTemplate, Conversation, PromptInput, PromptOptions, PromptSettings, Prompts},
    tokenizer::Tokenizer,
};

#[test]
fn prompts_and_their_tokens_are_those_of_the_reference() {
    let (mut prompts_seen, mut errors_seen) = (0, 0);
    let folders = fs::read_dir(fixture("decoder")).unwrap().map(|entry| entry.unwrap().path());
    for folder in folders.filter(|path| path.join("reference.json").is_file()) {
        let settings = read_json(&folder.join("tokenizer_config.json"));
        let tokens = settings.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_token"));
        let special_tokens: BTreeMap<String, String> =
            tokens.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect();
        let scratch = tempfile::tempdir().unwrap();
        let mut file = folder.join("chat_template.jinja");
        if let Some(source) = settings["chat_template"].as_str() {
            file = scratch.path().join("chat_template.jinja");
            fs::write(&file, source).unwrap();
        }
        let cases = read_json(&folder.join("reference.json"))["chat"].clone();
        let cases = cases.as_array().unwrap();
        if cases.is_empty() {
            continue;
        }
        let chat = ChatTemplate::load(&file, special_tokens).unwrap();
        let prompts = Prompts::new(Some(chat), PromptSettings::default()).unwrap();
        let spec = TokenizerSpec { add_special_tokens: true, source_suffix: Vec::new(), normalizer: false };
        let tokenizer = Tokenizer::load(&folder, &spec).unwrap();
        for case in cases {
            let conversation = Conversation::from_json(case["messages"].clone()).unwrap();
            let input = PromptInput::Conversation(conversation);
            let prompt = prompts.build(&input, &PromptOptions::default(), &|text| tokenizer.guard(text));
            let label = format!("{}: {}", folder.display(), case["messages"]);
            match &case["error"] {
                Value::String(message) => {
                    assert!(prompt.unwrap_err().message.contains(message), "{label}");
                    errors_seen += 1;
                }
                _ => {
                    let prompt = prompt.unwrap();
                    assert_eq!(prompt.text, case["prompt"].as_str().unwrap(), "{label}");
                    assert!(prompt.has_special_tokens);
                    let expected = ids(&case["ids"]);
                    assert_eq!(tokenizer.encode_target(&prompt.text).unwrap(), expected, "{label}");
                    assert_eq!(tokenizer.encode_guarded(&prompt.text, true).unwrap(), expected, "{label}");
                    prompts_seen += 1;
                }
            }
        }
    }
    assert!(prompts_seen > 20 && errors_seen > 1, "{prompts_seen} prompts, {errors_seen} errors");
}
