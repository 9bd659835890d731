//! Groups that a micro-batch divides: what it computes of the prefix that the rest shares is to be kept for them.

use std::collections::HashMap;
use std::sync::Arc;

use super::pending::{Candidate, Pending, SharedPrefix};
use crate::batch::common_prefix;

/// A group of one caller with members in the micro-batch.
struct Divided<'a> {
    /// Of one of the members that are taken, which names the prefix to be kept.
    shared_prefix: &'a mut Option<SharedPrefix>,
    tokens: &'a [u32],
    /// The members that stay in the queue, each with the length of the prefix that it shares with that one.
    staying: Vec<(usize, &'a Candidate)>,
}

/// For each group with members in the micro-batch and in the queue, one of those taken names the prefix to be kept for those who
/// stay, and they pin it until they are answered. Groups are of one caller: equal names of others mean nothing.
pub(super) fn pin_prefixes<'a>(taken: &'a mut [Pending], staying: impl Iterator<Item = &'a Candidate>) {
    let mut groups: HashMap<(u64, &str), Divided> = HashMap::new();
    for Pending { candidate, shared_prefix, .. } in taken {
        let rollout = &candidate.rollout;
        // Of a rollout of several sequences nobody knows which one the others share.
        if !rollout.group.is_empty() && rollout.sequences(0).count() == 1 {
            groups.entry((candidate.caller, &rollout.group)).or_insert_with(|| Divided {
                shared_prefix,
                tokens: &rollout.tokens,
                staying: Vec::new(),
            });
        }
    }
    if groups.is_empty() {
        return;
    }
    for candidate in staying.filter(|candidate| !candidate.rollout.group.is_empty()) {
        if let Some(group) = groups.get_mut(&(candidate.caller, candidate.rollout.group.as_str())) {
            let shared = common_prefix(group.tokens, &candidate.rollout.tokens);
            group.staying.push((shared, candidate));
        }
    }
    for Divided { shared_prefix, staying, .. } in groups.into_values() {
        let Some(tokens) = worth_keeping(staying.iter().map(|(shared, _)| *shared).collect()) else { continue };
        let pin = Arc::new(());
        *shared_prefix = Some(SharedPrefix { tokens: tokens as u32, wanted_by: Arc::downgrade(&pin) });
        for (_, candidate) in staying.iter().filter(|(shared, _)| *shared >= tokens) {
            candidate.hold(&pin);
        }
    }
}

/// Of the prefix lengths that members share, the one that saves most tokens: its length times the members that share so much.
/// So a member that in truth belongs to another group does not shorten what the others keep.
fn worth_keeping(mut shared: Vec<usize>) -> Option<usize> {
    shared.sort_unstable_by(|a, b| b.cmp(a));
    let saved = (1..).zip(&shared).map(|(members, tokens)| (members * tokens, *tokens));
    saved.max().map(|(_, tokens)| tokens).filter(|tokens| *tokens > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_that_saves_most_is_kept() {
        assert_eq!(worth_keeping(vec![]), None);
        assert_eq!(worth_keeping(vec![0, 0]), None);
        assert_eq!(worth_keeping(vec![600, 602, 600, 600]), Some(600));
        // Fifteen members of one group, and hundreds that share the template's first tokens.
        assert_eq!(worth_keeping([vec![600; 15], vec![20; 300]].concat()), Some(600));
    }
}
