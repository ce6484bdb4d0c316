//! Finds the part of a cell or a sentence that the model gets. Marks at its ends are kept around it; what has no words to
//! translate is kept as a whole.

use std::ops::Range;

use super::abbreviations::Abbreviations;

/// Where a piece of text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A whole cell: it may begin with the marker of a list.
    Cell,
    /// In the midst of one.
    Sentence,
}

/// How many layers of mark-up are taken off a cell, and then off a sentence: each is searched from end to end.
const MOST_WRAPPINGS: usize = 8;

/// The part of `range` that the model gets, or none.
pub fn core(
    text: &str,
    range: Range<usize>,
    place: Place,
    abbreviations: &Abbreviations,
) -> Option<Range<usize>> {
    let mut core = Core { text: text.get(range.clone())?, start: range.start };
    core.shrink(0, 0);
    if place == Place::Cell {
        core.shrink(markers(core.text, abbreviations), 0);
    }
    let mut wrappings = 0;
    while has_words(core.text) {
        let front = front_marks(core.text);
        let (front, back) = match back_marks(&core.text[front..]) {
            0 if front == 0 && wrappings < MOST_WRAPPINGS => {
                wrappings += 1;
                wrapping(core.text)
            }
            back => (front, back),
        };
        if (front, back) == (0, 0) {
            return Some(core.start..core.start + core.text.len());
        }
        core.shrink(front, back);
    }
    None
}

struct Core<'a> {
    text: &'a str,
    start: usize,
}

impl Core<'_> {
    /// Without so many bytes at its ends, and without blanks there.
    fn shrink(&mut self, front: usize, back: usize) {
        let rest = &self.text[front..self.text.len() - back];
        let trimmed = rest.trim_start();
        self.start += self.text.len() - back - trimmed.len();
        self.text = trimmed.trim_end();
    }
}

/// True when there is something to translate: a letter, and more than addresses and code.
fn has_words(text: &str) -> bool {
    let is_code = || {
        text.strip_prefix('`').and_then(|text| text.strip_suffix('`')).is_some_and(|code| !code.contains('`'))
    };
    text.split_whitespace().any(|word| word.contains(is_letter) && !is_address(word) && !is_amount(word))
        && !is_code()
}

/// True for `R$12,50`, whose letters are of the currency.
fn is_amount(word: &str) -> bool {
    word.split_once('$').is_some_and(|(country, amount)| {
        country.chars().all(|c| c.is_ascii_uppercase()) && !amount.contains(is_letter)
    })
}

/// Signs that are letters to Unicode, but for what they look like, are none.
fn is_letter(c: char) -> bool {
    c.is_alphabetic() && !matches!(c, 'ℹ' | 'Ⓐ'..='ⓩ' | '\u{1f100}'..='\u{1f1ff}')
}

/// True for a URL, with its scheme or without, for an e-mail address, and for the name of a file; with punctuation around it
/// or not.
fn is_address(word: &str) -> bool {
    let word = word.trim_matches(|c: char| {
        matches!(c, '<' | '>' | '(' | ')' | '[' | ']' | '"' | '\'' | ',' | ';' | '.' | '!')
    });
    let url = word.split_once("://").is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
            && !rest.is_empty()
    });
    let www = word.get(..4).is_some_and(|www| www.eq_ignore_ascii_case("www.")) && word[4..].contains('.');
    // `example.com/a?b`, `Node.js`, `report.v2.pdf`
    let name = word.split(['/', '?', '#', ':']).next().unwrap_or_default();
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let name = name.rsplit_once('.').is_some_and(|(labels, top)| {
        labels.split('.').all(is_label) && top.len() > 1 && top.bytes().all(|byte| byte.is_ascii_lowercase())
    });
    let mail = word.strip_prefix("mailto:").unwrap_or(word).split('?').next().unwrap_or_default();
    let mail = mail.split_once('@').is_some_and(|(name, host)| {
        let is_part = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "-_+%.'&=".contains(c))
        };
        is_part(name) && is_part(host) && host.rsplit_once('.').is_some_and(|(_, top)| top.len() > 1)
    });
    url || www || name || mail
}

/// Signs that readers see rather than read: alone they are kept, also where they touch a word.
pub fn is_picture(c: char) -> bool {
    matches!(c,
        '•' | '‣' | '⁃' | '·' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{fe0f}' | '\u{20e3}' | 'ℹ'
        | '\u{2190}'..='\u{21ff}' | '\u{2300}'..='\u{23ff}' | '\u{2460}'..='\u{27bf}' | '\u{2900}'..='\u{297f}'
        | '\u{2b00}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}' | '\u{e0000}'..='\u{e007f}')
}

/// True for a word that is kept at the ends of a text. Quotes, brackets, currencies and what else is read are not.
fn is_mark(word: &str) -> bool {
    let is_sign = |c: char| {
        is_picture(c)
            || matches!(c, '#' | '*' | '-' | '+' | '>' | '<' | '=' | '~' | '^' | '_' | '|' | '/' | '\\')
            || matches!(c, '‐'..='―' | '−' | '©' | '®' | '†' | '‡' | '※' | '〜' | '～' | '・')
    };
    let is_keycap = || word.ends_with('\u{20e3}') && word.chars().all(|c| is_sign(c) || c.is_ascii_digit());
    word.chars().all(is_sign) || is_keycap()
}

/// Bytes at the front that are marks.
fn front_marks(text: &str) -> usize {
    let mut rest = text;
    loop {
        let word = rest.split_whitespace().next().unwrap_or_default();
        let marks =
            if is_mark(word) { word.len() } else { rest.len() - rest.trim_start_matches(is_picture).len() };
        if marks == 0 {
            break;
        }
        rest = rest[marks..].trim_start();
    }
    // The `!` of an image: a model would put a blank after it.
    text.len() - rest.strip_prefix('!').filter(|image| image.starts_with('[')).unwrap_or(rest).len()
}

/// Bytes at the back that are marks, the numbers of footnotes, or an address that is set apart.
fn back_marks(text: &str) -> usize {
    let mut rest = text;
    loop {
        let word = rest.rsplit(char::is_whitespace).next().unwrap_or_default();
        let before = rest[..rest.len() - word.len()].trim_end();
        let stands_apart = || word.starts_with('<') && word.ends_with('>') || before.ends_with([':', '：']);
        let marks = if is_mark(word) || is_address(word) && stands_apart() {
            word.len()
        } else {
            let note = note_at_end(rest);
            if note > 0 { note } else { pictures_at_end(rest) }
        };
        if marks == 0 {
            return text.len() - rest.len();
        }
        rest = rest[..rest.len() - marks].trim_end();
    }
}

/// Bytes of emoji and other signs, the digit of a keycap with them.
fn pictures_at_end(text: &str) -> usize {
    let rest = text.trim_end_matches(is_picture);
    let is_keycap = text[rest.len()..].trim_start_matches('\u{fe0f}').starts_with('\u{20e3}');
    let digit = |c: char| c.is_ascii_digit() || matches!(c, '#' | '*');
    let rest = if is_keycap { rest.strip_suffix(digit).unwrap_or(rest) } else { rest };
    text.len() - rest.len()
}

/// Bytes of `[12]`, one or several, after a full stop.
fn note_at_end(text: &str) -> usize {
    let mut rest = text;
    while let Some((before, number)) = rest.strip_suffix(']').and_then(|rest| rest.rsplit_once('['))
        && is_number(number)
    {
        rest = before;
    }
    if rest.ends_with(['.', '!', '?', ']']) { text.len() - rest.len() } else { 0 }
}

/// Bytes at both ends of mark-up that holds all of the text: a Markdown link or image, emphasis, a pair of tags.
fn wrapping(text: &str) -> (usize, usize) {
    link(text).or_else(|| emphasis(text)).or_else(|| tags(text)).unwrap_or_default()
}

fn link(text: &str) -> Option<(usize, usize)> {
    let inner = text.strip_prefix('[')?;
    let close = closing(inner, '[', ']')?;
    let target = inner[close..].strip_prefix("](")?;
    (closing(target, '(', ')')? + 1 == target.len()).then(|| (1, inner.len() - close))
}

/// Where the bracket ends that is open before the text.
fn closing(text: &str, opener: char, closer: char) -> Option<usize> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        if c == opener {
            depth += 1;
        } else if c == closer {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

fn emphasis(text: &str) -> Option<(usize, usize)> {
    ["***", "**", "*", "~~", "__", "_"].into_iter().find_map(|mark| {
        let inner = text.strip_prefix(mark)?.strip_suffix(mark)?;
        // `__init__` is a name.
        let is_name = mark.starts_with('_') && !inner.contains(' ');
        (!inner.contains(&mark[..1]) && !is_name).then_some((mark.len(), mark.len()))
    })
}

/// `<i>…</i>`, as in subtitles.
fn tags(text: &str) -> Option<(usize, usize)> {
    let (opening, inner) = text.strip_prefix('<')?.split_once('>')?;
    let name = opening.split_whitespace().next()?;
    let closing = inner.len() - inner.strip_suffix('>')?.strip_suffix(name)?.strip_suffix("</")?.len();
    // Of two pairs, one after the other, neither holds all.
    let holds_all = !inner[..inner.len() - closing].contains(&format!("</{name}>"));
    (name.starts_with(|c: char| c.is_ascii_alphabetic()) && holds_all).then_some((opening.len() + 2, closing))
}

/// Bytes at the front of a cell that are markers: of quotations, lists and tasks.
fn markers(text: &str, abbreviations: &Abbreviations) -> usize {
    let mut rest = text;
    let mut is_item = false;
    loop {
        let rules: [&dyn Fn() -> usize; 5] = [
            &|| front_marks(rest),
            &|| rest.len() - rest.trim_start_matches('>').len(),
            &|| dash(rest),
            &|| numbering(rest, abbreviations),
            &|| if is_item { check_box(rest) } else { 0 },
        ];
        let Some(found) = rules.iter().map(|rule| rule()).find(|found| *found > 0) else {
            return text.len() - rest.len();
        };
        is_item = true;
        rest = rest[found..].trim_start();
    }
}

/// The dash of a speaker, where it touches the first word.
fn dash(text: &str) -> usize {
    let dash = text.chars().next().filter(|c| matches!(c, '-' | '–' | '—'));
    let speaks =
        |dash: &char| text[dash.len_utf8()..].starts_with(|c: char| c.is_uppercase() || "¿¡".contains(c));
    dash.filter(speaks).map_or(0, char::len_utf8)
}

/// `[ ]` and `[x]` after the marker of a list.
fn check_box(text: &str) -> usize {
    if ["[ ] ", "[x] ", "[X] "].iter().any(|filled| text.starts_with(filled)) { 3 } else { 0 }
}

/// `1.`, `2)`, `(3)`, `4.1.`, `a)`, `b.`, `iv.`, `5、`.
fn numbering(text: &str, abbreviations: &Abbreviations) -> usize {
    let marker = text.split(char::is_whitespace).next().unwrap_or_default();
    let number = marker.split('、').next().unwrap_or_default();
    if number.len() < marker.len() && is_number(number) {
        return number.len() + '、'.len_utf8();
    }
    let is_short = |label: &str| {
        let mut letters = label.chars();
        letters.next().is_some_and(char::is_alphabetic) && letters.next().is_none()
            || !label.is_empty() && label.chars().all(|c| matches!(c, 'i' | 'v' | 'x'))
    };
    let label = marker.strip_suffix(')').map(|label| label.strip_prefix('(').unwrap_or(label));
    let is_marker = match (label, marker.strip_suffix('.')) {
        (Some(label), _) => is_short(label) || is_number(label),
        // A capital with a full stop may be an initial; a number may be an ordinal one.
        (_, Some(label)) => {
            is_short(label)
                && label.chars().all(char::is_lowercase)
                && !is_abbreviated(label, text[marker.len()..].trim_start(), abbreviations)
                || label.split('.').all(is_number) && !abbreviations.has_ordinals()
        }
        _ => false,
    };
    // Alone it marks nothing.
    if is_marker && marker.len() < text.len() { marker.len() } else { 0 }
}

/// True for the first part of `z. B.` or `p. ex.`, and for `p.` before a number.
fn is_abbreviated(label: &str, next: &str, abbreviations: &Abbreviations) -> bool {
    let word = next.split_whitespace().next().unwrap_or_default();
    let is_first_part = word.split_once('.').is_some_and(|(second, others)| {
        let is_letter = second.chars().count() == 1 && second.contains(char::is_alphabetic);
        let ends = !others.contains(char::is_alphanumeric);
        ends && (is_letter || abbreviations.is_before_anything(&format!("{label}.{second}")))
    });
    is_first_part || next.starts_with(char::is_numeric) && abbreviations.is_before_number(label)
}

fn is_number(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}
