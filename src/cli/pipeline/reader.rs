//! The first half of the pipeline: lines of a rollout file, parsed, each id once.

use std::collections::{HashSet, VecDeque};
use std::io::{self, BufRead};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::cli::lines::Lines;
use crate::cli::rollout_file::{self, Parsed};
use crate::limits;
use crate::reward::{Code, Rejection};

/// Within so many lines an id may be used once. A file may be longer than the memory, so not all can be remembered;
/// the number is fixed, so that the same file always gives the same answers.
const DISTINCT_IDS: usize = 1 << 16;

/// A line that was read.
pub struct Read {
    pub number: u64,
    pub consumed: u64,
    pub parsed: Parsed,
}

/// Reads and parses until the input or the interest in it ends.
pub fn read(input: Box<dyn BufRead + Send>, read_to: &mpsc::Sender<Read>) -> io::Result<()> {
    let mut lines = Lines::new(input, limits::MAX_MESSAGE_BYTES);
    let mut recent = RecentIds::default();
    while let Some(line) = lines.next()? {
        let mut parsed = rollout_file::parse_line(&line);
        if let Ok(rollout) = &parsed.rollout
            && !recent.insert(&rollout.id)
        {
            let message = format!("id: '{}' was used by an earlier line", rollout.id);
            parsed.rollout = Err(Rejection::new(Code::DuplicateId, message));
        }
        if read_to.blocking_send(Read { number: line.number, consumed: line.consumed, parsed }).is_err() {
            break;
        }
    }
    Ok(())
}

/// The ids of the last [`DISTINCT_IDS`] rollouts.
#[derive(Default)]
struct RecentIds {
    order: VecDeque<Arc<str>>,
    ids: HashSet<Arc<str>>,
}

impl RecentIds {
    /// False where the id is among them.
    fn insert(&mut self, id: &str) -> bool {
        let id: Arc<str> = id.into();
        if !self.ids.insert(id.clone()) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > DISTINCT_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_ids_are_bounded_and_distinct() {
        let mut recent = RecentIds::default();
        assert!(recent.insert("first") && !recent.insert("first"));
        for i in 0..DISTINCT_IDS {
            assert!(recent.insert(&i.to_string()));
        }
        assert!(recent.insert("first"), "the oldest is forgotten");
        assert!(!recent.insert(&(DISTINCT_IDS - 1).to_string()));
        assert_eq!((recent.order.len(), recent.ids.len()), (DISTINCT_IDS, DISTINCT_IDS));
    }

    #[test]
    fn reading_rejects_what_it_must_and_goes_on() {
        let input =
            b"{\"id\":\"a\",\"text\":\"t\"}\n\nnonsense\n{\"id\":\"a\",\"text\":\"u\"}\n{\"id\":\"b\",\"text\":\"v\"}";
        let (to, mut from) = mpsc::channel(16);
        read(Box::new(&input[..]), &to).unwrap();
        drop(to);
        let mut found = Vec::new();
        while let Some(read) = from.blocking_recv() {
            found.push((read.number, read.parsed.id, read.parsed.rollout.err().map(|rejection| rejection.code)));
        }
        let id = |id: &str| Some(id.to_owned());
        assert_eq!(
            found,
            [
                (1, id("a"), None),
                (3, None, Some(Code::Malformed)),
                (4, id("a"), Some(Code::DuplicateId)),
                (5, id("b"), None),
            ]
        );
    }
}
