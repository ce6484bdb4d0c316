//! Streaming translation: finds the model for a pair of languages, cuts long texts, has several segments at work at
//! once and hands their translations on in order.

use std::{collections::VecDeque, sync::Arc};

use async_stream::try_stream;
use futures_util::{Stream, StreamExt, pin_mut};
use serde::{Deserialize, Serialize};
use serde_json::json;
use textgen_languages::{Language, Languages};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    MAX_LENGTH, MAX_TEMPERATURE, MAX_TOP_K,
    answers::Answers,
    segments::{self, Blanks, Segments, take_stop},
    wanted::Wanted,
};
use crate::{
    error::{ApiError, Result},
    settings::{Options, SegmentKind, TranslateTable},
    triton::{Generate, Input, Reply},
};

/// Segments of one translation at work at once.
const AHEAD: usize = 4;

/// Translates. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Translator {
    answers: Answers,
    routes: Arc<Routes>,
    kind: SegmentKind,
    options: Options,
    max_chars: usize,
}

#[derive(Debug)]
enum Routes {
    Pairs { languages: Languages, pairs: Vec<Pair> },
    One { model: String, languages: Option<Languages> },
}

/// A pair of languages, by code, and its model.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    src: String,
    tgt: String,
    #[serde(skip)]
    model: String,
}

/// What a client asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Translation {
    text: String,
    src_lang: Option<String>,
    tgt_lang: Option<String>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    max_length: Option<u32>,
    seed: Option<u64>,
}

/// A translation that can be done, but for what Triton says.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The model that does it.
    pub model: String,
    /// Code of the language it is in, if it was given or is the only one.
    pub src_lang: Option<String>,
    /// Code of the language it goes into.
    pub tgt_lang: String,
    options: Options,
    segments: Segments,
}

/// What a translation has taken so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of prompts.
    pub input_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Segments that a model was asked for and that are done.
    pub segments: u32,
}

/// What happens in a translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next piece, and all that was used so far.
    Delta(String, Usage),
    /// The end: `stop`, or `length` where a segment met its limit.
    Done(&'static str, Usage),
}

impl Translator {
    /// Reads the table; a language that nobody knows is an error.
    pub fn new(
        answers: Answers,
        table: &TranslateTable,
        max_chars: usize,
    ) -> std::result::Result<Self, String> {
        let wrong = |key: &'static str| move |error| format!("table translate: {key}: {error}");
        let given =
            table.languages.as_deref().map(Languages::parse).transpose().map_err(wrong("languages"))?;
        let routes = match &table.model {
            Some(model) => Routes::One { model: model.clone(), languages: given },
            None => {
                let languages = given.unwrap_or_default();
                let code = |name: &str| languages.find(name).map(|found| found.code.clone().into_owned());
                let pairs: std::result::Result<Vec<Pair>, _> = table
                    .pairs
                    .iter()
                    .map(|pair| {
                        Ok(Pair { src: code(&pair.src)?, tgt: code(&pair.tgt)?, model: pair.model.clone() })
                    })
                    .collect();
                Routes::Pairs { pairs: pairs.map_err(wrong("pairs"))?, languages }
            }
        };
        let kind = table.segments.unwrap_or(match routes {
            Routes::Pairs { .. } => SegmentKind::Sentence,
            Routes::One { .. } => SegmentKind::Paragraph,
        });
        Ok(Self { answers, routes: Arc::new(routes), kind, options: table.options.clone(), max_chars })
    }

    /// Every model it may ask.
    pub fn models(&self) -> Vec<String> {
        match &*self.routes {
            Routes::Pairs { pairs, .. } => pairs.iter().map(|pair| pair.model.clone()).collect(),
            Routes::One { model, .. } => vec![model.clone()],
        }
    }

    /// Longest text, in characters.
    pub fn max_chars(&self) -> usize {
        self.max_chars
    }

    /// The pairs, unless every language goes into every other.
    pub fn pairs(&self) -> Option<&[Pair]> {
        match &*self.routes {
            Routes::Pairs { pairs, .. } => Some(pairs),
            Routes::One { .. } => None,
        }
    }

    /// The languages it reads or writes.
    pub fn languages(&self) -> Vec<Language> {
        match &*self.routes {
            Routes::Pairs { pairs, languages } => {
                let used = |code: &str| pairs.iter().any(|pair| pair.src == code || pair.tgt == code);
                languages.iter().filter(|language| used(&language.code)).cloned().collect()
            }
            Routes::One { model, languages } => {
                self.languages_of(model, languages.as_ref()).iter().cloned().collect()
            }
        }
    }

    /// Those of the configuration, else those of the model's, else all.
    fn languages_of(&self, model: &str, given: Option<&Languages>) -> Languages {
        let of_model = || {
            let list = self.answers.model(model).ok()?.languages?;
            Languages::parse(&list).ok()
        };
        given.cloned().or_else(of_model).unwrap_or_default()
    }

    /// Checks a request and finds its model.
    pub fn prepare(&self, asked: &Translation) -> Result<Prepared> {
        super::check_text("text", &asked.text, self.max_chars)?;
        let (model, src_lang, tgt_lang) = self.route(asked.src_lang.as_deref(), asked.tgt_lang.as_deref())?;
        let facts = self.answers.model(&model)?;
        let mut wanted = Wanted::over(&self.options);
        wanted.number("temperature", asked.temperature, 0.0..=MAX_TEMPERATURE)?;
        wanted.share("top_p", asked.top_p)?;
        wanted.integer("top_k", asked.top_k, 0..=MAX_TOP_K)?;
        wanted.integer("max_length", asked.max_length, 1..=MAX_LENGTH)?;
        wanted.seed(asked.seed);
        let mut options = wanted.options();
        if facts.names_languages {
            if let Some(src) = &src_lang {
                options.insert("src_lang".into(), json!(src));
            }
            options.insert("tgt_lang".into(), json!(tgt_lang));
        }
        let segments = segments::split(&asked.text, src_lang.as_deref(), self.kind, facts.segment_bytes);
        Ok(Prepared { model, src_lang, tgt_lang, options, segments })
    }

    fn route(&self, src: Option<&str>, tgt: Option<&str>) -> Result<(String, Option<String>, String)> {
        let find = |languages: &Languages, key: &str, name: &str| {
            let found = languages.find(name).map(|language| language.code.clone().into_owned());
            found.map_err(|error| ApiError::invalid_argument(error.to_string()).at(key))
        };
        let tgt = tgt.ok_or_else(|| {
            ApiError::invalid_argument(
                "is missing, expected a language by code or name; /services lists them",
            )
            .at("tgt_lang")
        })?;
        match &*self.routes {
            Routes::One { model, languages } => {
                let languages = self.languages_of(model, languages.as_ref());
                let src = src.map(|src| find(&languages, "src_lang", src)).transpose()?;
                Ok((model.clone(), src, find(&languages, "tgt_lang", tgt)?))
            }
            Routes::Pairs { languages, pairs } => {
                let src = src.map(|src| find(languages, "src_lang", src)).transpose()?;
                let tgt = find(languages, "tgt_lang", tgt)?;
                let fits = |pair: &&Pair| pair.tgt == tgt && src.as_ref().is_none_or(|src| *src == pair.src);
                let mut found = pairs.iter().filter(fits);
                match (found.next(), found.next()) {
                    (Some(pair), None) => Ok((pair.model.clone(), Some(pair.src.clone()), tgt)),
                    (Some(_), Some(_)) => Err(ApiError::invalid_argument(format!(
                        "is missing, and several languages go into `{tgt}`: {}",
                        self.shown_pairs()
                    ))
                    .at("src_lang")),
                    (None, _) => Err(ApiError::invalid_argument(format!(
                        "got {}{tgt}, expected one of {}",
                        src.map_or_else(String::new, |src| format!("{src} → ")),
                        self.shown_pairs()
                    ))
                    .at("tgt_lang")),
                }
            }
        }
    }

    fn shown_pairs(&self) -> String {
        let shown = |pair: &Pair| format!("{} → {}", pair.src, pair.tgt);
        self.pairs().unwrap_or_default().iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    /// Translates. Dropping the stream ends the work in the server.
    pub fn translate(
        &self,
        prepared: Prepared,
        id: &str,
    ) -> impl Stream<Item = Result<Event>> + Send + use<> {
        let (answers, id) = (self.answers.clone(), id.to_owned());
        let of_sentences = self.kind == SegmentKind::Sentence;
        try_stream! {
            let Prepared { model, src_lang, tgt_lang, options, segments } = prepared;
            let blanks = Blanks::between(src_lang.as_deref(), &tgt_lang);
            let mut usage = Usage::default();
            let mut finish_reason = "stop";
            // Dropping the set ends the tasks in it.
            let mut tasks = JoinSet::new();
            let mut at_work = VecDeque::new();
            let mut to_start = segments.list.iter();
            // It goes with the model's first piece, by which clients and metrics tell how long they waited.
            let mut kept = segments.before;
            for segment in &segments.list {
                for next in to_start.by_ref().take(AHEAD - at_work.len()) {
                    let text = if of_sentences { next.sentence() } else { next.text.as_str().into() };
                    let request = Generate {
                        model: model.clone(),
                        input: Input::Texts(vec![text.into_owned()]),
                        options: options.clone(),
                        stream: true,
                        id: id.clone(),
                    };
                    let (sender, replies) = mpsc::channel(16);
                    tasks.spawn(forward(answers.generate(request), sender));
                    at_work.push_back(replies);
                }
                let Some(mut replies): Option<mpsc::Receiver<Result<Reply>>> = at_work.pop_front() else { break };
                // The last character so far, if it may be the full stop that the text does not have.
                let mut stop = None;
                while let Some(reply) = replies.recv().await {
                    let reply = reply?;
                    usage.input_tokens += reply.input_tokens.iter().sum::<u32>();
                    usage.output_tokens += reply.output_tokens.iter().sum::<u32>();
                    if reply.finish_reasons.iter().any(|reason| reason == "length") {
                        finish_reason = "length";
                    }
                    let piece = reply.texts.concat();
                    if piece.is_empty() {
                        continue;
                    }
                    kept.extend(stop.take());
                    kept.push_str(&piece);
                    if of_sentences && segment.lacks_stop {
                        stop = take_stop(&mut kept);
                    }
                    if !kept.is_empty() {
                        yield Event::Delta(std::mem::take(&mut kept), usage);
                    }
                }
                usage.segments += 1;
                kept.push_str(segment.joint(blanks));
                if !kept.is_empty() {
                    yield Event::Delta(std::mem::take(&mut kept), usage);
                }
            }
            if !kept.is_empty() {
                yield Event::Delta(kept, usage);
            }
            yield Event::Done(finish_reason, usage);
        }
    }
}

async fn forward(replies: impl Stream<Item = Result<Reply>>, sender: mpsc::Sender<Result<Reply>>) {
    pin_mut!(replies);
    while let Some(reply) = replies.next().await {
        if sender.send(reply).await.is_err() {
            return;
        }
    }
}
