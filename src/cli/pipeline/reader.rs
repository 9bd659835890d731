//! The first half of the pipeline: rows of a rollout file, parsed, each id once.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use arrow_array::RecordBatch;
use tokio::sync::mpsc;

use crate::cli::resume::Kept;
use crate::cli::rollout_file::{self, RawRow, Row, Rows};
use crate::json::row::ExtraColumns;
use crate::reward::{Code, Rejection};

/// Within so many lines an id may be used once. A file may be longer than the memory, so not all can be remembered;
/// the number is fixed, so that the same file always gives the same answers.
const DISTINCT_IDS: usize = 1 << 16;

/// A row that was read.
pub struct Read {
    pub number: u64,
    pub consumed: u64,
    pub row: Row,
    pub batch: Option<(RecordBatch, usize)>,
}

/// Reads and parses until the input or the interest in it ends. Rows that an earlier run has answered are passed over; their ids
/// count all the same.
pub fn read(
    mut rows: Box<dyn Rows>,
    extra_columns: ExtraColumns,
    mut kept: Option<Kept>,
    read_to: &mpsc::Sender<Read>,
) -> io::Result<()> {
    let mut recent = RecentIds::default();
    while let Some(RawRow { place, consumed, json, batch }) = rows.next()? {
        let mut row = rollout_file::parse(&json, place, extra_columns);
        if row.content.is_ok()
            && let Some(id) = &row.id
            && !recent.insert(id)
        {
            let message = format!("id: '{id}' was used by an earlier {}", place.unit());
            row.content = Err(Rejection::new(Code::DuplicateId, message));
        }
        if let Some(kept) = &mut kept
            && kept.answers(row.id.as_deref(), place.number())?
        {
            continue;
        }
        if read_to.blocking_send(Read { number: place.number(), consumed, row, batch }).is_err() {
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
    use crate::cli::rollout_file::JsonLines;

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
            b"{\"id\":\"a\",\"text\":\"t\"}\n\nnonsense\n{\"id\":\"a\",\"text\":\"u\"}\n{\"id\":\"b\",\"text\":\"v\"}\n{\"id\":7,\"text\":\"t\"}\n{\"text\":\"w\"}";
        let (to, mut from) = mpsc::channel(16);
        read(Box::new(JsonLines::new(&input[..])), ExtraColumns::Refuse, None, &to).unwrap();
        drop(to);
        let mut found = Vec::new();
        while let Some(read) = from.blocking_recv() {
            found.push((read.number, read.row.id, read.row.content.err().map(|rejection| rejection.code)));
        }
        let id = |id: &str| Some(id.to_owned());
        assert_eq!(
            found,
            [
                (1, id("a"), None),
                (3, None, Some(Code::Malformed)),
                (4, id("a"), Some(Code::DuplicateId)),
                (5, id("b"), None),
                (6, id("7"), None),
                // Without an id of its own it has the number of its line, which the line before took.
                (7, id("7"), Some(Code::DuplicateId)),
            ]
        );
    }
}
