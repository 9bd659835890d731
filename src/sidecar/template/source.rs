//! A template's text before it is read: line ends as Jinja2 makes them, the marks of `{% generation %}`, and what would be
//! another text than Python's, which is refused here.

use super::date::Date;

/// The source as minijinja is to read it.
pub(super) fn prepare(source: &str) -> String {
    // Jinja2 takes every line end of the source as `\n`; those in messages stay as they are.
    without_generation_marks(&source.replace("\r\n", "\n").replace('\r', "\n"))
}

/// `{% generation %}` marks what the assistant wrote, for training; transformers renders what is inside as it stands, in a
/// scope of its own.
pub(super) fn without_generation_marks(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%")
        && let Some((inside, after)) = tag.split_once("%}")
    {
        // The signs trim white space around the tag, and stay.
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let inside = match word {
            "generation" => inside.replace(word, "with"),
            "endgeneration" => inside.replace(word, "endwith"),
            _ => inside.to_owned(),
        };
        plain.extend([before, "{%", &inside, "%}"]);
        rest = after;
    }
    plain + rest
}

/// Refuses what would need the clock or give another text than Python's. The error names line and construct.
pub(super) fn check(source: &str, date: Option<Date>) -> Result<(), String> {
    let guarded = source.contains("strftime_now is defined") || source.contains("strftime_now is not undefined");
    for (n, line) in source.lines().enumerate() {
        if date.is_none() && !guarded && line.contains("strftime_now(") {
            return Err(format!(
                "line {}: strftime_now asks for today's date, and a reward must not depend on the day; set one with \
                 --template-date YYYY-MM-DD",
                n + 1
            ));
        }
    }
    let mut rest = source;
    while let Some((at, end)) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open).map(|at| (at, *open))).min()
    {
        let inside = &rest[at + 2..];
        let close = match end {
            "{#" => inside.find("#}").unwrap_or(inside.len()),
            _ => tag(inside).map_err(|(at, what)| {
                let line = source[..source.len() - inside.len() + at].matches('\n').count() + 1;
                format!("line {line}: {what}")
            })?,
        };
        rest = &inside[close..];
    }
    Ok(())
}

/// Looks through one tag, and says where it ends; or where something stands that is refused, and what.
fn tag(text: &str) -> Result<usize, (usize, &'static str)> {
    const CHAIN: &str = "comparisons in a chain (a < b < c) are not supported; write a < b and b < c";
    const PERCENT: &str = "formatting a text with % is not supported; write ~";
    // For each bracket that is open, whether a comparison stands at its level.
    let mut compared = vec![false];
    let (mut at, mut behind_text) = (0, false);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if compared.len() == 1 && (rest.starts_with("%}") || rest.starts_with("}}")) {
            break;
        }
        let mut length = c.len_utf8();
        let mut is_text = false;
        let compares = ["==", "!=", "<=", ">="].iter().any(|sign| rest.starts_with(sign));
        match c {
            '\'' | '"' => {
                let mut escaped = false;
                let end = rest[1..].find(|inner: char| {
                    let ends = inner == c && !escaped;
                    escaped = inner == '\\' && !escaped;
                    ends
                });
                length = end.map_or(rest.len(), |end| end + 2);
                is_text = true;
            }
            '(' | '[' | '{' => compared.push(false),
            ')' | ']' | '}' if compared.len() > 1 => _ = compared.pop(),
            '%' if behind_text => return Err((at, PERCENT)),
            _ if compares || c == '<' || c == '>' => {
                length = if compares { 2 } else { 1 };
                again(&mut compared).map_err(|()| (at, CHAIN))?;
            }
            ',' | ':' | '=' => set(&mut compared, false),
            _ if c.is_alphanumeric() || c == '_' => {
                length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                match &rest[..length] {
                    "in" => again(&mut compared).map_err(|()| (at, CHAIN))?,
                    "and" | "or" | "if" | "else" | "elif" => set(&mut compared, false),
                    _ => {}
                }
            }
            _ => is_text = behind_text && c.is_whitespace(),
        }
        behind_text = is_text;
        at += length;
    }
    Ok(at)
}

/// A comparison at this level: wrong if there is one before it.
fn again(compared: &mut [bool]) -> Result<(), ()> {
    match compared.last_mut() {
        Some(true) => Err(()),
        Some(first) => {
            *first = true;
            Ok(())
        }
        None => Ok(()),
    }
}

fn set(compared: &mut [bool], to: bool) {
    if let Some(last) = compared.last_mut() {
        *last = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_another_text_is_refused_with_its_line() {
        let line = |source: &str| check(source, None).err().map(|e| e[..7].to_owned());
        for wrong in [
            "{{ 1 < x < 3 }}",
            "{% if a == b == c %}",
            "{{ a in b in c }}",
            "{{ (x\n, 1 < 2 > 1) }}",
            "{{ '%s' % x }}",
            "{{ strftime_now('%Y') }}",
        ] {
            assert!(line(wrong).is_some_and(|l| l.starts_with("line ")), "{wrong}");
        }
        assert_eq!(line("a\n{# 1 < 2 < 3 #}\n{{ 'x < y < z' }}\n{{ 1 < 2 < 3 }}").as_deref(), Some("line 4:"));
        for right in [
            "{% for m in xs if m.a == 1 and m.b != 2 %}{{ (a < b) == (c < d) }}{% endfor %}",
            "{{ f(a == 1, b == 2)|tojson }}",
            "{{ {'a': x == 1, 'b': y == 2} }}",
            "{{ a % 2 == 0 }}",
            "{% set x = a == b %}",
            "{{ 'it\\'s' }}{{ 1 < 2 }}{{ 2 < 3 }}",
            "{{ 'a' -}}%",
            "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}",
        ] {
            assert_eq!(check(right, None), Ok(()), "{right}");
        }
    }
}
