//! Texts, with the places in them that come from the completion.
//!
//! The invariant: marks are sorted, do not touch, are not empty, and lie within the text.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use super::super::budget::{Charge, Result};
use super::Cx;

/// A text. Cloning one copies nothing.
#[derive(Debug, Clone)]
pub(in super::super) struct Text(Rc<Body>);

#[derive(Debug)]
struct Body {
    text: String,
    /// Its characters, counted once.
    count: Cell<Option<usize>>,
    marks: Vec<Range<usize>>,
    /// Whether it is safe for HTML, as markupsafe has it.
    markup: bool,
    _charge: Charge,
}

/// Bytes that a mark takes.
const MARK_BYTES: usize = size_of::<Range<usize>>();

/// Bytes that a text takes beside its own.
const OVERHEAD: usize = 112;

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.text
    }
}

impl Text {
    pub(in super::super) fn new(cx: &Cx, text: String) -> Result<Self> {
        Self::with(cx, text, Vec::new(), false)
    }

    pub(in super::super) fn with(cx: &Cx, text: String, marks: Vec<Range<usize>>, markup: bool) -> Result<Self> {
        cx.budget.copy(text.len())?;
        cx.budget.steps(marks.len() as u64)?;
        let charge = cx.budget.hold(OVERHEAD + text.capacity() + marks.capacity() * MARK_BYTES)?;
        Ok(Self(Rc::new(Body { text, count: Cell::new(None), marks, markup, _charge: charge })))
    }

    /// A text made of this one, which is the completion's if any of this one is.
    pub(in super::super) fn derive(&self, cx: &Cx, text: String) -> Result<Self> {
        Self::whole(cx, text, self.is_marked(), self.0.markup)
    }

    pub(in super::super) fn whole(cx: &Cx, text: String, marked: bool, markup: bool) -> Result<Self> {
        let marks = (marked && !text.is_empty()).then_some(0..text.len()).into_iter().collect();
        Self::with(cx, text, marks, markup)
    }

    /// The same text, safe for HTML or not.
    pub(in super::super) fn as_markup(&self, cx: &Cx, markup: bool) -> Result<Self> {
        if self.0.markup == markup {
            return Ok(self.clone());
        }
        Self::with(cx, self.0.text.clone(), self.0.marks.clone(), markup)
    }

    pub(in super::super) fn is_markup(&self) -> bool {
        self.0.markup
    }

    pub(in super::super) fn is_marked(&self) -> bool {
        !self.0.marks.is_empty()
    }

    pub(in super::super) fn marks(&self) -> &[Range<usize>] {
        &self.0.marks
    }

    /// The marks that have something of a part, found without a look at the others: a template may make as many as characters.
    fn marks_in(&self, part: &Range<usize>) -> &[Range<usize>] {
        let marks = self.marks();
        let first = marks.partition_point(|mark| mark.end <= part.start);
        let behind = marks.partition_point(|mark| mark.start < part.end);
        &marks[first..behind.max(first)]
    }

    /// Whether the byte there is the completion's.
    pub(in super::super) fn is_marked_at(&self, byte: usize) -> bool {
        !self.marks_in(&(byte..byte + 1)).is_empty()
    }

    pub(in super::super) fn same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Its characters.
    pub(in super::super) fn count(&self) -> usize {
        self.0.count.get().unwrap_or_else(|| {
            let count = self.chars().count();
            self.0.count.set(Some(count));
            count
        })
    }

    /// The byte at which a character stands, or the text's end.
    pub(in super::super) fn byte(&self, character: usize) -> usize {
        if self.count() == self.len() {
            return character.min(self.len());
        }
        self.char_indices().nth(character).map_or(self.len(), |(at, _)| at)
    }

    /// A part of it, by bytes.
    pub(in super::super) fn part(&self, cx: &Cx, range: Range<usize>) -> Result<Self> {
        if range == (0..self.len()) {
            return Ok(self.clone());
        }
        let marks = self.marks_in(&range).iter().filter_map(|mark| cut(mark, &range, 0)).collect();
        Self::with(cx, self[range.clone()].to_owned(), marks, self.0.markup)
    }

    /// A part that lies in this text's memory, as `str` methods give it.
    pub(in super::super) fn sub(&self, cx: &Cx, part: &str) -> Result<Self> {
        let start = (part.as_ptr() as usize).wrapping_sub(self.as_ptr() as usize);
        debug_assert!(start + part.len() <= self.len());
        self.part(cx, start..start + part.len())
    }
}

/// What a range takes of a mark, moved so that the range begins at `to`.
fn cut(mark: &Range<usize>, range: &Range<usize>, to: usize) -> Option<Range<usize>> {
    let (start, end) = (mark.start.max(range.start), mark.end.min(range.end));
    (start < end).then(|| start - range.start + to..end - range.start + to)
}

/// A text that is being written. What it takes is charged as it grows.
pub(in super::super) struct Out<'a> {
    cx: &'a Cx,
    text: String,
    marks: Vec<Range<usize>>,
    charge: Charge,
    charged: usize,
}

impl<'a> Out<'a> {
    pub(in super::super) fn new(cx: &'a Cx) -> Result<Self> {
        Ok(Self { cx, text: String::new(), marks: Vec::new(), charge: cx.budget.hold(0)?, charged: 0 })
    }

    pub(in super::super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Asks for room, so that a string grows no more than it may.
    fn room(&mut self, bytes: usize) -> Result<()> {
        self.cx.budget.copy(bytes)?;
        let needed = self.text.len() + bytes;
        if needed > self.charged {
            let target = needed.max(self.charged * 2).max(64);
            let target = if self.charge.grow(target - self.charged).is_ok() {
                target
            } else {
                self.charge.grow(needed - self.charged)?;
                needed
            };
            self.charged = target;
            self.text.reserve_exact(target - self.text.len());
        }
        Ok(())
    }

    pub(in super::super) fn push(&mut self, text: &str) -> Result<()> {
        self.room(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// The same text many times.
    pub(in super::super) fn repeat(&mut self, text: &str, times: usize) -> Result<()> {
        self.room(text.len().saturating_mul(times))?;
        (0..times).for_each(|_| self.text.push_str(text));
        Ok(())
    }

    pub(in super::super) fn push_text(&mut self, text: &Text) -> Result<()> {
        self.push_part(text, 0..text.len())
    }

    /// A part of a text, by bytes.
    pub(in super::super) fn push_part(&mut self, text: &Text, range: Range<usize>) -> Result<()> {
        self.room(range.len())?;
        let to = self.text.len();
        self.text.push_str(&text[range.clone()]);
        let marks = text.marks_in(&range);
        self.cx.budget.steps(marks.len() as u64)?;
        let before = self.marks.len();
        marks.iter().filter_map(|mark| cut(mark, &range, to)).for_each(|mark| self.mark(mark));
        self.charge.grow((self.marks.len() - before) * MARK_BYTES)
    }

    /// Marks a place that is not before the last mark.
    pub(in super::super) fn mark(&mut self, range: Range<usize>) {
        match self.marks.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => self.marks.push(range),
        }
    }

    /// Marks all that was written since a place, if any of that is marked or `marked` says so.
    pub(in super::super) fn mark_since(&mut self, start: usize, marked: bool) {
        if marked || self.marks.last().is_some_and(|mark| mark.end > start) {
            while self.marks.last().is_some_and(|mark| mark.start >= start) {
                self.marks.pop();
            }
            self.mark(start..self.text.len());
        }
    }

    pub(in super::super) fn finish(self) -> Result<Text> {
        self.finish_as(false)
    }

    pub(in super::super) fn finish_as(self, markup: bool) -> Result<Text> {
        let Self { cx, mut text, marks, charge, .. } = self;
        drop(charge);
        text.shrink_to_fit();
        Text::with(cx, text, marks, markup)
    }

    /// The text and its marks.
    pub(in super::super) fn into_parts(self) -> (String, Vec<Range<usize>>) {
        (self.text, self.marks)
    }
}
