//! Groups that a micro-batch tears apart: what those who stay begin with is to be kept for them.

use std::collections::HashMap;
use std::sync::Arc;

use super::pending::{LeftBehind, Pending};
use crate::batch::common_prefix;

/// A group that is torn apart.
struct Torn<'a> {
    /// Of one of those who leave.
    left_behind: &'a mut Option<LeftBehind>,
    tokens: &'a [u32],
    stay: Vec<&'a mut Pending>,
}

/// For each group with members in the micro-batch and in the queue: one of those who leave names the prefix that all who
/// stay have with it, and they pin it until they are answered themselves.
pub(super) fn pin_prefixes(leaving: &mut [Pending], staying: &mut [Pending]) {
    let mut groups: HashMap<&str, Torn> = HashMap::new();
    for Pending { rollout, left_behind, .. } in leaving.iter_mut().filter(|pending| !pending.rollout.group.is_empty()) {
        // Of a rollout of several sequences nobody knows which one the others share.
        if rollout.sequences(0).count() == 1 {
            groups.entry(&rollout.group).or_insert_with(|| Torn {
                left_behind,
                tokens: &rollout.tokens,
                stay: Vec::new(),
            });
        }
    }
    if groups.is_empty() {
        return;
    }
    for pending in staying {
        if let Some(torn) = groups.get_mut(&*pending.rollout.group) {
            torn.stay.push(pending);
        }
    }
    for Torn { left_behind, tokens, stay } in groups.into_values() {
        let shared = stay.iter().map(|pending| common_prefix(tokens, &pending.rollout.tokens)).min().unwrap_or(0);
        if shared > 0 {
            let pin = Arc::new(());
            *left_behind = Some(LeftBehind { tokens: shared as u32, by: Arc::downgrade(&pin) });
            for pending in stay {
                pending.pin = Some(Arc::clone(&pin));
            }
        }
    }
}
