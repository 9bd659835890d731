//! Groups that a micro-batch tears apart: what those who stay begin with is to be kept for them.

use std::collections::HashMap;
use std::sync::Arc;

use super::pending::{LeftBehind, Pending};
use crate::batch::common_prefix;

/// For each group with members in the micro-batch and in the queue: one of those who leave names the prefix that all who
/// stay have with it, and they pin it until they are answered themselves.
pub(super) fn pin_prefixes(leaving: &mut [Pending], staying: &mut [Pending]) {
    let mut groups: HashMap<&str, (&mut Option<LeftBehind>, &[u32], Vec<&mut Pending>)> = HashMap::new();
    for Pending { rollout, left_behind, .. } in leaving.iter_mut().filter(|pending| !pending.rollout.group.is_empty()) {
        // Of a rollout of several sequences nobody knows which one the others share.
        if rollout.sequences(0).count() == 1 {
            groups.entry(&rollout.group).or_insert_with(|| (left_behind, &rollout.tokens, Vec::new()));
        }
    }
    if groups.is_empty() {
        return;
    }
    for pending in staying {
        if let Some((_, _, stay)) = groups.get_mut(&*pending.rollout.group) {
            stay.push(pending);
        }
    }
    for (left_behind, tokens, stay) in groups.into_values() {
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
