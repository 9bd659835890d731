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
                "line {}: strftime_now asks for today's date, and a reward must not depend on the day; set a template date \
                 (YYYY-MM-DD)",
                n + 1
            ));
        }
    }
    Ok(())
}
