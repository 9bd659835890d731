//! A completion's answer: what is left once its thinking is taken out. A function of the completion and the two marks alone, the
//! same for text (bytes) and for token ids.
//!
//! Invariant: what is taken is in order, without overlap, and with what is kept it is the whole completion.

use std::ops::Range;

/// The parts of a completion that are thinking.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// In units of the completion; neighbours are one part.
    pub taken: Vec<Range<usize>>,
    /// Whether the last part was never closed.
    pub unclosed: bool,
}

impl Parts {
    /// What is left of a text that they were found in, by its bytes and those of marks that are texts.
    pub(super) fn answer_of(&self, completion: &str) -> String {
        let starts = std::iter::once(0).chain(self.taken.iter().map(|part| part.end));
        let ends = self.taken.iter().map(|part| part.start).chain([completion.len()]);
        starts.zip(ends).map(|(start, end)| &completion[start..end]).collect()
    }

    fn takes_all_before(&mut self, end: usize) {
        self.taken.clear();
        self.taken.push(0..end);
    }

    /// What is left of ids that they were found in.
    pub(super) fn answer<T: Clone>(&self, completion: &[T]) -> Vec<T> {
        let starts = std::iter::once(0).chain(self.taken.iter().map(|part| part.end));
        let ends = self.taken.iter().map(|part| part.start).chain([completion.len()]);
        starts.zip(ends).flat_map(|(start, end)| completion[start..end].iter().cloned()).collect()
    }
}

/// Finds the thinking of a completion: each part from `open` to the `close` behind it. A `close` that nothing has opened closes
/// what stands before it, since many chat templates write the opening mark into the prompt; an `open` that is never closed takes
/// all that follows. Line ends between a thinking and the answer's beginning go with it, as the published templates have it.
pub(super) fn thinking<T: PartialEq>(
    completion: &[T],
    open: &[T],
    close: &[T],
    is_line_end: impl Fn(&T) -> bool,
) -> Parts {
    let (mut parts, mut at) = (Parts::default(), 0);
    loop {
        let rest = &completion[at..];
        match (find(rest, open), find(rest, close)) {
            (None, None) => break,
            // Nothing of what stands before is the answer.
            (opened, Some(closed)) if opened.is_none_or(|opened| closed < opened) => {
                at += closed + close.len();
                parts.takes_all_before(at);
            }
            (Some(opened), _) => {
                let start = at + opened;
                let closed = find(&completion[start + open.len()..], close);
                at = closed.map_or(completion.len(), |closed| start + open.len() + closed + close.len());
                parts.unclosed = closed.is_none();
                take(&mut parts.taken, start..at);
            }
            // Without an opening mark the second arm holds.
            (None, Some(_)) => break,
        }
        if parts.taken.first() == Some(&(0..at)) {
            let line_ends = completion[at..].iter().take_while(|unit| is_line_end(unit)).count();
            at += line_ends;
            parts.takes_all_before(at);
        }
    }
    parts
}

fn take(taken: &mut Vec<Range<usize>>, part: Range<usize>) {
    match taken.last_mut() {
        Some(last) if last.end == part.start => last.end = part.end,
        _ => taken.push(part),
    }
}

/// Where `mark` stands first; an empty one nowhere.
fn find<T: PartialEq>(within: &[T], mark: &[T]) -> Option<usize> {
    if mark.is_empty() { None } else { within.windows(mark.len()).position(|run| run == mark) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The answer, what was taken, and whether it was never closed.
    fn split(completion: &str) -> (String, Vec<&str>, bool) {
        let bytes = completion.as_bytes();
        let parts = thinking(bytes, b"<think>", b"</think>", |byte| *byte == b'\n');
        let answer = String::from_utf8(parts.answer(bytes)).unwrap();
        (answer, parts.taken.iter().map(|part| &completion[part.clone()]).collect(), parts.unclosed)
    }

    #[test]
    fn thinking_is_taken_out() {
        for (completion, answer, taken, unclosed) in [
            ("", "", vec![], false),
            ("4.", "4.", vec![], false),
            ("<think>2+2</think>\n\n4.", "4.", vec!["<think>2+2</think>\n\n"], false),
            // The prompt has opened it.
            ("2+2\n</think>\n\n4.", "4.", vec!["2+2\n</think>\n\n"], false),
            (
                "<think>é</think>4 <think>or 5</think>\n.",
                "4 \n.",
                vec!["<think>é</think>", "<think>or 5</think>"],
                false,
            ),
            ("4.<think>is it", "4.", vec!["<think>is it"], true),
            ("<think>is it", "", vec!["<think>is it"], true),
            ("<think>a</think>b</think>\nc", "c", vec!["<think>a</think>b</think>\n"], false),
            ("<think>a</think><think>b</think>c", "c", vec!["<think>a</think><think>b</think>"], false),
            ("<think><think>a</think>b", "b", vec!["<think><think>a</think>"], false),
        ] {
            assert_eq!(split(completion), (answer.to_owned(), taken, unclosed), "{completion:?}");
        }
    }

    #[test]
    fn ids_are_as_texts() {
        let parts = thinking(&[7, 1, 5, 2, 9, 9, 6], &[1], &[2], |id| *id == 9);
        assert_eq!((parts.answer(&[7, 1, 5, 2, 9, 9, 6]), parts.taken.first()), (vec![7, 9, 9, 6], Some(&(1..4))));
        // A mark that is not given opens nothing.
        assert_eq!(thinking(&[1, 2], &[], &[2], |_| false).taken.first(), Some(&(0..2)));
    }

    proptest! {
        #[test]
        fn parts_are_in_order_and_an_answer_has_no_closing_mark(completion in prop::collection::vec(0u8..5, 0..30)) {
            let parts = thinking(&completion, &[1], &[2], |unit| *unit == 3);
            let mut end = None;
            for part in &parts.taken {
                prop_assert!(part.start < part.end && end.is_none_or(|end| end < part.start), "{parts:?}");
                end = Some(part.end);
            }
            prop_assert!(end.unwrap_or(0) <= completion.len());
            let answer = parts.answer(&completion);
            prop_assert!(!answer.contains(&1) && !answer.contains(&2), "{answer:?}");
            prop_assert_eq!(parts.answer(&completion).len() + parts.taken.iter().map(|p| p.len()).sum::<usize>(), completion.len());
        }
    }
}
