//! Where a completion stands in what a template has written, by the marks that the template has left on it.
//!
//! The invariant: pieces that are given are of the completion, in its order; where the marks do not tell, nothing is given.

use std::ops::Range;

/// Where a completion's text stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Bytes of the written text, from the first to the last that is the completion's.
    pub bytes: Range<usize>,
    /// What of it is the completion's as it was sent, and at which of its bytes each piece begins.
    pub pieces: Vec<(Range<usize>, usize)>,
}

/// The place of a completion of which the template has written `marked`. What stands between two pieces counts as the
/// completion's. So does what it had at either end, if the template has taken that out and written the same there, as many do
/// with the marks of thinking. `None`: there is no mark, or the pieces are not in the completion's order, so that some may stand
/// there twice.
pub(super) fn place(written: &str, marked: &[Range<usize>], completion: &str) -> Option<Place> {
    let (first, last) = (marked.first()?, marked.last()?);
    let Some(pieces) = pieces(written, marked, completion) else {
        return (marked.len() == 1).then(|| made_of(written, first.clone(), completion));
    };
    let (mut start, mut end) = (first.start, last.end);
    let (first_piece, last_piece) = (pieces.first()?, pieces.last()?);
    let head = completion[..first_piece.1].trim();
    let before = written[..start].trim_end();
    if !head.is_empty() && before.ends_with(head) {
        start = before.len() - head.len();
    }
    let tail = completion[last_piece.1 + last_piece.0.len()..].trim();
    let behind = written[end..].trim_start();
    if !tail.is_empty() && behind.starts_with(tail) {
        end = written.len() - behind.len() + tail.len();
    }
    Some(Place { bytes: start..end, pieces })
}

/// The place of a completion of which something else was made: within it, as in JSON, if it stands there as it is and once; else
/// all of it, as in upper case.
fn made_of(written: &str, marked: Range<usize>, completion: &str) -> Place {
    let core = completion.trim();
    let mut found = written[marked.clone()].match_indices(core);
    match (found.next(), found.next()) {
        (Some((at, _)), None) if !core.is_empty() => {
            let start = marked.start + at;
            let bytes = start..start + core.len();
            let begins = completion.len() - completion.trim_start().len();
            Place { pieces: vec![(bytes.clone(), begins)], bytes }
        }
        _ => Place { bytes: marked, pieces: Vec::new() },
    }
}

fn pieces(written: &str, marked: &[Range<usize>], completion: &str) -> Option<Vec<(Range<usize>, usize)>> {
    let mut at = 0;
    let piece = |range: &Range<usize>| {
        let begins = at + completion[at..].find(&written[range.clone()])?;
        at = begins + range.len();
        Some((range.clone(), begins))
    };
    marked.iter().map(piece).collect()
}

impl Place {
    /// The byte of the completion at which a token ends that stands at these bytes of the written text; `None` for one that is
    /// not the completion's.
    pub(in crate::sidecar) fn end_in_completion(&self, token: Range<usize>) -> Option<usize> {
        let piece = self.pieces.iter().rfind(|(range, _)| range.start < token.end && token.start < range.end)?;
        let (range, begins) = piece;
        Some(begins + token.end.min(range.end) - range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place in a text whose marked parts stand in brackets.
    fn found(text: &str, completion: &str) -> Option<String> {
        let (mut written, mut marked, mut opened) = (String::new(), Vec::new(), 0);
        for c in text.chars() {
            match c {
                '[' => opened = written.len(),
                ']' => marked.push(opened..written.len()),
                _ => written.push(c),
            }
        }
        place(&written, &marked, completion).map(|place| written[place.bytes].to_owned())
    }

    #[test]
    fn what_is_marked_is_the_completion() {
        assert_eq!(found("user: hi bot: [hi]</s>", "hi").as_deref(), Some("hi"));
        assert_eq!(found("bot: [ok]</s>", "  ok\n").as_deref(), Some("ok"));
        assert_eq!(found("bot: <think>\n\n</think>\n\n[ok]</s>", "ok").as_deref(), Some("ok"));
        assert_eq!(found("bot: [ok]</s>", "<think>long</think>ok").as_deref(), Some("ok"));
        assert_eq!(found("bot: [OK]</s>", "ok").as_deref(), Some("OK"));
        assert_eq!(found(r#"bot: [{"content": "ok"}]"#, "ok ").as_deref(), Some("ok"));
        assert_eq!(found(r#"bot: [{"ok": "ok"}]"#, "ok").as_deref(), Some(r#"{"ok": "ok"}"#));
    }

    #[test]
    fn marks_of_thinking_that_are_written_anew_count() {
        let thought = "<think>\nlong\n</think>\n\nok";
        assert_eq!(
            found("bot: <think>\n[long]\n</think>\n\n[ok]</s>", thought).as_deref(),
            Some("<think>\nlong\n</think>\n\nok")
        );
        assert_eq!(found("bot: [ok] END\n</s>", "ok END").as_deref(), Some("ok END"));
    }

    #[test]
    fn what_stands_twice_or_nowhere_has_no_place() {
        assert_eq!(found("bot: </s>", "ok"), None);
        assert_eq!(found("[ok] bot: [ok]</s>", "ok"), None);
        assert_eq!(found("[b] bot: [a]</s>", "ab"), None);
    }

    #[test]
    fn a_token_ends_where_its_last_byte_of_the_completion_does() {
        let place = place("x: ab\n-- cd</s>", &[3..5, 9..11], "ab and cd").unwrap();
        for (token, end) in
            [(3..4, Some(1)), (2..5, Some(2)), (4..7, Some(2)), (5..8, None), (10..11, Some(9)), (10..15, Some(9))]
        {
            assert_eq!(place.end_in_completion(token.clone()), end, "{token:?}");
        }
    }
}
