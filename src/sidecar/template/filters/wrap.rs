//! `wordwrap`: Python's `textwrap`, paragraph by paragraph.
//!
//! The invariant: each line is a part of the paragraph as it stands, so that it keeps its marks.

use std::ops::Range;
use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::super::methods;
use super::super::unicode::{is_alphanumeric, is_decimal};
use super::super::value::{Args, Cx, Out, Value, to_text};

pub(super) fn wordwrap(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, long, between, hyphens] = args.bind("wordwrap", names, 0)?;
    let truth = |value: Option<Value>| value.map_or(Ok(true), |value| value.truth(cx));
    let between = match between {
        None | Some(Value::None) => cx.text("\n")?,
        Some(between) => between,
    };
    value.defined()?;
    let text = value.expect_text()?;
    let width = width.map_or(Ok(79), |width| width.expect_integer())?;
    let options = Options {
        width: usize::try_from(width.max(0)).unwrap_or(usize::MAX / 2),
        long: truth(long)?,
        hyphens: truth(hyphens)?,
    };
    let between = to_text(cx, &between)?;
    let mut out = Out::new(cx)?;
    for (n, line) in methods::lines(cx, text, false)?.iter().enumerate() {
        if width <= 0 && !line.is_empty() {
            return Err(Error::value_error("wordwrap: the width must be more than nothing"));
        }
        if n > 0 {
            out.push_text(&between)?;
        }
        cx.budget.copy(line.len() * 8)?;
        cx.budget.fits(line.len() * 8)?;
        let characters: Vec<(usize, char)> = line.char_indices().collect();
        let paragraph = Paragraph { characters: &characters, end: line.len() };
        for (n, range) in paragraph.lines(&options).into_iter().enumerate() {
            if n > 0 {
                out.push_text(&between)?;
            }
            let range = paragraph.byte(range.start)..paragraph.byte(range.end);
            out.push_part(line, range)?;
        }
    }
    Ok(Value::Text(out.finish()?))
}

struct Options {
    width: usize,
    long: bool,
    hyphens: bool,
}

/// A line of the text. Ranges are of characters.
struct Paragraph<'a> {
    characters: &'a [(usize, char)],
    end: usize,
}

fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

fn is_word(c: char) -> bool {
    c == '_' || is_alphanumeric(c)
}

fn is_punctuated(c: char) -> bool {
    is_word(c) || "!\"'&.,?".contains(c)
}

/// `[^\d\W]`.
fn is_letter(c: char) -> bool {
    is_word(c) && !is_decimal(c)
}

impl Paragraph<'_> {
    fn byte(&self, at: usize) -> usize {
        self.characters.get(at).map_or(self.end, |(byte, _)| *byte)
    }

    fn is(&self, at: Option<usize>, class: fn(char) -> bool) -> bool {
        at.and_then(|at| self.characters.get(at)).is_some_and(|(_, c)| class(*c))
    }

    fn hyphen(&self, at: usize) -> bool {
        self.is(Some(at), |c| c == '-')
    }

    /// The end of dashes that stand between words.
    fn dashes(&self, at: usize) -> Option<usize> {
        if !self.is(at.checked_sub(1), is_punctuated) || !self.hyphen(at) {
            return None;
        }
        let end = (at..).find(|at| !self.hyphen(*at))?;
        (end >= at + 2 && self.is(Some(end), is_word)).then_some(end)
    }

    /// The end of the word, or the part of one, that begins here.
    fn word(&self, start: usize) -> usize {
        for at in start + 1..=self.characters.len() {
            let joined = self.is(at.checked_sub(3), is_letter)
                && at.checked_sub(2).is_some_and(|at| self.hyphen(at))
                && self.is(at.checked_sub(1), is_punctuated);
            let behind = self.is(Some(at + 1), is_letter)
                && (self.is(Some(at + 2), is_letter) || self.hyphen(at + 2) && self.is(Some(at + 3), is_letter));
            if self.hyphen(at) && (self.is_pair(at) || joined) && behind {
                return at + 1;
            }
            if at == self.characters.len() || self.is(Some(at), is_blank) || self.dashes(at).is_some() {
                return at;
            }
        }
        self.characters.len()
    }

    /// Two letters stand before a hyphen.
    fn is_pair(&self, at: usize) -> bool {
        self.is(at.checked_sub(1), is_letter) && self.is(at.checked_sub(2), is_letter)
    }

    fn chunks(&self, hyphens: bool) -> Vec<Range<usize>> {
        let (mut chunks, mut at) = (Vec::new(), 0);
        while at < self.characters.len() {
            let blank = self.is(Some(at), is_blank);
            let end = if blank || !hyphens {
                (at..self.characters.len())
                    .find(|at| self.is(Some(*at), is_blank) != blank)
                    .unwrap_or(self.characters.len())
            } else {
                self.dashes(at).unwrap_or_else(|| self.word(at))
            };
            chunks.push(at..end);
            at = end;
        }
        chunks
    }

    /// Whether a chunk is white space, of which lines are freed at both ends.
    fn empty(&self, range: &Range<usize>) -> bool {
        self.characters[range.clone()].iter().all(|(_, c)| super::super::unicode::is_space(*c))
    }

    fn lines(&self, options: &Options) -> Vec<Range<usize>> {
        let mut chunks = self.chunks(options.hyphens);
        chunks.reverse();
        let mut lines: Vec<Range<usize>> = Vec::new();
        while let Some(next) = chunks.last() {
            if !lines.is_empty() && self.empty(next) {
                chunks.pop();
            }
            let mut line: Vec<Range<usize>> = Vec::new();
            let mut length = 0;
            while let Some(next) = chunks.last().filter(|next| length + next.len() <= options.width).cloned() {
                length += next.len();
                line.push(next);
                chunks.pop();
            }
            if let Some(next) = chunks.last_mut().filter(|next| next.len() > options.width) {
                let left = options.width - length;
                if options.long {
                    let end = next.start + self.break_at(next, left, options.hyphens);
                    line.push(next.start..end);
                    next.start = end;
                } else if line.is_empty() {
                    line.extend(chunks.pop());
                }
            }
            if line.last().is_some_and(|last| self.empty(last)) {
                line.pop();
            }
            if let (Some(first), Some(last)) = (line.first(), line.last()) {
                lines.push(first.start..last.end);
            }
        }
        lines
    }

    /// How much of a long word stays on a line: up to a hyphen, if there is one in what is left.
    fn break_at(&self, word: &Range<usize>, left: usize, hyphens: bool) -> usize {
        let hyphen = (0..left).rev().find(|at| self.hyphen(word.start + at)).filter(|at| *at > 0 && hyphens);
        match hyphen {
            Some(at) if (0..at).any(|before| !self.hyphen(word.start + before)) => at + 1,
            _ => left,
        }
    }
}
