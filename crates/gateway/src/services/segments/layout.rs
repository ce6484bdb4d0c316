//! What a text is made of before its sentences: lines, columns, and blocks that are no prose.

use std::ops::Range;

/// The parts of a text that may hold prose, in order. Line breaks, tabs and other gaps between columns are in none, nor are
/// fenced blocks of code and the lines of subtitles that say when.
pub fn cells(text: &str) -> Vec<Range<usize>> {
    let lines = lines(text);
    let mut cells = Vec::new();
    let mut at = 0;
    // What closes no fence at one line closes none later: a mark, and its least length.
    let mut unclosed: Vec<Fence> = Vec::new();
    while let Some(line) = lines.get(at) {
        let content = &text[line.clone()];
        at += 1;
        if let Some(fence) = Fence::opened_by(content)
            && !unclosed.iter().any(|other| other.mark == fence.mark && other.length <= fence.length)
        {
            match lines[at..].iter().position(|line| fence.is_closed_by(&text[line.clone()])) {
                Some(inside) => {
                    at += inside + 1;
                    continue;
                }
                None => unclosed.push(fence),
            }
        }
        if !is_cue_time(content) {
            cells.extend(
                columns(content).into_iter().map(|cell| line.start + cell.start..line.start + cell.end),
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
        // A code span may have three marks too.
        (length >= 3 && !rest.contains('`')).then_some(Self { mark, length })
    }

    fn is_closed_by(&self, line: &str) -> bool {
        let line = line.trim();
        line.len() >= self.length && line.chars().all(|c| c == self.mark)
    }
}

/// True for `00:00:04,000 --> 00:00:06,000`, with what WebVTT may add after it.
fn is_cue_time(line: &str) -> bool {
    let is_time = |time: &str| {
        time.contains(':') && time.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | ',' | '.'))
    };
    line.split_once("-->")
        .is_some_and(|(from, to)| is_time(from.trim()) && to.split_whitespace().next().is_some_and(is_time))
}

/// Where a blank was doubled in the midst of a sentence: it is the only gap of the line, between words in lower case.
fn slip(line: &str) -> Option<usize> {
    let line = line.trim_end();
    let words = line.trim_start();
    let (at, gap) = words
        .match_indices(char::is_whitespace)
        .find(|(at, _)| words[*at..].chars().nth(1).is_some_and(char::is_whitespace))?;
    let (before, after) = (&words[..at], words[at + gap.len()..].trim_start());
    let is_double = words.len() - before.len() - after.len() == 2 && !words.contains('\t');
    let is_lone = !after.contains("  ");
    let in_sentence =
        before.ends_with(|c: char| c.is_lowercase() || c == ',') && after.starts_with(char::is_lowercase);
    (is_double && is_lone && in_sentence).then_some(line.len() - words.len() + at)
}

/// The cells of a line: what is between tabs, the bars of a table, and runs of blanks.
fn columns(line: &str) -> Vec<Range<usize>> {
    let has_bars = line.trim_start().starts_with('|');
    let slip = slip(line);
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
                // Two after a full stop are how some end a sentence.
                run > 2 || run == 2 && !before.is_some_and(super::sentences::is_mark) && slip != Some(at)
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
        assert_eq!(shown("Name:  John"), ["Name:", "John"]);
    }
}
