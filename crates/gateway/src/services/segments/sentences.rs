//! Where the sentences of a line end.
//!
//! A mark ends one if a blank follows, and nothing speaks against it: a lower-case word, an abbreviation, an initial, a
//! quotation that goes on. In doubt there is no cut: two sentences at once cost a model less than a torn one.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::{abbreviations::Abbreviations, kept::is_picture};

/// Quotations and brackets up to this length stay whole, whatever they hold; longer ones are rather paragraphs in themselves.
const WHOLE_QUOTATION_BYTES: usize = 240;

/// How many open quotations are searched for the one that a mark closes.
const DEEPEST: usize = 16;

/// How far the next word is looked for.
const AHEAD_CHARS: usize = 64;

/// The sentences of a line, in order, without the blanks between them.
pub fn of(line: &str, abbreviations: &Abbreviations) -> Vec<Range<usize>> {
    let quotations = quotations(line);
    let mut quotations = quotations.iter().peekable();
    let mut sentences = Vec::new();
    let mut item = Item::default();
    let mut has_word = false;
    let mut start = 0;
    let mut from = 0;
    while let Some(marks) = next_marks(line, from) {
        let end = marks.end + closers(&line[marks.end..]);
        let rest = &line[end..];
        let next = rest.trim_start();
        has_word |= line[from..marks.start].contains(char::is_alphanumeric);
        from = end;
        while quotations.next_if(|quotation| quotation.end <= marks.end).is_some() {}
        let quotation = quotations.peek().filter(|quotation| quotation.start < marks.start);
        let quoted = quotation.is_some_and(|quotation| end < quotation.end);
        let run = &line[marks.clone()];
        let has_blank = next.len() < rest.len();
        let is_decimal = run == "．" && next.starts_with(char::is_numeric);
        let parted = has_blank || run.contains(|c| !needs_blank(c)) && !is_decimal;
        let before = &line[start..marks.start];
        let counts = run == "." && item.is_next(before);
        let in_clause = || {
            let is_part = quotation
                .is_some_and(|quotation| is_part(&line[start..quotation.start], &line[quotation.start..]));
            is_part || goes_on_after_quotation(next)
        };
        let closed_in_clause = marks.end < end && !has_blank && in_clause();
        let goes_on = !has_word || quoted || counts || closed_in_clause || next.is_empty();
        if parted && !goes_on && ends_sentence(before, run, next, abbreviations) {
            sentences.push(start..end);
            start = line.len() - next.len();
            from = start;
            has_word = false;
        }
    }
    if start < line.len() {
        sentences.push(start..line.len());
    }
    sentences
}

/// The number of the last item of a list within a line: `We need: 1. Flour 2. Sugar`.
#[derive(Default)]
struct Item(u32);

impl Item {
    /// True when the sentence so far ends with the number of the first item, or of the next.
    fn is_next(&mut self, before: &str) -> bool {
        let rest = before.trim_end_matches(|c: char| c.is_ascii_digit());
        let Some(number) = before[rest.len()..].parse().ok().filter(|number| *number < 100) else {
            return false;
        };
        let rest = rest.trim_end();
        let is_first = number == 1 && (rest.is_empty() || rest.ends_with([':', ';', ',']));
        let is_next = is_first || number == self.0 + 1 && number > 1;
        if is_next {
            self.0 = number;
        }
        is_next
    }
}

/// True for what can end a sentence.
pub fn is_mark(c: char) -> bool {
    needs_blank(c)
        || matches!(c, '。' | '｡' | '！' | '？' | '．' | '।' | '॥' | '።' | '፧' | '။' | '។' | '៕' | '᠃' | '᠉')
}

/// True for the marks that are part of a word, a number or an address where no blank follows.
fn needs_blank(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '…' | '‼' | '⁇' | '⁈' | '⁉' | '؟' | '۔' | '։' | '\u{37e}')
}

/// True for a full stop in whatever script, which neither asks nor cries.
pub fn is_full_stop(c: char) -> bool {
    let is_other = matches!(c, '!' | '?' | '！' | '？' | '…' | '‼' | '⁇' | '⁈' | '⁉' | '؟' | '\u{37e}' | '፧');
    is_mark(c) && !is_other
}

/// True for the characters of Chinese and Japanese, and for the syllables of Korean, of which one may be a word.
fn is_east_asian(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}

/// The next run of marks.
fn next_marks(line: &str, from: usize) -> Option<Range<usize>> {
    let start = from + line[from..].find(is_mark)?;
    let rest = &line[start..];
    Some(start..start + rest.find(|c| !is_mark(c)).unwrap_or(rest.len()))
}

/// Quotes, brackets and ends of mark-up.
const CLOSERS: &str = "\"'”’»›)]}）」』】》〉*_~";

/// How many bytes after a mark belong to its sentence: what closes it, emoji, and the numbers of footnotes.
fn closers(after: &str) -> usize {
    let mut rest = after;
    loop {
        let trimmed = rest.trim_start_matches(|c| CLOSERS.contains(c) || is_picture(c));
        // It closes in German and opens in Chinese.
        let trimmed = match trimmed.strip_prefix('“') {
            Some(others) if !others.starts_with(char::is_alphanumeric) => others,
            _ => trimmed,
        };
        let note = trimmed.strip_prefix('[').and_then(|note| note.split_once(']'));
        match note {
            Some((number, others)) if !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()) => {
                rest = others
            }
            // The guillemets of French stand apart from what they enclose.
            _ => match trimmed
                .strip_prefix([' ', '\u{a0}', '\u{202f}'])
                .and_then(|next| next.strip_prefix('»'))
            {
                Some(others) => rest = others,
                None => return after.len() - trimmed.len(),
            },
        }
    }
}

/// True when a sentence ends with `marks` after `before`, which is the sentence so far, and another begins with `next`.
fn ends_sentence(before: &str, marks: &str, next: &str, abbreviations: &Abbreviations) -> bool {
    let goes_on = next.starts_with(|c| is_mark(c) || ",;:，、；：".contains(c));
    // `[...]` and `(!)` say something of the words around them.
    let is_remark = before.ends_with(['[', '(']);
    if goes_on || is_remark {
        return false;
    }
    let begins = next.chars().take(AHEAD_CHARS).find(|c| c.is_alphanumeric());
    if begins.is_some_and(char::is_lowercase) {
        return false;
    }
    let is_pause = matches!(marks, "..." | "…") || before.ends_with(". ");
    if is_pause && next.strip_prefix('I').is_some_and(|rest| !rest.starts_with(char::is_alphanumeric)) {
        // The capital of "I" tells nothing.
        return false;
    }
    if marks != "." {
        return true;
    }
    let opens = |c: char| !c.is_alphanumeric();
    let word = before.rsplit(char::is_whitespace).next().unwrap_or_default().trim_start_matches(opens);
    let before_word = before[..before.len() - word.len()].trim_end();
    // As in "l'Ing. Rossi".
    let elided = word.rsplit(['\'', '’']).next().unwrap_or_default();
    let starts = || {
        let word = next.trim_start_matches(opens).unicode_words().next();
        word.is_some_and(|word| abbreviations.starts_sentence(word))
    };
    if abbreviations.is_before_anything(word) || abbreviations.is_before_anything(elided) {
        return false;
    }
    let is_before_number = abbreviations.is_before_number(word) || abbreviations.is_before_number(elided);
    if is_before_number && (begins.is_some_and(char::is_numeric) || begins_with_roman_number(next)) {
        return false;
    }
    match shape(word) {
        // "So do I." has a word before, "I. Newton" has none or a name.
        Shape::Initial => word == "I" && before_word.ends_with(char::is_lowercase) && starts(),
        // "At 9 h." ends with a unit, "9 n. Chr." does not.
        Shape::Dotted => {
            let is_unit = matches!(word, "h" | "m" | "g" | "l" | "s");
            starts() || is_unit && before_word.ends_with(|c: char| c.is_ascii_digit())
        }
        Shape::Number { short } => {
            let is_first = before_word.is_empty();
            !short || !is_first && (!abbreviations.has_ordinals() || starts())
        }
        Shape::Roman if abbreviations.has_ordinals() => starts(),
        Shape::Roman | Shape::Other => !abbreviations.is_before_name(word) || starts(),
    }
}

/// True for "Vol. II", but not for "I said no. I left.": a lone `I` is a word in several languages.
fn begins_with_roman_number(next: &str) -> bool {
    let word = next.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let is_word = word == "I" && next[word.len()..].starts_with(char::is_whitespace);
    !is_word && is_roman_number(word)
}

fn is_roman_number(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| matches!(c, 'I' | 'V' | 'X' | 'L' | 'C'))
}

/// True when a sentence without blanks goes on after the quotation or the bracket that `quotation` begins with: it neither
/// begins the sentence nor follows a colon, or it is a title or a remark.
fn is_part(before: &str, quotation: &str) -> bool {
    let is_speech = !before.contains(char::is_alphanumeric) || before.trim_end().ends_with(['：', ':']);
    let is_title = quotation.starts_with(['《', '〈']);
    let is_remark = quotation.starts_with(['(', '（', '[', '【']) && !before.is_empty();
    !is_speech || is_title || is_remark
}

/// True for what follows a quotation in Chinese and Japanese without ending its sentence: `她说。`, `と言った。`, `の意味`
fn goes_on_after_quotation(next: &str) -> bool {
    const LONGEST_CHARS: usize = 12;
    const PARTICLES: [char; 9] = ['と', 'は', 'が', 'を', 'に', 'の', 'も', 'で', 'や'];
    let end = next.char_indices().take(LONGEST_CHARS).find(|(_, c)| is_mark(*c) || "，：,:".contains(*c));
    let clause = end.map_or("", |(end, _)| &next[..end]);
    let verbs = ['说', '說', '问', '問', '喊', '叫', '道'];
    next.starts_with(PARTICLES) || clause.ends_with(verbs) && !clause.ends_with("知道")
}

/// What a word before a full stop looks like.
enum Shape {
    /// One letter, in upper case or of a script without cases.
    Initial,
    /// Letters with full stops between them, or one letter in lower case.
    Dotted,
    Number {
        /// Two digits at most.
        short: bool,
    },
    /// A number in Roman capitals.
    Roman,
    Other,
}

fn shape(word: &str) -> Shape {
    let mut parts = word.split(['.', '-']).map(|part| part.chars().count()).filter(|length| *length > 0);
    let mut letters = word.chars().filter(|c| !matches!(c, '.' | '-'));
    let (first, others) = (letters.next(), letters.next());
    match first {
        Some(first) if others.is_none() && first.is_lowercase() => Shape::Dotted,
        Some(first) if others.is_none() && first.is_alphabetic() && !is_east_asian(first) => Shape::Initial,
        Some(first) if first.is_ascii_digit() && word.bytes().all(|byte| byte.is_ascii_digit()) => {
            Shape::Number { short: word.len() <= 2 }
        }
        Some(first) if first.is_alphabetic() && word.contains('.') && parts.all(|length| length <= 2) => {
            Shape::Dotted
        }
        Some(_) if is_roman_number(word) => Shape::Roman,
        _ => Shape::Other,
    }
}

/// Quotations, brackets and code spans that are closed in the line and short enough to stay whole, by their start; those in
/// others are left out.
fn quotations(line: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut open: Vec<(char, usize)> = Vec::new();
    let mut before: Option<char> = None;
    let mut rest = line.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let next = rest.peek().map(|(_, next)| *next);
        let begins = before
            .is_none_or(|before| is_east_asian(before) || !before.is_alphanumeric() && !is_mark(before))
            && next.is_some_and(|next| !next.is_whitespace());
        let closes = before.is_some_and(|before| !before.is_whitespace());
        // A single quote may be an apostrophe: it opens a quotation only before a capital, and closes one only after a mark.
        let single_begins = begins && next.is_some_and(char::is_uppercase);
        let single_closes = before.is_some_and(|before| is_mark(before) || before == ',');
        let is_open = |mark: char| open.iter().rev().take(DEEPEST).any(|(open, _)| *open == mark);
        let closed = match c {
            '"' if is_open(c) && closes => Some(c),
            '`' if is_open(c) => Some(c),
            '\'' if is_open(c) && single_closes => Some(c),
            '’' if is_open('‘') && single_closes => Some('‘'),
            '”' if is_open('“') => Some('“'),
            '“' | '”' if is_open('„') => Some('„'),
            '»' if is_open('«') => Some('«'),
            '«' if is_open('»') => Some('»'),
            ')' if is_open('(') => Some('('),
            ']' if is_open('[') => Some('['),
            '）' if is_open('（') => Some('（'),
            '」' if is_open('「') => Some('「'),
            '』' if is_open('『') => Some('『'),
            '》' if is_open('《') => Some('《'),
            '〉' if is_open('〈') => Some('〈'),
            '】' if is_open('【') => Some('【'),
            _ => None,
        };
        if let Some(mark) = closed {
            while let Some((other, start)) = open.pop() {
                if other == mark {
                    let end = at + c.len_utf8();
                    if end - start <= WHOLE_QUOTATION_BYTES {
                        found.truncate(found.partition_point(|inner| inner.start < start));
                        found.push(start..end);
                    }
                    break;
                }
            }
        } else if match c {
            '"' | '»' | '`' => begins,
            '\'' | '‘' => single_begins,
            '“' | '„' | '«' | '(' | '[' | '（' | '「' | '『' | '《' | '〈' | '【' => true,
            _ => false,
        } {
            open.push((c, at));
        }
        before = Some(c);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<'a>(language: &str, line: &'a str) -> Vec<&'a str> {
        of(line, &Abbreviations::of(Some(language))).into_iter().map(|sentence| &line[sentence]).collect()
    }

    #[test]
    fn quotations_stay_whole() {
        let whole = [
            "\"Stop! Go back!\" he said.",
            "She said “It is late. Go home.” and left.",
            "(See page 5. It is long.)",
            "'Stop! Come back!' he cried.",
            "Er sagte: „Halt! Wer da?“",
            "Elle dit « Non ! Jamais ! » et partit.",
        ];
        for line in whole {
            assert_eq!(cut("en", line), [line]);
        }
        assert_eq!(
            cut("en", "She asked, \"Why?\" Then she left."),
            ["She asked, \"Why?\"", "Then she left."]
        );
        let long = format!("“{}.”", ["Here is one more sentence that we all said"; 8].join(". "));
        assert_eq!(cut("en", &long).len(), 8);
    }
}
