//! Where tokens come from in what the caller sent, so that an answer can name places there.
//!
//! Invariant: an end that is given is that of the token, in the caller's own characters or ids.

use std::ops::Range;

use crate::reward::{ReadEnd, Thinking};
use crate::sidecar::tokenize::Place;

/// What the tokens were made of.
pub(super) enum Origin {
    /// Nobody has asked.
    Unknown,
    /// Those of this range are the ids that the caller sent.
    Ids(Range<usize>),
    /// They stand at these bytes of a text.
    Written(Vec<Range<usize>>),
    /// They stand at these bytes of the caller's text.
    Text { bytes: Vec<Range<usize>>, text: String },
    /// They stand at these bytes of a rendered conversation, in which the completion has this place.
    Chat { bytes: Vec<Range<usize>>, place: Place, completion: String },
}

impl Origin {
    /// Where the tokens of these positions, which ascend, end in what the caller sent.
    pub(super) fn ends(&self, positions: &[u32]) -> Vec<Option<ReadEnd>> {
        match self {
            Self::Unknown | Self::Written(_) => Vec::new(),
            Self::Ids(sent) => {
                let end = |at: usize| sent.contains(&at).then(|| ReadEnd::Tokens((at + 1 - sent.start) as u32));
                positions.iter().map(|at| end(*at as usize)).collect()
            }
            Self::Text { bytes, text } => characters(text, positions, |at| Some(bytes.get(at)?.end)),
            Self::Chat { bytes, place, completion } => {
                characters(completion, positions, |at| place.end_in_completion(bytes.get(at)?.clone()))
            }
        }
    }
}

/// Characters of a text before the bytes of some positions.
fn characters(text: &str, positions: &[u32], byte: impl Fn(usize) -> Option<usize>) -> Vec<Option<ReadEnd>> {
    let (mut at, mut count) = (0, 0);
    let mut end = |position: u32| {
        let byte = byte(position as usize)?;
        // Positions ascend, and with them the bytes; a text is gone through once.
        if byte < at {
            (at, count) = (0, 0);
        }
        count += text.get(at..byte)?.chars().count();
        at = byte;
        Some(ReadEnd::Characters(count as u32))
    };
    positions.iter().map(|position| end(*position)).collect()
}

/// The same ends in the completion as it was before its thinking was taken out.
pub(super) fn before_taking(ends: &mut [Option<ReadEnd>], thinking: &Thinking) {
    for end in ends.iter_mut().flatten() {
        let (ReadEnd::Characters(at) | ReadEnd::Tokens(at)) = end;
        for part in &thinking.taken {
            if part.start < *at {
                *at += part.end - part.start;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_counted_in_what_was_sent() {
        assert_eq!(
            Origin::Ids(2..5).ends(&[1, 2, 4, 5]),
            [None, Some(ReadEnd::Tokens(1)), Some(ReadEnd::Tokens(3)), None]
        );
        let text = Origin::Text { bytes: vec![0..0, 0..2, 2..3], text: "éa".into() };
        assert_eq!(text.ends(&[1, 2, 3]), [Some(ReadEnd::Characters(1)), Some(ReadEnd::Characters(2)), None]);
        let place = Place { bytes: 2..4, pieces: vec![(2..4, 1)] };
        let chat = Origin::Chat { bytes: vec![0..2, 2..4, 4..5], place, completion: " ab".into() };
        assert_eq!(chat.ends(&[0, 1, 2]), [None, Some(ReadEnd::Characters(3)), None]);
        assert_eq!(Origin::Unknown.ends(&[1]), []);
    }

    #[test]
    fn what_was_taken_counts_again() {
        let mut ends = [Some(ReadEnd::Characters(3)), None, Some(ReadEnd::Characters(5))];
        before_taking(&mut ends, &Thinking { taken: vec![0..4, 8..10], unclosed: false });
        assert_eq!(ends, [Some(ReadEnd::Characters(7)), None, Some(ReadEnd::Characters(11))]);
    }
}
