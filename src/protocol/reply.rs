//! What a request's client has not been told yet.

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;

use super::{ClientRequest, ModelInterface, TextLayout, schema};
use crate::{
    engine::{FinishReason, Finished, SequenceUpdate},
    error::{Error, Result},
    options::{OutputOptions, ResolvedOptions},
    prompt::PromptInput,
    triton::OutputTensor,
};

/// How a request is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplyPlan {
    /// One response for each piece, rather than one for everything.
    stream: bool,
    layout: TextLayout,
    /// Outputs to send, in the schema's order.
    outputs: Vec<&'static str>,
    /// Sequences of each text.
    samples: usize,
    sequences: usize,
    /// What the sequences of each text begin with: the text, when the client wants it repeated; else empty.
    openings: Vec<String>,
    /// What a guide lets the sequences choose from; empty without one.
    choices: Arc<[String]>,
    /// Which texts were cut short where they come from; empty when none was.
    cut_inputs: Vec<bool>,
}

impl ReplyPlan {
    /// Refuses what the model's configuration cannot serve.
    pub fn new(
        request: &ClientRequest,
        options: &ResolvedOptions,
        interface: &ModelInterface,
    ) -> Result<Self> {
        if options.stream && !interface.decoupled {
            return Err(Error::invalid_argument(
                "`stream` is true, but this model gives one response for each request; set `stream` to false, or \
                 serve the model with `model_transaction_policy { decoupled: true }`",
            ));
        }
        let outputs = match &request.outputs {
            Some(named) => named.clone(),
            None => chosen_outputs(&options.outputs, options.stream, interface)?,
        };
        if options.choices.is_none() && outputs.contains(&schema::CHOICE_PROBABILITIES) {
            return Err(Error::invalid_argument(format!(
                "the output `{}` is asked for without choices; give them in `guided_decoding_guide`, with \
                 `guided_decoding_guide_type` \"choice\", or do not ask for it",
                schema::CHOICE_PROBABILITIES
            )));
        }
        let samples = options.params.num_return_sequences;
        Ok(Self {
            stream: options.stream,
            layout: request.layout,
            outputs,
            samples,
            sequences: request.inputs.len() * samples,
            openings: if options.exclude_input_in_output {
                Vec::new()
            } else {
                request.inputs.iter().map(repeated).collect::<Result<_>>()?
            },
            choices: options.choices.clone().unwrap_or_default(),
            cut_inputs: request.cut_inputs.clone(),
        })
    }

    /// True when an output needs the probabilities of the choices.
    pub fn needs_choice_probabilities(&self) -> bool {
        self.wants(schema::CHOICE_PROBABILITIES)
    }

    /// True when an output needs log-probabilities.
    pub fn needs_logprobs(&self) -> bool {
        self.wants(schema::LOGPROBS) || self.wants(schema::CUMULATIVE_LOGPROB)
    }

    fn opening(&self, sequence: usize) -> &str {
        self.openings.get(sequence / self.samples.max(1)).map_or("", String::as_str)
    }

    /// Why a sequence ends: one that is made of half a text is not whole.
    fn finish_reason(&self, sequence: usize, finished: &Finished) -> FinishReason {
        match self.cut_inputs.get(sequence / self.samples.max(1)) {
            Some(true) => FinishReason::Length,
            _ => finished.reason,
        }
    }

    fn wants(&self, output: &str) -> bool {
        self.outputs.contains(&output)
    }

    /// Shape of every output of a response about `sequences` sequences.
    fn shape(&self, sequences: usize) -> Vec<usize> {
        match self.layout {
            TextLayout::Flat => vec![sequences],
            TextLayout::Batch(_) if self.stream => vec![1, sequences],
            TextLayout::Batch(rows) => vec![rows, sequences / rows.max(1)],
        }
    }
}

/// What is repeated of an input: the text as the client sent it.
fn repeated(input: &PromptInput) -> Result<String> {
    match input {
        PromptInput::Text(text) => Ok(text.clone()),
        PromptInput::Conversation(_) => Err(Error::invalid_argument(format!(
            "exclude_input_in_output: got false, but `{}` is no text that could be repeated; leave it out",
            schema::MESSAGES
        ))),
    }
}

/// The outputs that a client wants by its options.
fn chosen_outputs(
    options: &OutputOptions,
    stream: bool,
    interface: &ModelInterface,
) -> Result<Vec<&'static str>> {
    let wanted = [
        (schema::TEXT_OUTPUT, true),
        (schema::FINISH_REASON, options.finish_reason),
        (schema::CUMULATIVE_LOGPROB, options.cumulative_logprob),
        (schema::LOGPROBS, options.log_probs),
        (schema::NUM_INPUT_TOKENS, options.num_input_tokens),
        (schema::NUM_OUTPUT_TOKENS, options.num_output_tokens),
        // Nobody asks for it, and a model whose configuration leaves it out does without.
        (schema::SEQUENCE_INDEX, stream && interface.outputs.contains(&schema::SEQUENCE_INDEX)),
        (schema::CHOICE_PROBABILITIES, options.choice_probabilities),
    ];
    wanted
        .into_iter()
        .filter(|&(_, wanted)| wanted)
        .map(|(name, _)| {
            if interface.outputs.contains(&name) {
                return Ok(name);
            }
            Err(Error::invalid_argument(format!(
                "the output `{name}` is asked for, but the model's configuration does not declare it; declare \
                 it, or no outputs at all"
            )))
        })
        .collect()
}

/// Gathers the events of a request until they are sent. Pieces that wait are merged, so nothing is lost and
/// nothing grows beyond the text itself.
pub struct Reply {
    plan: ReplyPlan,
    sequences: Vec<Piece>,
    /// Sequences with something to send, when streaming; each at most once.
    ready: VecDeque<usize>,
    unfinished: usize,
    /// What is said of each prompt's choices, once it is known; empty when nobody asks.
    choice_probabilities: Vec<Option<String>>,
}

/// The part of one sequence that has not been sent.
#[derive(Default)]
struct Piece {
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    tokens: usize,
    finished: Option<Finished>,
    /// The end of a sequence, until what comes with it is known of its prompt's choices.
    awaited: Option<Finished>,
    is_ready: bool,
    /// An earlier piece of the sequence has been taken.
    is_opened: bool,
}

/// An element of the output `choice_probabilities`.
#[derive(Serialize)]
struct ChoiceProbability<'a> {
    choice: &'a str,
    probability: f64,
}

/// An element of the output `logprobs`.
#[derive(Serialize)]
struct TokenLogprob {
    token_id: u32,
    logprob: f32,
}

impl Reply {
    /// Nothing has been said yet.
    pub fn new(plan: ReplyPlan) -> Self {
        let sequences: Vec<Piece> = (0..plan.sequences).map(|_| Piece::default()).collect();
        let prompts =
            if plan.needs_choice_probabilities() { plan.sequences / plan.samples.max(1) } else { 0 };
        Self {
            plan,
            ready: VecDeque::new(),
            unfinished: sequences.len(),
            sequences,
            choice_probabilities: vec![None; prompts],
        }
    }

    /// Takes an event in.
    pub fn update(&mut self, update: &SequenceUpdate<'_>) {
        let Some(piece) = self.sequences.get_mut(update.sequence_index) else {
            log::error!("the engine spoke of sequence {}, which does not exist", update.sequence_index);
            return;
        };
        piece.text.push_str(update.text);
        piece.tokens += update.token_ids.len();
        if self.plan.outputs.contains(&schema::LOGPROBS) {
            piece.token_ids.extend_from_slice(update.token_ids);
            piece.logprobs.extend_from_slice(update.logprobs);
        }
        let prompt = update.sequence_index / self.plan.samples.max(1);
        if matches!(self.choice_probabilities.get(prompt), Some(None)) {
            piece.awaited = update.finished;
        } else if update.finished.is_some() {
            piece.finished = update.finished;
            self.unfinished = self.unfinished.saturating_sub(1);
        }
        self.queue(update.sequence_index);
    }

    /// Takes in how probable the choices of a prompt are; its sequences that have ended can be sent now.
    pub fn choice_probabilities(&mut self, prompt: usize, probabilities: &[f64]) {
        let Some(known) = self.choice_probabilities.get_mut(prompt) else { return };
        let list: Vec<ChoiceProbability<'_>> = self
            .plan
            .choices
            .iter()
            .zip(probabilities)
            .map(|(choice, &probability)| ChoiceProbability { choice, probability })
            .collect();
        // Strings and finite numbers cannot fail.
        *known = Some(serde_json::to_string(&list).unwrap_or_default());
        let samples = self.plan.samples;
        for index in prompt * samples..(prompt + 1) * samples {
            if let Some(finished) = self.sequences[index].awaited.take() {
                self.sequences[index].finished = Some(finished);
                self.unfinished = self.unfinished.saturating_sub(1);
                self.queue(index);
            }
        }
    }

    /// Queues a sequence that has something to send. Tokens whose text is held back wait for it.
    fn queue(&mut self, index: usize) {
        let piece = &mut self.sequences[index];
        let sendable = !piece.text.is_empty() || piece.finished.is_some();
        if self.plan.stream && sendable && !piece.is_ready {
            piece.is_ready = true;
            self.ready.push_back(index);
        }
    }

    /// True when responses are sent piece by piece.
    pub fn is_stream(&self) -> bool {
        self.plan.stream
    }

    /// True when a piece could be sent now.
    pub fn has_piece(&self) -> bool {
        !self.ready.is_empty()
    }

    /// True until every sequence has finished.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished > 0
    }

    /// Forgets what has not been sent: nobody listens any more.
    pub fn discard(&mut self) {
        self.ready.clear();
    }

    /// The next piece of a stream.
    pub fn next_piece(&mut self) -> Option<Result<Vec<OutputTensor>>> {
        let index = self.ready.pop_front()?;
        let piece = self.take_piece(index);
        Some(self.response(&[(index, piece)]))
    }

    /// The opening joins the text only here: kept with each of many samples it would fill the memory.
    fn take_piece(&mut self, index: usize) -> Piece {
        let awaited = self.sequences[index].awaited.take();
        let taken = Piece { is_opened: true, awaited, ..Piece::default() };
        let mut piece = std::mem::replace(&mut self.sequences[index], taken);
        if !piece.is_opened {
            piece.text.insert_str(0, self.plan.opening(index));
        }
        piece
    }

    /// The one response of a request that does not stream.
    pub fn whole(&mut self) -> Result<Vec<OutputTensor>> {
        let sequences: Vec<(usize, Piece)> =
            (0..self.sequences.len()).map(|index| (index, self.take_piece(index))).collect();
        self.response(&sequences)
    }

    fn response(&self, pieces: &[(usize, Piece)]) -> Result<Vec<OutputTensor>> {
        let shape = self.plan.shape(pieces.len());
        let finished = || pieces.iter().filter_map(|(_, piece)| piece.finished);
        // A piece in the middle has no totals to tell.
        let complete = finished().count() == pieces.len();
        let output = |&name: &&'static str| {
            Ok(Some(match name {
                schema::TEXT_OUTPUT => {
                    OutputTensor::strings(name, &shape, pieces.iter().map(|(_, piece)| piece.text.as_str()))?
                }
                schema::LOGPROBS => {
                    let json = pieces
                        .iter()
                        .map(|(_, piece)| logprobs_json(piece))
                        .collect::<Result<Vec<String>>>()?;
                    OutputTensor::strings(name, &shape, json.iter().map(String::as_str))?
                }
                schema::NUM_OUTPUT_TOKENS => {
                    OutputTensor::counts(name, &shape, pieces.iter().map(|(_, piece)| piece.tokens))
                }
                schema::SEQUENCE_INDEX => {
                    OutputTensor::counts(name, &shape, pieces.iter().map(|&(index, _)| index))
                }
                schema::FINISH_REASON if complete => {
                    let reasons = pieces.iter().filter_map(|(index, piece)| {
                        let finished = piece.finished.as_ref()?;
                        Some(self.plan.finish_reason(*index, finished).as_str())
                    });
                    OutputTensor::strings(name, &shape, reasons)?
                }
                schema::CUMULATIVE_LOGPROB if complete => {
                    OutputTensor::floats(name, &shape, finished().map(|end| end.cumulative_logprob))
                }
                schema::NUM_INPUT_TOKENS if complete => {
                    OutputTensor::counts(name, &shape, finished().map(|end| end.num_input_tokens))
                }
                schema::CHOICE_PROBABILITIES if complete => {
                    let of_prompt = |&(index, _): &(usize, Piece)| {
                        let known = self.choice_probabilities.get(index / self.plan.samples.max(1));
                        known.and_then(Option::as_deref).unwrap_or_default()
                    };
                    OutputTensor::strings(name, &shape, pieces.iter().map(of_prompt))?
                }
                _ => return Ok(None),
            }))
        };
        self.plan.outputs.iter().filter_map(|name| output(name).transpose()).collect()
    }
}

fn logprobs_json(piece: &Piece) -> Result<String> {
    let tokens: Vec<TokenLogprob> = piece
        .token_ids
        .iter()
        .zip(&piece.logprobs)
        .map(|(&token_id, &logprob)| TokenLogprob { token_id, logprob })
        .collect();
    serde_json::to_string(&tokens)
        .map_err(|error| Error::internal(format!("log-probabilities could not be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All but the output that only a guide has.
    const PLAIN: [&str; 7] = [
        schema::TEXT_OUTPUT,
        schema::FINISH_REASON,
        schema::CUMULATIVE_LOGPROB,
        schema::LOGPROBS,
        schema::NUM_INPUT_TOKENS,
        schema::NUM_OUTPUT_TOKENS,
        schema::SEQUENCE_INDEX,
    ];

    fn plan(stream: bool, layout: TextLayout, openings: &[&str]) -> ReplyPlan {
        ReplyPlan {
            samples: 1,
            sequences: openings.len(),
            stream,
            layout,
            outputs: PLAIN.to_vec(),
            openings: openings.iter().map(|&text| text.to_owned()).collect(),
            choices: Arc::default(),
            cut_inputs: Vec::new(),
        }
    }

    fn update<'a>(index: usize, text: &'a str, tokens: &'a [u32]) -> SequenceUpdate<'a> {
        SequenceUpdate {
            sequence_index: index,
            text,
            token_ids: tokens,
            logprobs: &[-0.5, -1.5, -2.5][..tokens.len()],
            finished: None,
        }
    }

    fn last<'a>(index: usize, text: &'a str, tokens: &'a [u32]) -> SequenceUpdate<'a> {
        let finished = Finished {
            reason: FinishReason::Stop,
            cumulative_logprob: -2.0,
            num_input_tokens: 4,
            num_output_tokens: 3,
        };
        SequenceUpdate { finished: Some(finished), ..update(index, text, tokens) }
    }

    fn find<'a>(response: &'a [OutputTensor], name: &str) -> Option<&'a OutputTensor> {
        response.iter().find(|output| output.name() == name)
    }

    fn texts(output: &OutputTensor) -> Vec<String> {
        let mut rest = output.data();
        let mut texts = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (text, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            texts.push(String::from_utf8(text.to_vec()).unwrap());
            rest = after;
        }
        texts
    }

    fn counts(output: &OutputTensor) -> Vec<i32> {
        output.data().as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
    }

    #[test]
    fn without_streaming_one_response_holds_every_sequence_in_order() {
        let mut reply = Reply::new(plan(false, TextLayout::Batch(2), &["", "", "", ""]));
        for (index, text) in [(3, "d"), (1, "b"), (0, "a"), (2, "c")] {
            reply.update(&update(index, text, &[1, 2]));
            assert!(!reply.has_piece());
            reply.update(&last(index, "!", &[9]));
        }
        assert!(!reply.is_unfinished());
        let response = reply.whole().unwrap();
        assert_eq!(response.len(), PLAIN.len());
        assert!(response.iter().all(|output| output.shape() == [2, 2]));
        assert_eq!(texts(find(&response, schema::TEXT_OUTPUT).unwrap()), ["a!", "b!", "c!", "d!"]);
        assert_eq!(counts(find(&response, schema::SEQUENCE_INDEX).unwrap()), [0, 1, 2, 3]);
        assert_eq!(counts(find(&response, schema::NUM_OUTPUT_TOKENS).unwrap()), [3; 4]);
        assert_eq!(
            texts(find(&response, schema::LOGPROBS).unwrap())[0],
            r#"[{"token_id":1,"logprob":-0.5},{"token_id":2,"logprob":-1.5},{"token_id":9,"logprob":-0.5}]"#
        );
    }

    #[test]
    fn pieces_that_wait_are_merged_and_sequences_take_turns() {
        let mut reply = Reply::new(plan(true, TextLayout::Flat, &["", ""]));
        reply.update(&update(0, "a", &[1]));
        reply.update(&update(1, "x", &[2]));
        reply.update(&update(0, "b", &[3, 4]));
        let mut next = || reply.next_piece().map(Result::unwrap);
        let (first, second) = (next().unwrap(), next().unwrap());
        assert!(next().is_none());
        assert_eq!(texts(find(&first, schema::TEXT_OUTPUT).unwrap()), ["ab"]);
        assert_eq!(counts(find(&first, schema::NUM_OUTPUT_TOKENS).unwrap()), [3]);
        assert_eq!(counts(find(&second, schema::SEQUENCE_INDEX).unwrap()), [1]);
        assert!(find(&first, schema::FINISH_REASON).is_none());
        reply.update(&last(0, "", &[5]));
        let end = reply.next_piece().unwrap().unwrap();
        assert_eq!(texts(find(&end, schema::TEXT_OUTPUT).unwrap()), [""]);
        assert_eq!(counts(find(&end, schema::NUM_OUTPUT_TOKENS).unwrap()), [1]);
        assert_eq!(texts(find(&end, schema::FINISH_REASON).unwrap()), ["stop"]);
        assert!(reply.is_unfinished());
    }

    #[test]
    fn tokens_without_text_wait_for_it() {
        let mut reply = Reply::new(plan(true, TextLayout::Batch(1), &[""]));
        reply.update(&update(0, "", &[1]));
        assert!(!reply.has_piece());
        reply.update(&update(0, "é", &[2]));
        let piece = reply.next_piece().unwrap().unwrap();
        assert_eq!(counts(find(&piece, schema::NUM_OUTPUT_TOKENS).unwrap()), [2]);
        assert!(piece.iter().all(|output| output.shape() == [1, 1]));
    }

    #[test]
    fn a_repeated_source_opens_the_first_piece_only() {
        let mut reply = Reply::new(plan(true, TextLayout::Flat, &["source "]));
        reply.update(&update(0, "a", &[1]));
        let first = reply.next_piece().unwrap().unwrap();
        reply.update(&last(0, "b", &[2]));
        let second = reply.next_piece().unwrap().unwrap();
        assert_eq!(texts(find(&first, schema::TEXT_OUTPUT).unwrap()), ["source a"]);
        assert_eq!(texts(find(&second, schema::TEXT_OUTPUT).unwrap()), ["b"]);
    }

    #[test]
    fn each_sample_repeats_its_own_source() {
        let openings = ReplyPlan { samples: 2, sequences: 4, ..plan(false, TextLayout::Flat, &["x ", "y "]) };
        let mut reply = Reply::new(openings);
        for (index, text) in ["a", "b", "c", ""].into_iter().enumerate() {
            reply.update(&last(index, text, &[1]));
        }
        let response = reply.whole().unwrap();
        assert_eq!(texts(find(&response, schema::TEXT_OUTPUT).unwrap()), ["x a", "x b", "y c", "y "]);
    }

    fn choosing(stream: bool, samples: usize, prompts: usize) -> Reply {
        let choices = ["yes".to_owned(), "n\"o".to_owned()];
        let sequences = samples * prompts;
        let plan = ReplyPlan { samples, sequences, ..plan(stream, TextLayout::Flat, &[]) };
        let outputs = [PLAIN.as_slice(), &[schema::CHOICE_PROBABILITIES]].concat();
        Reply::new(ReplyPlan { choices: choices.into(), outputs, ..plan })
    }

    const PROBABILITIES: &str =
        r#"[{"choice":"yes","probability":0.75},{"choice":"n\"o","probability":0.25}]"#;

    #[test]
    fn the_end_of_a_stream_waits_for_the_probabilities_that_come_with_it() {
        let mut reply = choosing(true, 1, 2);
        reply.update(&update(0, "y", &[1]));
        reply.update(&last(0, "es", &[2]));
        let first = reply.next_piece().unwrap().unwrap();
        assert_eq!(texts(find(&first, schema::TEXT_OUTPUT).unwrap()), ["yes"]);
        assert!(find(&first, schema::FINISH_REASON).is_none());
        assert!(!reply.has_piece() && reply.is_unfinished());
        reply.choice_probabilities(0, &[0.75, 0.25]);
        let end = reply.next_piece().unwrap().unwrap();
        assert_eq!(texts(find(&end, schema::TEXT_OUTPUT).unwrap()), [""]);
        assert_eq!(texts(find(&end, schema::FINISH_REASON).unwrap()), ["stop"]);
        assert_eq!(texts(find(&end, schema::CHOICE_PROBABILITIES).unwrap()), [PROBABILITIES]);

        reply.choice_probabilities(1, &[0.75, 0.25]);
        assert!(!reply.has_piece());
        reply.update(&last(1, "yes", &[2]));
        assert!(!reply.is_unfinished());
        let end = reply.next_piece().unwrap().unwrap();
        assert_eq!(texts(find(&end, schema::CHOICE_PROBABILITIES).unwrap()), [PROBABILITIES]);
    }

    #[test]
    fn the_probabilities_of_a_prompt_come_with_each_of_its_samples() {
        let mut reply = choosing(false, 2, 2);
        for index in 0..4 {
            reply.update(&last(index, "yes", &[1]));
        }
        reply.choice_probabilities(1, &[0.75, 0.25]);
        reply.choice_probabilities(0, &[0.5, 0.5]);
        assert!(!reply.is_unfinished());
        let response = reply.whole().unwrap();
        let even = PROBABILITIES.replace("0.75", "0.5").replace("0.25", "0.5");
        let expected = [&*even, &even, PROBABILITIES, PROBABILITIES];
        assert_eq!(texts(find(&response, schema::CHOICE_PROBABILITIES).unwrap()), expected);
    }

    #[test]
    fn what_is_made_of_half_a_text_is_cut() {
        let mut plan = plan(false, TextLayout::Flat, &["", "", "", ""]);
        (plan.samples, plan.cut_inputs) = (2, vec![false, true]);
        let mut reply = Reply::new(plan);
        for index in 0..4 {
            reply.update(&last(index, "a", &[1]));
        }
        let response = reply.whole().unwrap();
        let reasons = texts(find(&response, schema::FINISH_REASON).unwrap());
        assert_eq!(reasons, ["stop", "stop", "length", "length"]);
    }

    #[test]
    fn outputs_follow_the_options_within_the_configuration() {
        let interface = |outputs: &[&'static str]| ModelInterface {
            batched: false,
            decoupled: true,
            outputs: outputs.to_vec(),
        };
        let all = interface(&schema::OUTPUTS.iter().map(|spec| spec.name).collect::<Vec<_>>());
        let options = OutputOptions { finish_reason: true, ..OutputOptions::default() };
        assert_eq!(
            chosen_outputs(&options, true, &all).unwrap(),
            [schema::TEXT_OUTPUT, schema::FINISH_REASON, schema::SEQUENCE_INDEX]
        );
        let text_only = interface(&[schema::TEXT_OUTPUT]);
        assert!(chosen_outputs(&options, false, &text_only).is_err());
        let nothing = OutputOptions::default();
        assert_eq!(chosen_outputs(&nothing, true, &text_only).unwrap(), [schema::TEXT_OUTPUT]);
    }
}
