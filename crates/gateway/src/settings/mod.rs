//! The configuration: a file in TOML, the environment and the command line become [`Settings`]. Everything that can be
//! wrong in it is refused here, before a port is opened.

mod services;
mod table;

use std::{collections::BTreeSet, fs, path::PathBuf};

use axum::http::uri::Authority;
use clap::Parser;
use serde::de::DeserializeOwned;

pub use services::{Ask, AugmentTable, Options, SegmentKind, Tables, TaskTable, TranslateTable};
use table::Keys;
pub use table::{JwtAlgorithm, List, LogFormat, Operation};

/// Text augmentation, streaming translation and an OpenAI-compatible API in front of Triton.
#[derive(Debug, Parser)]
#[command(name = "textgen-gateway", version, max_term_width = 100)]
struct Arguments {
    /// file in TOML with any of these keys, `-` written as `_`, and the tables of the services
    #[arg(long, env = "TEXTGEN_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    keys: Keys,
}

/// The configuration as it holds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How the gateway runs.
    pub operation: Operation,
    /// What it serves.
    pub tables: Tables,
}

impl Settings {
    /// Reads file, environment and command line; ends the process for `--help`, `--version` and wrong usage.
    pub fn read() -> Result<Self, String> {
        let Arguments { config, keys } = Arguments::parse();
        let text = match &config {
            Some(path) => fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?,
            None => String::new(),
        };
        let settings = Self::of(&keys, &text);
        settings.map_err(|message| match &config {
            Some(path) => format!("{}: {message}", path.display()),
            None => message,
        })
    }

    fn of(given: &Keys, file: &str) -> Result<Self, String> {
        let mut file: toml::Table = file.parse().map_err(|error| of_toml(&error, file))?;
        let mut tables = Tables {
            augment: take(&mut file, "augment")?,
            translate: take(&mut file, "translate")?,
            chat: take(&mut file, "chat")?.unwrap_or_default(),
        };
        let keys: Keys = toml::Value::Table(file).try_into().map_err(|error| of_toml(&error, ""))?;
        let operation = Operation::of(given, &keys);
        tables.name_models(&operation)?;
        check(&operation)?;
        Ok(Self { operation, tables })
    }
}

fn take<T: DeserializeOwned>(file: &mut toml::Table, name: &str) -> Result<Option<T>, String> {
    let table = file.remove(name).map(toml::Value::try_into).transpose();
    table.map_err(|error| format!("table {name}: {}", of_toml(&error, "")))
}

/// An error in one line: of what is no TOML with its place in the file, of a value with its key.
fn of_toml(error: &toml::de::Error, file: &str) -> String {
    let place =
        error.span().and_then(|span| file.get(..span.start)).map(|before| before.matches('\n').count());
    match place {
        Some(at) => {
            let line = file.lines().nth(at).unwrap_or_default().trim();
            format!("line {}, `{line}`: {}", at + 1, error.message())
        }
        None => error.to_string().trim_end().replace('\n', " "),
    }
}

impl Tables {
    /// Every model that a service may ask, each once.
    pub fn models(&self) -> Vec<String> {
        let augment = self.augment.iter().flat_map(|augment| {
            let of_tasks = augment.tasks.values().filter_map(|task| task.model.as_ref());
            std::iter::once(&augment.model).chain(of_tasks)
        });
        let translate = self.translate.iter().flat_map(|translate| {
            let of_pairs = translate.pairs.iter().map(|pair| &pair.model);
            translate.model.iter().chain(of_pairs)
        });
        let models: BTreeSet<&String> = augment.chain(translate).chain(&self.chat.models).collect();
        models.into_iter().cloned().collect()
    }

    /// Puts the models of the one-value keys in.
    fn name_models(&mut self, operation: &Operation) -> Result<(), String> {
        if let Some(model) = operation.augment_model.clone() {
            match &mut self.augment {
                Some(augment) => augment.model = model,
                empty => *empty = Some(AugmentTable::rewriting(model)),
            }
        }
        if let Some(model) = operation.translate_model.clone() {
            let translate = self.translate.get_or_insert_default();
            translate.model = Some(model);
            translate.pairs.clear();
        }
        if let Some(models) = &operation.chat_models {
            self.chat.models = models.0.clone();
        }
        match &self.translate {
            Some(TranslateTable { model: Some(_), pairs, .. }) if !pairs.is_empty() => {
                Err("table translate: got `model` and `pairs`, expected one of the two".into())
            }
            Some(TranslateTable { model: None, pairs, .. }) if pairs.is_empty() => {
                Err("table translate: it names no model; give `model`, or `pairs` with one each".into())
            }
            _ => Ok(()),
        }
    }
}

fn check(operation: &Operation) -> Result<(), String> {
    if operation.tls_cert.is_some() != operation.tls_key.is_some() {
        return Err("tls_cert and tls_key: got one of them, expected both or none".into());
    }
    if let Some(origin) = operation.cors_origins.0.iter().find(|origin| *origin != "*" && !is_origin(origin))
    {
        return Err(format!(
            "cors_origins: got {origin:?}, expected an origin such as https://example.org, or *"
        ));
    }
    const YEAR_S: u64 = 365 * 24 * 3600;
    for (name, value, least, most) in [
        ("max_active", operation.max_active as u64, 1, 1 << 20),
        ("max_sockets", operation.max_sockets as u64, 1, 1 << 20),
        ("socket_ping_s", operation.socket_ping_s, 1, YEAR_S),
        ("socket_idle_s", operation.socket_idle_s, 1, YEAR_S),
        ("request_timeout_s", operation.request_timeout_s, 1, YEAR_S),
        ("cache_ttl_s", operation.cache_ttl_s, 0, YEAR_S),
        ("drain_s", operation.drain_s, 0, YEAR_S),
        ("max_body_bytes", operation.max_body_bytes as u64, 1, 1 << 30),
        ("log_keep_days", operation.log_keep_days as u64, 1, 1 << 20),
    ] {
        if !(least..=most).contains(&value) {
            return Err(format!("{name}: got {value}, expected {least} to {most}"));
        }
    }
    Ok(())
}

fn is_origin(text: &str) -> bool {
    let host = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    host.is_some_and(|host| host.trim_end_matches('/').parse::<Authority>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::{table::documented, *};

    fn settings(arguments: &[&str], file: &str) -> Result<Settings, String> {
        let arguments = Arguments::try_parse_from([&["textgen-gateway"], arguments].concat()).unwrap();
        Settings::of(&arguments.keys, file)
    }

    #[test]
    fn the_command_line_goes_before_the_file_before_the_default() {
        let file = "max_queue = 3\nmax_active = 5\ncors_origins = [\"https://a.example\"]";
        let operation = settings(&["--max-queue", "7"], file).unwrap().operation;
        assert_eq!((operation.max_queue, operation.max_active, operation.port), (7, 5, 7860));
        assert_eq!(operation.cors_origins.0, ["https://a.example"]);
    }

    #[test]
    fn a_model_named_on_the_command_line_needs_no_table() {
        let arguments = ["--augment-model", "a", "--translate-model", "t", "--chat-models", "c, d"];
        let tables =
            settings(&arguments, "[translate]\npairs = [{src='en', tgt='pt', model='x'}]").unwrap().tables;
        assert_eq!(tables.augment.unwrap().model, "a");
        let translate = tables.translate.unwrap();
        assert_eq!((translate.model.as_deref(), translate.pairs.len()), (Some("t"), 0));
        assert_eq!(tables.chat.models, ["c", "d"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (file, parts) in [
            ("max_que = 3", &["max_que"][..]),
            ("max_queue = -1", &["max_queue"]),
            ("max_queue = \"3\"", &["max_queue"]),
            ("max_active = 0", &["max_active", "got 0", "1 to"]),
            ("socket_idle_s = 9223372036854775807", &["socket_idle_s"]),
            ("tls_cert = \"a.pem\"", &["tls_key"]),
            ("[translate]", &["pairs"]),
            ("[translate]\nmodel = \"a\"\npairs = [{src='en', tgt='pt', model='x'}]", &["one of the two"]),
            ("[augment]\nmode = \"a\"", &["augment", "mode"]),
            ("[augment.tasks.title]\n", &["augment"]),
            ("port = 7860\nport = 7861", &["duplicate"]),
        ] {
            let message = settings(&[], file).unwrap_err();
            for part in parts {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
        }
    }

    #[test]
    fn the_readme_lists_every_key_as_it_is() {
        let readme = include_str!("../../README.md");
        let readme: Vec<&str> = readme.lines().collect();
        for row in documented() {
            assert!(readme.contains(&row.as_str()), "README.md has no row\n{row}");
        }
    }
}
