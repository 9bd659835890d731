//! Methods that say what a text is made of.
//!
//! The invariant: an empty text is nothing but ASCII and printable.

use std::rc::Rc;

use super::super::budget::Result;
use super::super::unicode::{
    is_alpha, is_alphanumeric, is_decimal, is_digit, is_identifier, is_lower, is_numeric, is_printable, is_space,
    is_title, is_upper, starts_identifier,
};
use super::super::value::{Args, Cx, Value};
use super::{none, receiver};

fn answer(cx: &Rc<Cx>, value: &Value, args: Args, function: &str, is: fn(&str) -> bool) -> Result<Value> {
    none(args, function)?;
    let text = receiver(cx, value)?;
    cx.budget.copy(text.len() * 2)?;
    Ok(Value::Bool(is(text)))
}

macro_rules! classes {
    ($($name:ident: $is:expr,)*) => {
        $(pub(super) fn $name(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
            answer(cx, &value, args, stringify!($name), $is)
        })*
    };
}

fn all(text: &str, is: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(is)
}

classes! {
    isalpha: |text| all(text, is_alpha),
    isdigit: |text| all(text, is_digit),
    isdecimal: |text| all(text, is_decimal),
    isnumeric: |text| all(text, is_numeric),
    isalnum: |text| all(text, is_alphanumeric),
    isspace: |text| all(text, is_space),
    isascii: str::is_ascii,
    isprintable: |text| text.chars().all(is_printable),
    isidentifier: |text| text.starts_with(starts_identifier) && text.chars().all(is_identifier),
    isupper: |text| text.chars().any(is_upper) && !text.chars().any(|c| is_lower(c) || is_title(c)),
    islower: |text| text.chars().any(is_lower) && !text.chars().any(|c| is_upper(c) || is_title(c)),
    istitle: istitle_text,
}

fn istitle_text(text: &str) -> bool {
    let (mut cased, mut in_word) = (false, false);
    for c in text.chars() {
        if is_upper(c) || is_title(c) {
            if in_word {
                return false;
            }
            (cased, in_word) = (true, true);
        } else if is_lower(c) {
            if !in_word {
                return false;
            }
            cased = true;
        } else {
            in_word = false;
        }
    }
    cased
}
