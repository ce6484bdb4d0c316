//! The source of a template, written so that `minijinja` reads it as Jinja would.
//!
//! - Every line ends with a line feed.
//! - `{% generation %}` marks what a model is trained on; here it is a block that is always rendered.
//! - `a % b` may format a string, and `minijinja` has that operator for numbers only: it becomes a call.
//! - A macro that speaks of `varargs` or `kwargs` takes any arguments.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use minijinja::{
    machinery::{Span, Token, tokenize},
    syntax::SyntaxConfig,
};

/// Stands for the operator `%`; see [`super::operators`].
pub const REMAINDER: &str = "python_remainder";
/// Makes a macro take any arguments; see [`super::operators`].
pub const VARIADIC: &str = "python_variadic";
/// What a macro has of the arguments that have no name in it.
pub const REST: [&str; 2] = ["varargs", "kwargs"];

type Tokens<'a> = [(Token<'a>, Span)];

/// `source` as `minijinja` takes it. No line is added or taken away. What it cannot read stays, for the compiler to
/// say so.
pub fn prepared(source: &str, syntax: SyntaxConfig) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let Ok(tokens) = tokenize(&source, false, syntax).collect::<Result<Vec<_>, _>>() else { return source };
    let mut edits = Vec::new();
    let mut macros: Vec<Macro> = Vec::new();
    for Tag { is_block, inside, end } in tags(&tokens) {
        remainders(inside, is_block, &mut edits);
        if let (true, [(Token::Ident(keyword), span), ..]) = (is_block, inside) {
            match *keyword {
                "generation" if inside.len() == 1 => edits.push((range(span), "if true".to_owned())),
                "endgeneration" if inside.len() == 1 => edits.push((range(span), "endif".to_owned())),
                "macro" => macros.extend(Macro::of(inside)),
                "endmacro" => {
                    if let Some(ended) = macros.pop() {
                        ended.made_variadic(range(end).start, &mut edits);
                    }
                    continue;
                }
                _ => {}
            }
        }
        if let Some(innermost) = macros.last_mut() {
            innermost.look(inside);
        }
    }
    applied(&source, edits)
}

/// Variables that `source` reads before it sets them, if it ever does. The analysis of `minijinja` counts
/// `{% set x = x | default(1) %}` as a variable of the template's own.
pub fn read_first(source: &str, syntax: SyntaxConfig) -> HashSet<String> {
    let tokens: Vec<_> = tokenize(source, false, syntax).map_while(Result::ok).collect();
    // True for those that are read first.
    let mut seen: HashMap<&str, bool> = HashMap::new();
    for Tag { is_block, inside, .. } in tags(&tokens) {
        let mut uses: Vec<(Use, &str)> = Vec::new();
        for (index, (token, _)) in inside.iter().enumerate() {
            if let Token::Ident(name) = token {
                uses.extend(use_at(inside, index, is_block).map(|of| (of, *name)));
            }
        }
        uses.sort_by_key(|(of, _)| *of);
        for (of, name) in uses {
            seen.entry(name).or_insert(of != Use::Set);
        }
    }
    seen.into_iter().filter(|(_, reads)| *reads).map(|(name, _)| name.to_owned()).collect()
}

/// What stands in `{{ … }}` or `{% … %}`.
struct Tag<'t> {
    is_block: bool,
    inside: &'t Tokens<'t>,
    end: &'t Span,
}

/// The tags that have an end.
fn tags<'t>(tokens: &'t Tokens<'t>) -> impl Iterator<Item = Tag<'t>> {
    let begins = |token: &Token<'_>| matches!(token, Token::VariableStart | Token::BlockStart);
    let ends = |token: &Token<'_>| matches!(token, Token::VariableEnd | Token::BlockEnd);
    tokens.chunk_by(move |_, (next, _)| !begins(next)).filter_map(move |tag| {
        let end = tag.iter().position(|(token, _)| ends(token))?;
        let is_block = matches!(tag, [(Token::BlockStart, _), ..]);
        Some(Tag { is_block, inside: tag.get(1..end)?, end: &tag[end].1 })
    })
}

/// What a statement does with a variable, in the order in which it does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Read,
    Set,
    /// In the condition of a loop.
    ReadAfterSet,
}

/// Names that the language itself gives.
const RESERVED: [&str; 10] =
    ["true", "True", "false", "False", "none", "None", "loop", "self", "caller", "is"];

/// What is done with the name at `index`, if it is a variable's.
fn use_at(inside: &Tokens<'_>, index: usize, is_block: bool) -> Option<Use> {
    let sets = is_block && is_target(inside, index);
    let before = |back: usize| index.checked_sub(back).map(|before| &inside[before].0);
    let is_test = matches!(before(1), Some(Token::Ident("is")))
        || matches!((before(2), before(1)), (Some(Token::Ident("is")), Some(Token::Ident("not"))));
    let is_part = matches!(before(1), Some(Token::Dot | Token::Pipe));
    let is_argument = !sets && matches!(inside.get(index + 1), Some((Token::Assign, _)));
    let is_filter = is_block && index == 1 && keyword(inside) == Some("filter");
    let is_reserved = matches!(inside[index].0, Token::Ident(name) if RESERVED.contains(&name));
    if is_test || is_part || is_argument || is_filter || is_reserved || is_keyword(inside, index, is_block) {
        return None;
    }
    let is_condition = || {
        let condition = inside.iter().position(|(token, _)| matches!(token, Token::Ident("if")));
        condition.is_some_and(|at| at < index && depth(&inside[..at]) == 0)
    };
    Some(match keyword(inside) {
        _ if sets => Use::Set,
        Some("for") if is_block && is_condition() => Use::ReadAfterSet,
        _ => Use::Read,
    })
}

fn keyword<'t>(inside: &Tokens<'t>) -> Option<&'t str> {
    match inside.first() {
        Some((Token::Ident(keyword), _)) => Some(keyword),
        _ => None,
    }
}

/// True for a name that a statement sets.
fn is_target(inside: &Tokens<'_>, index: usize) -> bool {
    let goes_before =
        |end: fn(&Token<'_>) -> bool| index > 0 && !inside[..index].iter().any(|(token, _)| end(token));
    match keyword(inside) {
        Some("set") => goes_before(|token| matches!(token, Token::Assign)),
        Some("for") => goes_before(|token| matches!(token, Token::Ident("in"))),
        Some("macro") => index == 1 || is_parameter(inside, 2, index),
        Some("call") => is_parameter(inside, 1, index),
        Some("with") => {
            index > 0
                && depth(&inside[..index]) == 0
                && matches!(inside.get(index + 1), Some((Token::Assign, _)))
        }
        _ => false,
    }
}

/// True for a name in the list of parameters that begins at `open`.
fn is_parameter(inside: &Tokens<'_>, open: usize, index: usize) -> bool {
    let Some(list) = inside.get(open..index) else { return false };
    let is_closed = (1..list.len()).any(|end| depth(&list[..end]) == 0);
    !is_closed && depth(list) == 1 && matches!(list.last(), Some((Token::ParenOpen | Token::Comma, _)))
}

/// Brackets that are open behind these tokens.
fn depth(tokens: &Tokens<'_>) -> usize {
    let count = |is: fn(&Token<'_>) -> bool| tokens.iter().filter(|(token, _)| is(token)).count();
    count(is_opening).saturating_sub(count(is_closing))
}

fn range(span: &Span) -> Range<usize> {
    span.start_offset as usize..span.end_offset as usize
}

type Edit = (Range<usize>, String);

fn applied(source: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|(range, _)| range.start);
    let mut edited = String::with_capacity(source.len());
    let mut done = 0;
    for (range, replacement) in edits {
        edited.push_str(source.get(done..range.start).unwrap_or_default());
        edited.push_str(&replacement);
        done = range.end;
    }
    edited.push_str(source.get(done..).unwrap_or_default());
    edited
}

/// Writes each `a % b` as a call. Operators of the same strength go from left to right, so that the left operand
/// reaches back to a weaker one and the right operand ends before the next.
fn remainders(inside: &Tokens<'_>, is_block: bool, edits: &mut Vec<Edit>) {
    for (at, (token, span)) in inside.iter().enumerate() {
        if !matches!(token, Token::Mod) {
            continue;
        }
        let ends = |index: usize| is_weaker(inside, index, is_block);
        let first = at - extent((0..at).rev(), inside, is_opening, is_closing, ends);
        let last = at
            + extent(at + 1..inside.len(), inside, is_closing, is_opening, |index| {
                ends(index) || is_as_strong(&inside[index].0)
            });
        if first == at || last == at {
            continue;
        }
        let (begin, end) = (range(&inside[first].1).start, range(&inside[last].1).end);
        edits.push((begin..begin, format!("{REMAINDER}(")));
        edits.push((range(span), ",".to_owned()));
        edits.push((end..end, ")".to_owned()));
    }
}

/// How many tokens of `indices` belong to an operand: up to one that ends it, or the bracket around it.
fn extent(
    indices: impl Iterator<Item = usize>,
    inside: &Tokens<'_>,
    is_outer: fn(&Token<'_>) -> bool,
    is_inner: fn(&Token<'_>) -> bool,
    ends: impl Fn(usize) -> bool,
) -> usize {
    let mut depth = 0;
    indices
        .take_while(|&index| {
            let token = &inside[index].0;
            if is_inner(token) {
                depth += 1;
            } else if is_outer(token) {
                if depth == 0 {
                    return false;
                }
                depth -= 1;
            } else if depth == 0 {
                return !ends(index);
            }
            true
        })
        .count()
}

fn is_opening(token: &Token<'_>) -> bool {
    matches!(token, Token::ParenOpen | Token::BracketOpen | Token::BraceOpen)
}

fn is_closing(token: &Token<'_>) -> bool {
    matches!(token, Token::ParenClose | Token::BracketClose | Token::BraceClose)
}

fn is_as_strong(token: &Token<'_>) -> bool {
    matches!(token, Token::Mul | Token::Div | Token::FloorDiv | Token::Mod)
}

/// True for what binds less than `%` does.
fn is_weaker(inside: &Tokens<'_>, index: usize, is_block: bool) -> bool {
    match inside[index].0 {
        Token::Minus => index > 0 && ends_operand(inside, index - 1, is_block),
        Token::Comma
        | Token::Colon
        | Token::Assign
        | Token::Tilde
        | Token::Plus
        | Token::Eq
        | Token::Ne
        | Token::Lt
        | Token::Lte
        | Token::Gt
        | Token::Gte => true,
        _ => is_keyword(inside, index, is_block),
    }
}

fn ends_operand(inside: &Tokens<'_>, index: usize, is_block: bool) -> bool {
    match inside[index].0 {
        Token::Ident(_) => !is_keyword(inside, index, is_block),
        Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) | Token::Float(_) => true,
        ref other => is_closing(other),
    }
}

/// True for a word of the language, rather than the name of a variable, an attribute, a filter or a test.
fn is_keyword(inside: &Tokens<'_>, index: usize, is_block: bool) -> bool {
    let Token::Ident(name) = inside[index].0 else { return false };
    let before = index.checked_sub(1).map(|before| &inside[before].0);
    match before {
        None if is_block => true,
        Some(Token::Dot | Token::Pipe | Token::Ident("is")) => false,
        _ => ["and", "or", "not", "in", "if", "else", "recursive"].contains(&name),
    }
}

/// A macro whose end has not been seen yet.
struct Macro {
    name: String,
    parameters: Vec<String>,
    /// Where the list of its parameters ends.
    close: usize,
    /// It speaks of arguments that have no name in it.
    uses_rest: bool,
}

impl Macro {
    /// From `macro name(…)`.
    fn of(inside: &Tokens<'_>) -> Option<Self> {
        let [(Token::Ident(_), _), (Token::Ident(name), _), (Token::ParenOpen, _), rest @ ..] = inside else {
            return None;
        };
        let ((Token::ParenClose, close), rest) = rest.split_last()? else { return None };
        let mut depth = 0;
        let mut parameters = Vec::new();
        let mut begins = true;
        for (token, _) in rest {
            match token {
                Token::Ident(name) if depth == 0 && begins => parameters.push((*name).to_owned()),
                _ if is_opening(token) => depth += 1,
                _ if is_closing(token) => depth -= 1,
                _ => {}
            }
            begins = depth == 0 && matches!(token, Token::Comma);
        }
        Some(Self { name: (*name).to_owned(), parameters, close: range(close).start, uses_rest: false })
    }

    fn look(&mut self, inside: &Tokens<'_>) {
        self.uses_rest |= inside.iter().enumerate().any(|(index, (token, _))| {
            let before = index.checked_sub(1).map(|before| &inside[before].0);
            let after = inside.get(index + 1).map(|(token, _)| token);
            matches!(token, Token::Ident(name) if REST.contains(name))
                && !matches!(before, Some(Token::Dot | Token::Pipe))
                && !matches!(after, Some(Token::Assign))
        });
    }

    /// Gives it parameters for the rest, which are filled by what takes its name; `end` is where its last tag ends.
    fn made_variadic(self, end: usize, edits: &mut Vec<Edit>) {
        if !self.uses_rest || REST.iter().any(|name| self.parameters.iter().any(|known| known == name)) {
            return;
        }
        let comma = if self.parameters.is_empty() { "" } else { ", " };
        edits.push((self.close..self.close, format!("{comma}{}=(), {}={{}}", REST[0], REST[1])));
        let name = self.name;
        edits.push((end..end, format!("%}}{{% set {name} = {VARIADIC}({name}) ")));
    }
}
