//! Where the head reads a token sequence, as the model's [`ReadPolicy`] says, and what the sequence must hold for it. A
//! function of the tokens alone.

use std::sync::Arc;

use crate::engine::{ReadAt, ReadPolicy};
use crate::limits::MAX_READS;
use crate::reward::{Code, Rejection};
use crate::rollout::Reads;

/// The reads of a sequence.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where they are.
    pub reads: Reads,
    /// Position of the first token that they need: nothing from here on may be cut.
    pub first: usize,
}

/// A text without what the policy takes from its end.
pub(super) fn stripped<'a>(policy: &ReadPolicy, text: &'a str) -> &'a str {
    text.trim_end_matches(|c| policy.strip.contains(c))
}

/// Takes off what means nothing at the end of a sequence, and puts the policy's last token behind one that does not end
/// with it. The first token stays, whatever it is.
/// `text` says whether the sequence was text or a conversation.
pub(super) fn complete(policy: &ReadPolicy, text: bool, ids: &mut Vec<u32>) {
    // Classes that read the token before the first padding token take the position for -1, the last one, where it is first.
    if let Some(first) = policy.ends_before.and_then(|end| ids.iter().position(|id| *id == end)).filter(|at| *at > 0) {
        ids.truncate(first);
    }
    if let Some(skip) = policy.skip {
        let meaningful = ids.iter().rposition(|id| *id != skip).map_or(1, |last| last + 1);
        ids.truncate(meaningful);
    }
    if let Some(append) = policy.append.filter(|_| text || !policy.text_only)
        && ids.last() != Some(&append)
    {
        ids.push(append);
    }
}

/// Refuses a sequence that does not end as the policy asks; `field` is for messages, `text` as for [`complete`].
pub(super) fn check_end(policy: &ReadPolicy, field: &str, text: bool, ids: &[u32]) -> Result<(), Rejection> {
    let asked = policy.ends_with.filter(|_| text || !policy.text_only);
    match (asked, ids.last()) {
        (Some(end), Some(last)) if *last != end => Err(Rejection::new(
            Code::NoReadPosition,
            format!(
                "{field}: the model is read at token id {end}, with which its chat template ends every rollout, and this one \
                 ends with {last}; send it as the template has it, what stands before that token included"
            ),
        )),
        _ => Ok(()),
    }
}

/// Finds the reads of a sequence, which is not empty; `field` is for messages.
pub(super) fn find(policy: &ReadPolicy, field: &str, ids: &[u32]) -> Result<Found, Rejection> {
    let missing = |what: String| Rejection::new(Code::NoReadPosition, format!("{field}: {what}"));
    let needed = match policy.needs.as_slice() {
        [] => ids.len(),
        needs => ids.windows(needs.len()).rposition(|run| run == needs).ok_or_else(|| {
            missing(format!("the model's head looks for the token ids {needs:?} in a row, and they are not there"))
        })?,
    };
    let needed = match &policy.anchors[..] {
        [] => needed,
        anchors => {
            let found = ReadPolicy::anchored(anchors, ids).ok_or_else(|| {
                missing(format!(
                    "the model reads at the token ids {anchors:?}, which must be there once each, in this order"
                ))
            })?;
            needed.min(found[0])
        }
    };
    let (reads, first) = match policy.at {
        ReadAt::LastToken => (Reads::Last, ids.len() - 1),
        ReadAt::EveryToken { token, reduce } => {
            let is_end = |end: &u32| {
                let before = &ids[..*end as usize];
                ids[*end as usize] == token && before.ends_with(&policy.behind)
            };
            let ends: Arc<[u32]> = (0..ids.len() as u32).filter(is_end).collect();
            let first = ends.first().ok_or_else(|| {
                let behind = match policy.behind.as_slice() {
                    [] => String::new(),
                    behind => format!(" behind {behind:?}"),
                };
                missing(format!("the model reads at every token {token}{behind}, the end of a step, and there is none"))
            })?;
            if ends.len() > MAX_READS {
                let what = format!("{field}: {} steps; at most {MAX_READS}", ends.len());
                return Err(Rejection::new(Code::TooLong, what));
            }
            (Reads::Steps { reduce, ends: Arc::clone(&ends) }, *first as usize - policy.behind.len())
        }
    };
    Ok(Found { reads, first: first.min(needed) })
}

/// Whether every token that the policy names is in a vocabulary of this size; the error is for who made the model.
pub(super) fn check(policy: &ReadPolicy, vocabulary_size: u32) -> Result<(), String> {
    let step = match policy.at {
        ReadAt::LastToken => None,
        ReadAt::EveryToken { token, .. } => Some(token),
    };
    match step
        .iter()
        .chain(&policy.behind)
        .chain(&policy.append)
        .chain(&policy.ends_with)
        .chain(&policy.skip)
        .chain(&policy.ends_before)
        .chain(&policy.needs)
        .chain(&policy.anchors)
        .find(|id| **id >= vocabulary_size)
    {
        None => Ok(()),
        Some(id) => Err(format!(
            "the model is to be read at token id {id}, which its vocabulary of {vocabulary_size} does not have"
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::Reduce;

    const STEPS: ReadAt = ReadAt::EveryToken { token: 2, reduce: Reduce::Min };

    fn steps(ends: &[u32]) -> Reads {
        Reads::Steps { ends: ends.into(), reduce: Reduce::Min }
    }

    #[test]
    fn the_last_token() {
        let policy = ReadPolicy::default();
        assert_eq!(find(&policy, "input", &[5, 6, 7]).unwrap(), Found { reads: Reads::Last, first: 2 });
        let policy = ReadPolicy { needs: vec![5, 6], ..policy };
        // The last run counts.
        assert_eq!(find(&policy, "input", &[5, 6, 5, 6, 7]).unwrap(), Found { reads: Reads::Last, first: 2 });
        for ids in [&[5, 7, 6][..], &[6], &[5]] {
            let rejection = find(&policy, "input", ids).unwrap_err();
            assert_eq!(rejection.code, Code::NoReadPosition);
            assert!(rejection.message.starts_with("input:") && rejection.message.contains("[5, 6]"), "{rejection}");
        }
    }

    #[test]
    fn anchors_stand_once_and_in_order() {
        let policy = ReadPolicy { anchors: vec![5, 6, 7], ..ReadPolicy::default() };
        let found = Found { reads: Reads::Last, first: 1 };
        assert_eq!(find(&policy, "input", &[1, 5, 2, 6, 7, 2]).unwrap(), found);
        for ids in [&[5, 6][..], &[5, 7, 6], &[5, 6, 7, 6], &[5, 5, 6, 7], &[1]] {
            let rejection = find(&policy, "input", ids).unwrap_err();
            assert_eq!(rejection.code, Code::NoReadPosition);
            assert!(rejection.message.contains("[5, 6, 7], which must be there once each"), "{rejection}");
        }
        assert!(check(&policy, 8).is_ok() && check(&policy, 7).unwrap_err().contains("id 7"));
    }

    #[test]
    fn every_step() {
        let policy = ReadPolicy { at: STEPS, ..ReadPolicy::default() };
        assert_eq!(find(&policy, "input", &[2, 7, 2, 2, 9]).unwrap(), Found { reads: steps(&[0, 2, 3]), first: 0 });
        let rejection = find(&policy, "input", &[1, 3]).unwrap_err();
        assert_eq!(rejection.code, Code::NoReadPosition);
        assert!(rejection.message.contains("every token 2"), "{rejection}");
        assert_eq!(find(&policy, "input", &vec![2; MAX_READS + 1]).unwrap_err().code, Code::TooLong);
    }

    #[test]
    fn a_step_ends_only_behind_certain_tokens() {
        let policy = ReadPolicy { at: STEPS, behind: vec![7, 8], ..ReadPolicy::default() };
        let ids = [2, 8, 2, 7, 8, 2, 2, 7, 8, 2, 9];
        assert_eq!(find(&policy, "input", &ids).unwrap(), Found { reads: steps(&[5, 9]), first: 3 });
        let rejection = find(&policy, "input", &[8, 2]).unwrap_err();
        assert!(rejection.message.contains("every token 2 behind [7, 8]"), "{rejection}");
        assert!(check(&policy, 9).is_ok() && check(&policy, 8).unwrap_err().contains("id 8"));
    }

    #[test]
    fn a_last_token_is_appended_once() {
        let policy = ReadPolicy { append: Some(9), ..ReadPolicy::default() };
        for given in [vec![1, 9, 2], vec![1, 9, 2, 9]] {
            let mut ids = given;
            complete(&policy, true, &mut ids);
            assert_eq!(ids, [1, 9, 2, 9]);
        }
        let of_text = ReadPolicy { text_only: true, ..policy };
        for (text, completed) in [(true, &[1, 9][..]), (false, &[1])] {
            let mut ids = vec![1];
            complete(&of_text, text, &mut ids);
            assert_eq!(ids, completed);
        }
        let mut ids = vec![1];
        complete(&ReadPolicy::default(), true, &mut ids);
        assert_eq!(ids, [1]);
    }

    #[test]
    fn padding_at_the_end_means_nothing() {
        let policy = ReadPolicy { skip: Some(0), ..ReadPolicy::default() };
        let completed = |policy: &ReadPolicy, given: &[u32]| {
            let mut ids = given.to_vec();
            complete(policy, true, &mut ids);
            ids
        };
        assert_eq!(completed(&policy, &[4, 0, 5, 0, 0]), [4, 0, 5]);
        assert_eq!(completed(&policy, &[0, 5]), [0, 5]);
        // As transformers, which then reads the first.
        assert_eq!(completed(&policy, &[0, 0]), [0]);
        let policy = ReadPolicy { append: Some(9), ..policy };
        assert_eq!(completed(&policy, &[4, 9, 0]), [4, 9]);
    }

    /// As `argmax(ids == pad) - 1` of the published classes, modulo the length.
    #[test]
    fn the_token_before_the_first_padding_is_the_last() {
        let policy = ReadPolicy { ends_before: Some(0), ..ReadPolicy::default() };
        for (given, completed) in [
            (vec![4, 0, 5, 0, 0], vec![4]),
            (vec![4, 5, 0], vec![4, 5]),
            (vec![4, 5], vec![4, 5]),
            (vec![0, 5, 0], vec![0, 5, 0]),
        ] {
            let first = given.iter().position(|id| *id == 0).unwrap_or(0);
            let published = (first + given.len() - 1) % given.len();
            let mut ids = given;
            complete(&policy, true, &mut ids);
            assert_eq!((ids.len() - 1, &ids), (published, &completed));
        }
    }

    #[test]
    fn an_end_that_must_be_there() {
        let policy = ReadPolicy { ends_with: Some(9), ..ReadPolicy::default() };
        assert_eq!(check_end(&policy, "input", true, &[5, 9]), Ok(()));
        let of_text = ReadPolicy { text_only: true, ..policy.clone() };
        assert_eq!(check_end(&of_text, "input", false, &[9, 5]), Ok(()));
        assert!(check_end(&of_text, "input", true, &[9, 5]).is_err());
        let rejection = check_end(&policy, "input", false, &[9, 5]).unwrap_err();
        assert_eq!(rejection.code, Code::NoReadPosition);
        assert!(rejection.message.contains("token id 9") && rejection.message.contains("ends with 5"), "{rejection}");
    }

    #[test]
    fn ends_of_texts() {
        let policy = ReadPolicy { strip: "\n".into(), ..ReadPolicy::default() };
        assert_eq!(stripped(&policy, "\na \n\n"), "\na ");
        assert_eq!(stripped(&policy, "\n\n"), "");
        assert_eq!(stripped(&ReadPolicy::default(), "a\n"), "a\n");
    }

    #[test]
    fn tokens_of_no_vocabulary() {
        let good = ReadPolicy { at: STEPS, append: Some(4), needs: vec![1, 3], ..ReadPolicy::default() };
        assert_eq!(check(&good, 5), Ok(()));
        for (size, names) in [(4, "id 4"), (3, "id 4"), (2, "id 2")] {
            assert!(check(&good, size).unwrap_err().contains(names), "{size}");
        }
        assert!(check(&ReadPolicy { append: None, ..good }, 3).unwrap_err().contains("id 3"));
        assert!(check(&ReadPolicy { ends_with: Some(9), ..ReadPolicy::default() }, 9).unwrap_err().contains("id 9"));
    }

    proptest! {
        /// Whatever is cut before the first needed token, the reads are at the same tokens.
        #[test]
        fn a_cut_before_the_first_moves_the_reads_and_loses_none(
            ids in prop::collection::vec(0u32..4, 1..30),
            every: bool,
            needs in prop::collection::vec(0u32..4, 0..3),
            cut: prop::sample::Index,
        ) {
            let at = if every { STEPS } else { ReadAt::LastToken };
            let policy = ReadPolicy { at, needs, ..ReadPolicy::default() };
            let Ok(found) = find(&policy, "input", &ids) else { return Ok(()) };
            let cut = cut.index(found.first + 1);
            let after = find(&policy, "input", &ids[cut..]).unwrap();
            prop_assert_eq!(after.first, found.first - cut);
            let moved = match found.reads {
                Reads::Steps { ends, .. } => steps(&ends.iter().map(|end| end - cut as u32).collect::<Vec<_>>()),
                other => other,
            };
            prop_assert_eq!(after.reads, moved);
        }
    }
}
