//! The marks of thinking that a chat template knows.
//!
//! The invariant: both marks of a pair stand for the same kind of thinking.

/// Opening and closing mark.
pub type Marks<'a> = (&'a str, &'a str);

/// Pairs of published templates; the first counts where a template has none.
const KNOWN: [Marks; 8] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|thinking_start|>", "<|thinking_end|>"),
];

/// The pair that stands in a template, by its closing mark: the opening one is often part of the prompt.
pub(super) fn of_template(source: Option<&str>) -> Marks<'static> {
    let known = source.and_then(|source| KNOWN.into_iter().find(|(_, close)| source.contains(close)));
    known.unwrap_or(KNOWN[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_templates_own_marks_count() {
        assert_eq!(of_template(None), ("<think>", "</think>"));
        assert_eq!(of_template(Some("{{ messages }}")), ("<think>", "</think>"));
        assert_eq!(of_template(Some("{{ c.split('[/THINK]')[-1] }}")), ("[THINK]", "[/THINK]"));
        assert_eq!(of_template(Some("<|START_THINKING|>x<|END_THINKING|>")).1, "<|END_THINKING|>");
    }
}
