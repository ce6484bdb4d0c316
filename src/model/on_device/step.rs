//! What of a batch goes into which run.
//!
//! The graphs want the rows of a run one after the other in the caches. So the sequences that feed one token are one run
//! over the first rows, as far as the last of them; a row in between that is not of this step is a hole. A sequence that
//! feeds several tokens, a prompt or a draft, has a run of its own over its row; one that feeds more than a run may hold
//! has several.

use std::ops::Range;

use crate::engine::DecodeBatch;

/// What the rows of the caches hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowLengths {
    /// Tokens in each row's self cache. Behind them nothing is of value.
    pub tokens: Vec<usize>,
    /// Source tokens in each row's cross cache; none without an encoder.
    pub sources: Vec<usize>,
}

/// The runs of a step, whose memory is kept for the next.
#[derive(Debug, Default)]
pub struct StepRuns {
    runs: Vec<DecoderRun>,
    used: usize,
}

impl StepRuns {
    /// In the order in which they run.
    pub fn all(&self) -> &[DecoderRun] {
        &self.runs[..self.used]
    }

    /// Another run, which holds nothing yet.
    fn push(&mut self) -> &mut DecoderRun {
        if self.used == self.runs.len() {
            self.runs.push(DecoderRun::default());
        }
        self.used += 1;
        let run = &mut self.runs[self.used - 1];
        run.clear();
        run
    }
}

/// One run of the decoder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecoderRun {
    /// The first row of the caches, and how many from there on.
    pub first: usize,
    pub rows: usize,
    /// Tokens a row.
    pub tokens: usize,
    /// `[rows, tokens]`.
    pub input_ids: Vec<i64>,
    pub position_ids: Vec<i64>,
    /// `[rows]`.
    pub seqlens_k: Vec<i32>,
    pub cross_lengths: Vec<i64>,
    pub total_sequence_length: i32,
    /// Tokens whose logits are computed, at least one.
    pub logit_rows: Vec<i64>,
    /// For each logit row of the batch that this run computes: which that is, and which of `logit_rows`.
    pub outputs: Vec<(usize, usize)>,
    /// Number of its recording; none when it is not recorded.
    pub recording: Option<u32>,
    /// It goes on from the recurrent states that the run before it has made.
    pub chained: bool,
}

impl DecoderRun {
    /// Rows of logits that somebody wants, with those between them.
    pub fn kept_rows(&self) -> usize {
        if self.outputs.is_empty() { 0 } else { self.logit_rows.len() }
    }

    fn clear(&mut self) {
        let Self { input_ids, position_ids, logit_rows, cross_lengths, seqlens_k, outputs, .. } = self;
        for integers in [input_ids, position_ids, logit_rows, cross_lengths] {
            integers.clear();
        }
        seqlens_k.clear();
        outputs.clear();
        (self.recording, self.chained) = (None, false);
    }
}

/// How runs are recorded, for devices that replay them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recordings {
    /// Positions of a slot: what a replayed run reads of the caches is fixed.
    pub positions: usize,
}

/// What is the same for all steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRules {
    pub recordings: Option<Recordings>,
    /// Tokens of a run of one sequence, at most.
    pub max_tokens: usize,
}

/// Plans the runs of `batch`, the one of several sequences first. `row_of` is each slot's row of the caches, `lengths`
/// what the rows hold before.
pub fn plan_runs(
    batch: &DecodeBatch,
    row_of: &[usize],
    lengths: &RowLengths,
    rules: RunRules,
    runs: &mut StepRuns,
) {
    let RunRules { recordings, max_tokens } = rules;
    runs.used = 0;
    let is_single = |row: usize| batch.row(row).len() == 1;
    let singles = (0..batch.rows()).filter(|&row| is_single(row));
    match (singles.clone().count(), recordings) {
        (0, _) => {}
        (1, None) => singles.for_each(|row| sequence_run(batch, row_of, row, 0..1, runs.push())),
        _ => prefix_run(batch, row_of, singles, lengths, recordings, runs.push()),
    }
    for row in (0..batch.rows()).filter(|&row| !is_single(row)) {
        let all = batch.row(row).len();
        for start in (0..all).step_by(max_tokens) {
            sequence_run(batch, row_of, row, start..all.min(start + max_tokens), runs.push());
        }
    }
}

/// The recorded run of so many rows, which hold nothing: what it writes is void.
pub fn plan_recording(rows: usize, lengths: &RowLengths, recordings: Recordings, runs: &mut StepRuns) {
    runs.used = 0;
    let run = runs.push();
    start_prefix_run(rows, lengths, run);
    finish_recorded_run(recordings, run);
}

impl Recordings {
    /// Every number of rows that is recorded, of so many slots.
    pub fn sizes(slots: usize) -> impl Iterator<Item = usize> {
        (0..usize::BITS).map(|power| 1 << power).take_while(move |&rows: &usize| rows < slots).chain([slots])
    }
}

/// All sequences that feed one token.
fn prefix_run(
    batch: &DecodeBatch,
    row_of: &[usize],
    singles: impl Iterator<Item = usize> + Clone,
    lengths: &RowLengths,
    recordings: Option<Recordings>,
    run: &mut DecoderRun,
) {
    let in_caches = |row: usize| row_of[batch.slots[row] as usize];
    let used = singles.clone().map(|row| in_caches(row) + 1).max().unwrap_or(1);
    // Few sizes, so that few are recorded.
    let rows = if recordings.is_some() { used.next_power_of_two().min(row_of.len()) } else { used };
    start_prefix_run(rows, lengths, run);
    for row in singles.clone() {
        let at = in_caches(row);
        run.input_ids[at] = i64::from(batch.row(row)[0]);
        run.position_ids[at] = i64::from(batch.positions[row]);
        run.seqlens_k[at] = batch.positions[row];
        if let Some(&length) = batch.cross_lengths.get(row) {
            run.cross_lengths[at] = i64::from(length);
        }
    }
    match recordings {
        Some(recordings) => finish_recorded_run(recordings, run),
        None => run.total_sequence_length = run.seqlens_k.iter().max().map_or(1, |&last| last + 1),
    }
    for row in singles {
        let at = in_caches(row);
        for output in outputs_of(batch, batch.row_offsets[row]..batch.row_offsets[row + 1]) {
            let place = if recordings.is_some() { at } else { run.logit_rows.len() };
            if recordings.is_none() {
                run.logit_rows.push(at as i64);
            }
            run.outputs.push((output, place));
        }
    }
    at_least_one(run);
}

/// `rows` holes.
fn start_prefix_run(rows: usize, lengths: &RowLengths, run: &mut DecoderRun) {
    (run.first, run.rows, run.tokens) = (0, rows, 1);
    run.input_ids.resize(rows, 0);
    run.position_ids.resize(rows, 0);
    run.seqlens_k.extend(lengths.tokens[..rows].iter().map(|&tokens| tokens as i32));
    run.cross_lengths.extend(lengths.sources.iter().take(rows).map(|&tokens| tokens.max(1) as i64));
}

/// What is replayed computes the logits of all rows, whoever asks, and reads the same part of the caches.
fn finish_recorded_run(recordings: Recordings, run: &mut DecoderRun) {
    run.logit_rows.extend(0..run.rows as i64);
    run.total_sequence_length = recordings.positions as i32;
    run.recording = Some(run.rows as u32);
}

/// A part of the tokens of one sequence, over its row of the caches.
fn sequence_run(batch: &DecodeBatch, row_of: &[usize], row: usize, part: Range<usize>, run: &mut DecoderRun) {
    let tokens = &batch.row(row)[part.clone()];
    let position = batch.positions[row] + part.start as i32;
    let last = position + tokens.len() as i32 - 1;
    let begin = batch.row_offsets[row] + part.start as i32;
    (run.first, run.rows, run.tokens) = (row_of[batch.slots[row] as usize], 1, tokens.len());
    run.input_ids.extend(tokens.iter().map(|&token| i64::from(token)));
    run.position_ids.extend(i64::from(position)..=i64::from(last));
    run.seqlens_k.push(last);
    run.cross_lengths.extend(batch.cross_lengths.get(row).map(|&length| i64::from(length)));
    run.total_sequence_length = last + 1;
    run.chained = part.start > 0;
    for output in outputs_of(batch, begin..begin + tokens.len() as i32) {
        run.outputs.push((output, run.logit_rows.len()));
        run.logit_rows.push(batch.logit_rows[output] - i64::from(begin));
    }
    at_least_one(run);
}

/// No operator need stand a tensor without rows: a run of which no logits are wanted computes some.
fn at_least_one(run: &mut DecoderRun) {
    if run.logit_rows.is_empty() {
        run.logit_rows.push((run.rows * run.tokens) as i64 - 1);
    }
}

/// Indices of the logit rows of some tokens of the batch.
fn outputs_of(batch: &DecodeBatch, tokens: Range<i32>) -> Range<usize> {
    let place = |token: i32| batch.logit_rows.partition_point(|&wanted| wanted < i64::from(token));
    place(tokens.start)..place(tokens.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::CrossView;

    fn lengths(tokens: &[usize], sources: &[usize]) -> RowLengths {
        RowLengths { tokens: tokens.to_vec(), sources: sources.to_vec() }
    }

    fn planned(batch: &DecodeBatch, lengths: &RowLengths, recordings: Option<Recordings>) -> Vec<DecoderRun> {
        let mut runs = StepRuns::default();
        // What an earlier step has left is forgotten.
        let run = runs.push();
        (run.recording, run.chained) = (Some(9), true);
        run.input_ids.push(9);
        run.outputs.push((9, 9));
        plan(batch, lengths, RunRules { recordings, max_tokens: 100 }, &mut runs);
        runs.all().to_vec()
    }

    /// Each slot is in its own row.
    fn plan(batch: &DecodeBatch, lengths: &RowLengths, rules: RunRules, runs: &mut StepRuns) {
        let row_of: Vec<usize> = (0..lengths.tokens.len()).collect();
        plan_runs(batch, &row_of, lengths, rules, runs);
    }

    #[test]
    fn sequences_of_one_token_are_one_run_and_a_slot_between_them_is_a_hole() {
        let mut batch = DecodeBatch::default();
        batch.push(&[70], 3, 9, Some(CrossView { slot: 0, tokens: 6 }));
        batch.want_logits();
        batch.push(&[71], 0, 2, Some(CrossView { slot: 1, tokens: 4 }));
        batch.want_logits();
        let runs = planned(&batch, &lengths(&[5, 7, 0, 9, 8], &[4, 3, 0, 6, 2]), None);
        let expected = DecoderRun {
            first: 0,
            rows: 4,
            tokens: 1,
            input_ids: vec![71, 0, 0, 70],
            position_ids: vec![2, 0, 0, 9],
            // Slot 0 went back to 2 tokens; the holes keep what they hold.
            seqlens_k: vec![2, 7, 0, 9],
            cross_lengths: vec![4, 3, 1, 6],
            total_sequence_length: 10,
            logit_rows: vec![3, 0],
            outputs: vec![(0, 0), (1, 1)],
            recording: None,
            chained: false,
        };
        assert_eq!(runs, [expected]);
    }

    #[test]
    fn prompts_and_drafts_have_runs_of_their_own_after_it() {
        let mut batch = DecodeBatch::default();
        batch.push(&[10, 11, 12], 1, 4, None);
        batch.push(&[20], 2, 0, None);
        batch.want_logits();
        batch.push(&[30], 0, 6, None);
        batch.want_logits();
        batch.push_draft(&[31, 32]);
        batch.push(&[40], 3, 1, None);
        batch.want_logits();
        let runs = planned(&batch, &lengths(&[6, 4, 0, 1], &[]), None);
        assert_eq!(runs.len(), 3);
        assert_eq!((runs[0].rows, &runs[0].input_ids[..]), (4, &[0, 0, 20, 40][..]));
        assert_eq!((&runs[0].logit_rows[..], &runs[0].outputs[..]), (&[2, 3][..], &[(0, 0), (4, 1)][..]));
        assert!(runs[0].cross_lengths.is_empty());
        let prompt = DecoderRun {
            first: 1,
            rows: 1,
            tokens: 3,
            input_ids: vec![10, 11, 12],
            position_ids: vec![4, 5, 6],
            seqlens_k: vec![6],
            total_sequence_length: 7,
            logit_rows: vec![2],
            ..DecoderRun::default()
        };
        assert_eq!(runs[1], prompt);
        assert_eq!((runs[2].first, &runs[2].position_ids[..]), (0, &[6, 7, 8][..]));
        assert_eq!(
            (&runs[2].logit_rows[..], &runs[2].outputs[..]),
            (&[0, 1, 2][..], &[(1, 0), (2, 1), (3, 2)][..])
        );
    }

    #[test]
    fn recurrent_states_take_a_prompt_token_by_token() {
        let mut batch = DecodeBatch::default();
        batch.push(&[10, 11, 12], 1, 4, None);
        batch.want_logits();
        let mut runs = StepRuns::default();
        plan(&batch, &lengths(&[0, 4], &[]), RunRules { recordings: None, max_tokens: 1 }, &mut runs);
        let got: Vec<_> = runs
            .all()
            .iter()
            .map(|run| (run.input_ids[0], run.position_ids[0], run.chained, run.outputs.len()))
            .collect();
        assert_eq!(got, [(10, 4, false, 0), (11, 5, true, 0), (12, 6, true, 1)]);
        assert!(runs.all().iter().all(|run| run.logit_rows == [0] && run.first == 1));
    }

    #[test]
    fn a_long_prompt_is_several_runs() {
        let mut batch = DecodeBatch::default();
        batch.push(&[10, 11, 12, 13, 14], 1, 4, None);
        batch.want_logits();
        let mut runs = StepRuns::default();
        plan(&batch, &lengths(&[0, 4], &[]), RunRules { recordings: None, max_tokens: 2 }, &mut runs);
        let got: Vec<_> =
            runs.all().iter().map(|run| (&run.input_ids[..], run.seqlens_k[0], run.outputs.len())).collect();
        assert_eq!(got, [(&[10, 11][..], 5, 0), (&[12, 13][..], 7, 0), (&[14][..], 8, 1)]);
    }

    #[test]
    fn a_recording_is_what_a_step_of_its_size_replays() {
        assert_eq!(Recordings::sizes(5).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!(Recordings::sizes(4).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(Recordings::sizes(1).collect::<Vec<_>>(), [1]);
        let (recordings, empty) = (Recordings { positions: 33 }, lengths(&[0; 5], &[0; 5]));
        let mut runs = StepRuns::default();
        plan_recording(2, &empty, recordings, &mut runs);
        let recorded = runs.all()[0].clone();
        let mut batch = DecodeBatch::default();
        batch.push(&[70], 1, 0, Some(CrossView { slot: 0, tokens: 1 }));
        batch.want_logits();
        let step = planned(&batch, &empty, Some(recordings)).remove(0);
        let expected = DecoderRun { input_ids: vec![0, 70], outputs: vec![(0, 1)], ..recorded };
        assert_eq!(step, expected);
    }

    #[test]
    fn a_run_covers_the_rows_of_its_slots() {
        let mut batch = DecodeBatch::default();
        batch.push(&[70], 3, 9, None);
        batch.want_logits();
        batch.push(&[71], 0, 2, None);
        batch.want_logits();
        batch.push(&[72, 73], 1, 4, None);
        batch.want_logits();
        let mut runs = StepRuns::default();
        let rules = RunRules { recordings: None, max_tokens: 9 };
        plan_runs(&batch, &[1, 4, 2, 0], &lengths(&[9, 2, 0, 0, 4], &[]), rules, &mut runs);
        let [singles, prompt] = runs.all() else { panic!("two runs") };
        assert_eq!(
            (singles.rows, &singles.input_ids[..], &singles.seqlens_k[..]),
            (2, &[70, 71][..], &[9, 2][..])
        );
        assert_eq!(singles.outputs, [(0, 0), (1, 1)]);
        assert_eq!((prompt.first, &prompt.input_ids[..]), (4, &[72, 73][..]));
    }

    #[test]
    fn a_single_sequence_meets_no_holes() {
        let mut batch = DecodeBatch::default();
        batch.push(&[70], 3, 9, None);
        batch.want_logits();
        let runs = planned(&batch, &lengths(&[5, 7, 0, 9], &[]), None);
        assert_eq!((runs[0].first, runs[0].rows, &runs[0].seqlens_k[..]), (3, 1, &[9][..]));
        assert_eq!((runs[0].total_sequence_length, &runs[0].logit_rows[..]), (10, &[0][..]));
    }

    #[test]
    fn recorded_runs_have_few_sizes_and_nothing_that_changes_but_numbers() {
        let mut batch = DecodeBatch::default();
        batch.push(&[70], 2, 9, None);
        batch.want_logits();
        let recordings = Some(Recordings { positions: 33 });
        let runs = planned(&batch, &lengths(&[5, 7, 9, 9, 8], &[]), recordings);
        assert_eq!((runs[0].rows, runs[0].recording, runs[0].total_sequence_length), (4, Some(4), 33));
        assert_eq!((&runs[0].logit_rows[..], &runs[0].outputs[..]), (&[0, 1, 2, 3][..], &[(0, 2)][..]));
        batch.push(&[70], 4, 8, None);
        batch.push(&[70, 71], 0, 5, None);
        let runs = planned(&batch, &lengths(&[5, 7, 9, 9, 8], &[]), recordings);
        assert_eq!((runs[0].rows, runs[0].recording), (5, Some(5)));
        assert_eq!((runs[1].tokens, runs[1].recording), (2, None));
    }
}
