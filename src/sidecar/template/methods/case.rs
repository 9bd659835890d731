//! Methods that change letters.
//!
//! The invariant: the result of a marked text is marked as a whole.

use std::rc::Rc;

use super::super::budget::Result;
use super::super::unicode::{folded, is_lower, is_title, is_upper, push_title};
use super::super::value::{Args, Cx, Text, Value};
use super::{none, receiver};

fn changed(cx: &Rc<Cx>, value: &Value, args: Args, function: &str, change: fn(&str) -> String) -> Result<Value> {
    none(args, function)?;
    let text = receiver(cx, value)?;
    cx.budget.fits(text.len() * 3)?;
    cx.budget.copy(text.len() * 4)?;
    // Each sigma looks around itself.
    cx.budget.steps(text.matches('Σ').count() as u64 * WINDOW as u64)?;
    Ok(Value::Text(text.derive(cx, change(text))?))
}

pub(in super::super) fn uppered(cx: &Rc<Cx>, text: &Text) -> Result<Value> {
    upper(cx, Value::Text(text.clone()), Args::default())
}

pub(in super::super) fn lowered(cx: &Rc<Cx>, text: &Text) -> Result<Value> {
    lower(cx, Value::Text(text.clone()), Args::default())
}

pub(in super::super) fn capitalized(cx: &Rc<Cx>, text: &Text) -> Result<Value> {
    capitalize(cx, Value::Text(text.clone()), Args::default())
}

pub(super) fn upper(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    changed(cx, &value, args, "upper", str::to_uppercase)
}

pub(super) fn lower(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    changed(cx, &value, args, "lower", str::to_lowercase)
}

pub(super) fn casefold(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    changed(cx, &value, args, "casefold", folded)
}

/// Characters that are looked at around a sigma.
const WINDOW: usize = 32;

/// Lower-case, with the sigma of a word's end by what stands before it in the whole text.
fn push_lower(text: &str, at: usize, c: char, out: &mut String) {
    if c == 'Σ' {
        // A window: a word's end is told by the letters next to it.
        let start = text[..at].char_indices().rev().take(WINDOW).last().map_or(at, |(start, _)| start);
        let lowered = text[start..at + c.len_utf8()].to_lowercase();
        let is_last = lowered.ends_with('ς') && !ends_in_letter(&text[at + c.len_utf8()..]);
        out.push(if is_last { 'ς' } else { 'σ' });
    } else {
        out.extend(c.to_lowercase());
    }
}

/// Whether the first letter behind, past what does not count, goes on with the word.
fn ends_in_letter(behind: &str) -> bool {
    let with_sigma = format!("aΣ{}", behind.chars().take(WINDOW).collect::<String>());
    !with_sigma.to_lowercase().starts_with("aς")
}

pub(super) fn capitalize(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    changed(cx, &value, args, "capitalize", |text| {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            if at == 0 { push_title(c, &mut out) } else { push_lower(text, at, c, &mut out) }
        }
        out
    })
}

pub(super) fn title(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    changed(cx, &value, args, "title", |text| {
        let (mut out, mut in_word) = (String::with_capacity(text.len()), false);
        for (at, c) in text.char_indices() {
            if in_word {
                push_lower(text, at, c, &mut out)
            } else {
                push_title(c, &mut out)
            }
            in_word = is_lower(c) || is_upper(c) || is_title(c);
        }
        out
    })
}

pub(super) fn swapcase(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    changed(cx, &value, args, "swapcase", |text| {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            if is_upper(c) {
                push_lower(text, at, c, &mut out);
            } else if is_lower(c) {
                out.extend(c.to_uppercase());
            } else {
                out.push(c);
            }
        }
        out
    })
}
