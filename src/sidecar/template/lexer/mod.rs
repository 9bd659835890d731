//! A template's source into tokens, as Jinja2's lexer does with trimmed blocks.
//!
//! The invariant: white space around tags is taken or left here, and nowhere later.

mod literals;

use self::literals::{number, string, unescaped};
use super::unicode::{is_identifier, is_space};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

impl Token {
    /// As messages name it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Data(_) => "template data".into(),
            Self::VariableBegin => "begin of print statement".into(),
            Self::VariableEnd => "end of print statement".into(),
            Self::BlockBegin => "begin of statement block".into(),
            Self::BlockEnd => "end of statement block".into(),
            Self::Name(name) => format!("'{name}'"),
            Self::Text(_) => "a string".into(),
            Self::Int(_) | Self::Float(_) => "a number".into(),
            Self::Operator(sign) => format!("'{sign}'"),
            Self::End => "end of template".into(),
        }
    }
}

/// Longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// The tokens with their lines. The error names the line.
pub(super) fn tokens(source: &str) -> Result<Vec<(u32, Token)>, String> {
    // Jinja2 takes every line end of the source as `\n` (those in messages stay as they are), and leaves the last one out.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, line_starts: true, tokens: Vec::new() };
    lexer.root().map_err(|what| format!("line {}: {what}", lexer.line))?;
    let line = lexer.line;
    lexer.tokens.push((line, Token::End));
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    /// Whether what was read last ended a line.
    line_starts: bool,
    tokens: Vec<(u32, Token)>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// Goes on by so many bytes, and counts lines.
    fn skip(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count() as u32;
        self.line_starts = passed.ends_with('\n');
        self.at += bytes;
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((self.line, token));
    }

    fn root(&mut self) -> Result<(), String> {
        while !self.rest().is_empty() {
            let rest = self.rest();
            let Some(open) =
                rest.match_indices('{').map(|(at, _)| at).find(|&at| rest[at + 1..].starts_with(['{', '%', '#']))
            else {
                self.push(Token::Data(rest.into()));
                self.skip(rest.len());
                return Ok(());
            };
            let kind = rest.as_bytes()[open + 1];
            let sign = sign(&rest[open + 2..]);
            self.data(&rest[..open], sign, kind != b'{');
            self.skip(open);
            match kind {
                b'{' => {
                    self.push(Token::VariableBegin);
                    self.skip(2 + sign.len());
                    self.tag(true)?;
                }
                b'#' => {
                    self.skip(2 + sign.len());
                    self.comment()?;
                }
                _ => match raw_begin(self.rest()) {
                    Some(length) => {
                        self.skip(length);
                        self.raw()?;
                    }
                    None => {
                        self.push(Token::BlockBegin);
                        self.skip(2 + sign.len());
                        self.tag(false)?;
                    }
                },
            }
        }
        Ok(())
    }

    /// The text before a tag, without what the tag's sign or the rule of trimmed blocks takes away.
    fn data(&mut self, text: &str, sign: &str, is_block: bool) {
        let text = if sign == "-" {
            text.trim_end_matches(is_space)
        } else if sign != "+" && is_block {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            let blank = line < text.len() && text[line..].chars().all(is_space);
            if blank && (line > 0 || self.line_starts) { &text[..line] } else { text }
        } else {
            text
        };
        if !text.is_empty() {
            self.push(Token::Data(text.into()));
        }
    }

    fn comment(&mut self) -> Result<(), String> {
        let end = self.rest().find("#}").ok_or("the comment does not end")?;
        let sign = &self.rest()[..end];
        let trim = if sign.ends_with('-') {
            '-'
        } else if sign.ends_with('+') {
            '+'
        } else {
            ' '
        };
        self.skip(end);
        self.close(2, trim);
        Ok(())
    }

    fn raw(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let found = rest.match_indices("{%").find_map(|(at, _)| raw_end(&rest[at..]).map(|found| (at, found)));
        let (at, (length, trim)) = found.ok_or("the raw block does not end")?;
        self.data(&rest[..at], sign(&rest[at + 2..]), true);
        self.skip(at);
        self.close(length, trim);
        Ok(())
    }

    /// Passes the end of a tag, and the white space behind it that goes with it.
    fn close(&mut self, length: usize, trim: char) {
        let behind = &self.rest()[length..];
        let more = match trim {
            '-' => behind.len() - behind.trim_start_matches(is_space).len(),
            '+' => 0,
            _ => usize::from(behind.starts_with('\n')),
        };
        self.skip(length + more);
    }

    /// What stands in `{{ }}` or `{% %}`.
    fn tag(&mut self, variable: bool) -> Result<(), String> {
        let mut open = Vec::new();
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else { return Ok(()) };
            if open.is_empty() && self.tag_end(variable) {
                return Ok(());
            }
            let space = rest.len() - rest.trim_start_matches(is_space).len();
            if space > 0 {
                self.skip(space);
            } else if let Some((length, token)) = number(rest, self.source[..self.at].ends_with('.'))? {
                self.push(token);
                self.skip(length);
            } else if first == '_' || first.is_alphanumeric() {
                let length =
                    rest.find(|c: char| c != '_' && !c.is_alphanumeric() && !is_identifier(c)).unwrap_or(rest.len());
                let name = &rest[..length];
                if name.starts_with(|c: char| c != '_' && !c.is_alphabetic())
                    || !name.chars().all(|c| c == '_' || is_identifier(c))
                {
                    return Err(format!("{name:?} is no name"));
                }
                self.push(Token::Name(name.into()));
                self.skip(length);
            } else if let Some(length) = string(rest) {
                let text = unescaped(&rest[1..length - 1])?;
                self.push(Token::Text(text));
                self.skip(length);
            } else {
                let sign = OPERATORS
                    .iter()
                    .find(|sign| rest.starts_with(**sign))
                    .ok_or(format!("unexpected character {first:?}"))?;
                balance(&mut open, sign)?;
                self.push(Token::Operator(sign));
                self.skip(sign.len());
            }
        }
    }

    /// Passes the end of the tag if it stands here.
    fn tag_end(&mut self, variable: bool) -> bool {
        let (end, token) = if variable { ("}}", Token::VariableEnd) } else { ("%}", Token::BlockEnd) };
        let rest = self.rest();
        let (length, trim) = if rest.starts_with(end) {
            (2, if variable { '+' } else { ' ' })
        } else if rest.starts_with('-') && rest[1..].starts_with(end) {
            (3, '-')
        } else if rest.starts_with('+') && rest[1..].starts_with(end) && !variable {
            (3, '+')
        } else {
            return false;
        };
        self.push(token);
        self.close(length, trim);
        true
    }
}

fn sign(text: &str) -> &str {
    if text.starts_with(['-', '+']) { &text[..1] } else { "" }
}

fn balance(open: &mut Vec<&'static str>, sign: &'static str) -> Result<(), String> {
    match sign {
        "{" => open.push("}"),
        "(" => open.push(")"),
        "[" => open.push("]"),
        "}" | ")" | "]" => match open.pop() {
            Some(expected) if expected == sign => {}
            Some(expected) => return Err(format!("unexpected '{sign}', expected '{expected}'")),
            None => return Err(format!("unexpected '{sign}'")),
        },
        _ => {}
    }
    Ok(())
}

/// The length of `{% raw %}`, if it stands here.
fn raw_begin(text: &str) -> Option<usize> {
    let inside = text.strip_prefix("{%")?;
    let inside =
        inside[sign(inside).len()..].trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    let behind = match inside.strip_prefix("-%}") {
        Some(behind) => behind.trim_start_matches(is_space),
        None => inside.strip_prefix("%}")?,
    };
    Some(text.len() - behind.len())
}

/// The length of `{% endraw %}` and the sign at its end, if it stands here.
fn raw_end(text: &str) -> Option<(usize, char)> {
    let inside = text.strip_prefix("{%")?;
    let inside =
        inside[sign(inside).len()..].trim_start_matches(is_space).strip_prefix("endraw")?.trim_start_matches(is_space);
    let (behind, trim) = [("-%}", '-'), ("+%}", '+'), ("%}", ' ')]
        .into_iter()
        .find_map(|(end, trim)| inside.strip_prefix(end).map(|behind| (behind, trim)))?;
    Some((text.len() - behind.len(), trim))
}
