//! Numbers and strings as a template writes them.
//!
//! The invariant: a number is exact or refused; a string's escapes are those of Python's `unicode-escape`.

use super::{Token, sign};

/// The number that stands here. Behind a point there is no fraction: `a.1.2` takes items.
pub(super) fn number(text: &str, behind_point: bool) -> Result<Option<(usize, Token)>, String> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(None);
    }
    let whole = digits(text, 10);
    if !behind_point {
        let fraction = match text[whole..].strip_prefix('.') {
            Some(behind) if digits(behind, 10) > 0 => 1 + digits(behind, 10),
            _ => 0,
        };
        let exponent = match text[whole + fraction..].strip_prefix(['e', 'E']) {
            Some(behind) => {
                let sign = sign(behind).len();
                let count = digits(&behind[sign..], 10);
                if count > 0 { 1 + sign + count } else { 0 }
            }
            None => 0,
        };
        let length = whole + fraction + exponent;
        if length > whole {
            let number = text[..length].replace('_', "");
            return Ok(Some((length, Token::Float(number.parse().map_err(|_| format!("{number} is no number"))?))));
        }
    }
    for (prefix, radix) in [("0b", 2), ("0o", 8), ("0x", 16)] {
        if text.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) {
            let behind = &text[2..];
            let lead = usize::from(behind.starts_with('_'));
            let count = digits(&behind[lead..], radix);
            if count > 0 {
                return Ok(Some((2 + lead + count, integer(&behind[lead..lead + count], radix)?)));
            }
        }
    }
    // A zero in front stands alone, or with other zeros.
    let length = if text.starts_with('0') { digits_of(text, |c| c == '0') } else { whole };
    Ok(Some((length, integer(&text[..length], 10)?)))
}

fn integer(digits: &str, radix: u32) -> Result<Token, String> {
    let number = i128::from_str_radix(&digits.replace('_', ""), radix);
    number.map(Token::Int).map_err(|_| "an integer beyond 127 bits is not supported".into())
}

fn digits(text: &str, radix: u32) -> usize {
    digits_of(text, |c| c.is_digit(radix))
}

/// The length of digits, among which single underscores may stand.
fn digits_of(text: &str, is_digit: impl Fn(char) -> bool) -> usize {
    let mut length = 0;
    while let Some(c) = text[length..].chars().next() {
        let lead = usize::from(c == '_' && length > 0);
        if !text[length + lead..].starts_with(&is_digit) {
            break;
        }
        length += lead + 1;
    }
    length
}

/// The length of the string that stands here, quotes included.
pub(super) fn string(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let mut escaped = false;
    let end = text[1..].find(|c: char| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some(end + 2)
}

/// A string's text as Python's `unicode-escape` reads it.
pub(super) fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        let c = behind.chars().next().ok_or("a string ends with a backslash")?;
        rest = &behind[c.len_utf8()..];
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            '0'..='7' => {
                let count = behind.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
                out.push(code_point(&behind[..count], 8)?);
                rest = &behind[count..];
            }
            'x' | 'u' | 'U' => {
                let count = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let digits = rest.get(..count).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                out.push(code_point(digits.ok_or(format!("truncated \\{c} in a string"))?, 16)?);
                rest = &rest[count..];
            }
            'N' => return Err("\\N{...} in a string is not supported; write the character itself".into()),
            // Python turns the character into an escape first, and that loses its backslash to this one.
            c if !c.is_ascii() => {
                out.push('\\');
                out.push_str(&match u32::from(c) {
                    code @ ..=0xff => format!("x{code:02x}"),
                    code @ ..=0xffff => format!("u{code:04x}"),
                    code => format!("U{code:08x}"),
                });
            }
            c => out.extend(['\\', c]),
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn code_point(digits: &str, radix: u32) -> Result<char, String> {
    let code = u32::from_str_radix(digits, radix).ok();
    code.and_then(char::from_u32).ok_or_else(|| "a string holds half of a surrogate pair, or no code point".into())
}
