//! What a text is made of before its sentences: lines, columns, and blocks that are no prose.

use std::{collections::HashMap, ops::Range};

use super::sentences::is_mark;

/// The parts of a text that may hold prose, in order. Line breaks, tabs and other gaps between columns are in none, nor are
/// fenced blocks of code and the lines of subtitles that say when.
pub fn cells(text: &str) -> Vec<Range<usize>> {
    let lines: Vec<_> = lines(text).into_iter().map(|line| (gaps(&text[line.clone()]), line)).collect();
    let mut lines_by_end = HashMap::new();
    for gap in lines.iter().flat_map(|(gaps, _)| gaps) {
        *lines_by_end.entry(gap.end).or_default() += 1;
    }
    let mut cells = Vec::new();
    let mut at = 0;
    // Fences for which no closing line was found: a later fence of the same mark and at least the same length has none either.
    let mut unclosed: Vec<Fence> = Vec::new();
    while let Some((gaps, line)) = lines.get(at) {
        let content = &text[line.clone()];
        at += 1;
        if let Some(fence) = Fence::opened_by(content)
            && !unclosed.iter().any(|other| other.mark == fence.mark && other.length <= fence.length)
        {
            match lines[at..].iter().position(|(_, line)| fence.is_closed_by(&text[line.clone()])) {
                Some(inside) => {
                    at += inside + 1;
                    continue;
                }
                None => unclosed.push(fence),
            }
        }
        if !is_cue_time(content) {
            let has_gaps = has_columns(content, gaps, &lines_by_end);
            cells.extend(
                columns(content, has_gaps)
                    .into_iter()
                    .map(|cell| line.start + cell.start..line.start + cell.end),
            );
        }
    }
    cells
}

/// Without their breaks: whichever of those that Unicode has.
fn lines(text: &str) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut start = 0;
    for (at, c) in text.char_indices() {
        if matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}') {
            lines.push(start..at);
            start = at + c.len_utf8();
        }
    }
    lines.push(start..text.len());
    lines
}

/// The first line of a block of code: three of a mark or more.
struct Fence {
    mark: char,
    length: usize,
}

impl Fence {
    fn opened_by(line: &str) -> Option<Self> {
        let line = line.trim_start();
        let mark = line.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
        let rest = line.trim_start_matches(mark);
        let length = line.len() - rest.len();
        // A code span may have three marks too, and a longer row of tildes may be an ornament.
        let is_other = match mark {
            '`' => rest.contains('`'),
            _ => rest.contains('`') || length > 4 && !names_language(rest),
        };
        (length >= 3 && !is_other).then_some(Self { mark, length })
    }

    fn is_closed_by(&self, line: &str) -> bool {
        let line = line.trim();
        line.len() >= self.length && line.chars().all(|c| c == self.mark)
    }
}

/// True for `rust` and `rust title=a`, but not for the words of a line that has tildes at both ends.
fn names_language(after_mark: &str) -> bool {
    after_mark.trim_start().starts_with(char::is_alphanumeric) && !after_mark.contains('~')
}

/// True for `00:00:04,000 --> 00:00:06,000`, with what WebVTT may add after it.
fn is_cue_time(line: &str) -> bool {
    let is_time = |time: &str| {
        time.contains(':') && time.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | ',' | '.'))
    };
    line.split_once("-->")
        .is_some_and(|(from, to)| is_time(from.trim()) && to.split_whitespace().next().is_some_and(is_time))
}

/// Two blanks or more within a line, or a tab.
struct Gap {
    /// Characters of the line up to its end, where a column may begin.
    end: usize,
    /// True where it may be a single blank that was doubled: between words of a sentence.
    may_be_slip: bool,
}

fn gaps(line: &str) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut before = None;
    let mut blanks = 0;
    let mut has_tab = false;
    for (at, c) in line.chars().enumerate() {
        if c.is_whitespace() {
            blanks += 1;
            has_tab |= c == '\t';
            continue;
        }
        if let Some(before) = before
            && (has_tab || is_wide(blanks, Some(before)))
        {
            let in_sentence = |before: char| before.is_lowercase() || before == ',';
            let may_be_slip = blanks == 2 && !has_tab && in_sentence(before) && c.is_lowercase();
            gaps.push(Gap { end: at, may_be_slip });
        }
        (before, blanks, has_tab) = (Some(c), 0, false);
    }
    gaps
}

/// True for so many blanks that they may part columns. Two after a full stop are how some end a sentence.
fn is_wide(blanks: usize, before: Option<char>) -> bool {
    blanks > 2 || blanks == 2 && !before.is_some_and(is_mark)
}

/// True when the gaps of a line part columns: when one is wide, stands outside a sentence, or ends where one of another line
/// does; and when they part single words. `lines_by_end` has how many lines have a gap that ends there.
fn has_columns(line: &str, gaps: &[Gap], lines_by_end: &HashMap<usize, usize>) -> bool {
    let is_column =
        |gap: &Gap| !gap.may_be_slip || lines_by_end.get(&gap.end).is_some_and(|lines| *lines > 1);
    let are_words = || gaps.len() > 1 && line.split_whitespace().count() == gaps.len() + 1;
    gaps.iter().any(is_column) || are_words()
}

/// The cells of a line: what is between tabs, the bars of a table, and runs of blanks.
fn columns(line: &str, has_gaps: bool) -> Vec<Range<usize>> {
    let has_bars = line.trim_start().starts_with('|');
    let mut cells = Vec::new();
    let mut start = 0;
    let mut before = None;
    let mut rest = line.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let blank_around = |before: Option<char>, next: Option<char>| {
            before.is_none_or(char::is_whitespace) && next.is_none_or(char::is_whitespace)
        };
        let parts = match c {
            '\t' => true,
            '|' if has_bars => before != Some('\\'),
            '|' => blank_around(before, rest.peek().map(|(_, next)| *next)),
            _ if c.is_whitespace() => {
                let mut run = 1;
                while rest.next_if(|(_, next)| next.is_whitespace() && *next != '\t').is_some() {
                    run += 1;
                }
                has_gaps && is_wide(run, before)
            }
            _ => false,
        };
        if parts {
            cells.push(start..at);
            start = rest.peek().map_or(line.len(), |(next, _)| *next);
        }
        before = Some(c);
    }
    cells.push(start..line.len());
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<&str> {
        cells(text).into_iter().map(|cell| text[cell].trim()).filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn lines_end_at_every_break() {
        assert_eq!(shown("a\nb\r\nc\rd\u{2028}e\u{2029}f\u{85}g"), ["a", "b", "c", "d", "e", "f", "g"]);
    }

    #[test]
    fn fenced_code_is_in_no_cell() {
        assert_eq!(shown("Before\n```rust\nlet a = 1;\n\n```\nafter"), ["Before", "after"]);
        assert_eq!(shown("~~~~\n~~~\ncode\n~~~~\nafter"), ["after"]);
        assert_eq!(shown("~~~~~\nText\n~~~~~"), ["~~~~~", "Text", "~~~~~"]);
        assert_eq!(shown("~~~~~ A title ~~~~~\nText\n~~~~~"), ["~~~~~ A title ~~~~~", "Text", "~~~~~"]);
        assert_eq!(shown("~~~~~ rust\ncode\n~~~~~\nafter"), ["after"]);
        assert_eq!(shown("  ```\n  code\n  ```\nafter"), ["after"]);
        assert_eq!(shown("```\nnever closed\n```rust"), ["```", "never closed", "```rust"]);
        assert_eq!(shown("```a``` is code\n```"), ["```a``` is code", "```"]);
    }

    #[test]
    fn a_cue_has_a_time() {
        assert_eq!(shown("1\n00:00:04,000 --> 00:00:06,000\nHello"), ["1", "Hello"]);
        assert_eq!(shown("00:04.000 --> 00:06.000 align:start\nHello"), ["Hello"]);
        assert_eq!(shown("a --> b"), ["a --> b"]);
    }

    #[test]
    fn columns_are_parted_by_tabs_bars_and_runs_of_blanks() {
        assert_eq!(shown("Item\tUnit price\t\tQty"), ["Item", "Unit price", "Qty"]);
        assert_eq!(shown("| Name | Age|\n|:--|--|"), ["Name", "Age", ":--", "--"]);
        assert_eq!(shown(r"| a \| b | c |"), [r"a \| b", "c"]);
        assert_eq!(shown("Home | About us | Contact"), ["Home", "About us", "Contact"]);
        assert_eq!(shown("if (a || b) x|y"), ["if (a || b) x|y"]);
        assert_eq!(shown("NAME  AGE    CITY"), ["NAME", "AGE", "CITY"]);
        assert_eq!(shown("One.  Two!  Three"), ["One.  Two!  Three"]);
        assert_eq!(shown("Total.   Sum"), ["Total.", "Sum"]);
        assert_eq!(shown("  The cat  sleeps on the sofa."), ["The cat  sleeps on the sofa."]);
        assert_eq!(shown("milk  eggs  bread"), ["milk", "eggs", "bread"]);
        assert_eq!(shown("The cat  sleeps on  the sofa."), ["The cat  sleeps on  the sofa."]);
        assert_eq!(shown("The cat  sleeps.  It is  late."), ["The cat  sleeps.  It is  late."]);
        assert_eq!(shown("ripe apples  red\nkiwis        green"), ["ripe apples", "red", "kiwis", "green"]);
        assert_eq!(
            shown("ripe apples  red\nsour grapes  blue"),
            ["ripe apples", "red", "sour grapes", "blue"]
        );
        assert_eq!(shown("a cat  sleeps\nthe old dog  runs"), ["a cat  sleeps", "the old dog  runs"]);
        assert_eq!(shown("a cat  sleeps    12"), ["a cat", "sleeps", "12"]);
        assert_eq!(shown("Name:  John"), ["Name:", "John"]);
    }
}
