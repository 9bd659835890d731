//! The unanswered: what has been submitted, asked or not, and who waits for it. Pure: no connection, no clock.
//!
//! Invariant: whatever enters leaves exactly once, through the waiter that came with it.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;

use super::error::ClientError;
use super::waiter::{Answer, Waiter};
use crate::limits::{MAX_ID_BYTES, MAX_MESSAGE_BYTES};
use crate::proto::{outcome_from_wire, v1};
use crate::reward::{Code, Rejection};

/// The unanswered rollouts of one client, by a number that is unique on its stream. The callers' own ids are
/// their business: they may repeat.
#[derive(Debug, Default)]
pub(super) struct Table {
    questions: BTreeMap<u64, Question>,
    next: u64,
    asked: usize,
}

#[derive(Debug)]
struct Question {
    rollout: v1::Rollout,
    waiter: Box<dyn Waiter>,
    since: Instant,
    /// On the wire of the present connection.
    asked: bool,
    /// When first a connection was lost, or a server drained, with this question asked.
    lost: Option<Instant>,
}

/// What a reply was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The answer to a question.
    Answered,
    /// The server is going; the question stays, for the next connection.
    Draining,
    /// To no question of this table.
    Stray,
}

impl Table {
    /// A new question. Returns its number.
    pub(super) fn insert(&mut self, rollout: v1::Rollout, waiter: Box<dyn Waiter>, now: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        self.questions.insert(number, Question { rollout, waiter, since: now, asked: false, lost: None });
        number
    }

    /// What is to be sent for question `number`. `None` where there is no use in asking, and then the question is gone:
    /// nobody waits for it any more, or it has been answered here.
    pub(super) fn ask(&mut self, number: u64, now: Instant) -> Option<v1::Rollout> {
        let question = self.questions.get_mut(&number)?;
        if question.waiter.is_gone() {
            self.questions.remove(&number);
            return None;
        }
        let mut rollout = question.rollout.clone();
        rollout.id = wire_id(number, &rollout.id);
        // The server counts from its receipt, the caller from the submission.
        if let Some(deadline_ms) = rollout.deadline_ms {
            let left = Duration::from_millis(deadline_ms).saturating_sub(now.duration_since(question.since));
            rollout.deadline_ms = Some(left.as_millis() as u64);
            if left.is_zero() {
                let message = format!("{deadline_ms} ms passed before the rollout could be sent");
                self.settle(number, Ok(Err(Rejection::new(Code::DeadlineExceeded, message))));
                return None;
            }
        }
        let bytes = rollout.encoded_len();
        if bytes > MAX_MESSAGE_BYTES {
            // The server would end the stream, and with it everybody else's rollouts.
            let message = format!("the rollout has {bytes} bytes on the wire; at most {MAX_MESSAGE_BYTES} are allowed");
            self.settle(number, Ok(Err(Rejection::new(Code::TooLong, message))));
            return None;
        }
        if !std::mem::replace(&mut question.asked, true) {
            self.asked += 1;
        }
        Some(rollout)
    }

    /// Takes a reply in.
    pub(super) fn hear(&mut self, reply: v1::Reply, now: Instant) -> Heard {
        let (id, outcome) = outcome_from_wire(reply);
        let Some(number) = number_of(&id).filter(|number| self.questions.contains_key(number)) else {
            return Heard::Stray;
        };
        if matches!(&outcome, Ok(Err(rejection)) if rejection.code == Code::Draining) {
            self.lose(number, now);
            return Heard::Draining;
        }
        self.settle(number, outcome.map_err(ClientError::from));
        Heard::Answered
    }

    /// The connection is gone, and every question on it unanswered.
    pub(super) fn lose_all(&mut self, now: Instant) {
        for number in self.numbers() {
            self.lose(number, now);
        }
    }

    /// Questions that have been asked and lost, again and again, for longer than `budget`.
    pub(super) fn lost_for(&self, budget: Duration, now: Instant) -> Vec<(u64, Duration)> {
        let lost = |question: &Question| question.lost.map(|since| now.duration_since(since));
        self.questions.iter().filter_map(|(&n, q)| lost(q).filter(|&d| d > budget).map(|d| (n, d))).collect()
    }

    /// Ends one question.
    pub(super) fn settle(&mut self, number: u64, answer: Answer) {
        if let Some(question) = self.questions.remove(&number) {
            self.asked -= usize::from(question.asked);
            question.waiter.answer(answer);
        }
    }

    /// Ends every question.
    pub(super) fn settle_all(&mut self, error: &ClientError) {
        for number in self.numbers() {
            self.settle(number, Err(error.clone()));
        }
    }

    /// Numbers of all questions, oldest first.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.questions.keys().copied().collect()
    }

    /// Number of questions.
    pub(super) fn len(&self) -> usize {
        self.questions.len()
    }

    /// Number of questions on the wire of the present connection.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    fn lose(&mut self, number: u64, now: Instant) {
        if let Some(question) = self.questions.get_mut(&number)
            && std::mem::replace(&mut question.asked, false)
        {
            self.asked -= 1;
            question.lost.get_or_insert(now);
        }
    }
}

/// Unique by its number; the caller's id follows it for whoever reads the server's logs.
fn wire_id(number: u64, id: &str) -> String {
    let mut wire = format!("{number}:{id}");
    let mut end = wire.len().min(MAX_ID_BYTES);
    while !wire.is_char_boundary(end) {
        end -= 1;
    }
    wire.truncate(end);
    wire
}

fn number_of(wire_id: &str) -> Option<u64> {
    wire_id.split_once(':')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::proto::outcome_to_wire;
    use crate::reward::Outcome;

    const MS: Duration = Duration::from_millis(1);

    fn rollout(id: &str) -> v1::Rollout {
        v1::Rollout { id: id.into(), ..Default::default() }
    }

    fn rejection(code: Code) -> Outcome {
        Err(Rejection::new(code, "because"))
    }

    fn insert(table: &mut Table, rollout: v1::Rollout, now: Instant) -> (u64, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        (table.insert(rollout, Box::new(answer), now), receiver)
    }

    #[test]
    fn equal_ids_are_told_apart() {
        let (mut table, now) = (Table::default(), Instant::now());
        let (a, mut answer_a) = insert(&mut table, rollout("same"), now);
        let (b, mut answer_b) = insert(&mut table, rollout("same"), now);
        let wire_a = table.ask(a, now).unwrap().id;
        let wire_b = table.ask(b, now).unwrap().id;
        assert_eq!(table.asked(), 2);

        assert_eq!(table.hear(outcome_to_wire(wire_b.clone(), rejection(Code::Empty)), now), Heard::Answered);
        assert_eq!(table.hear(outcome_to_wire(wire_a, rejection(Code::TooLong)), now), Heard::Answered);
        assert_eq!(answer_a.try_recv().unwrap(), Ok(rejection(Code::TooLong)));
        assert_eq!(answer_b.try_recv().unwrap(), Ok(rejection(Code::Empty)));
        // An answer given twice is nobody's.
        assert_eq!(table.hear(outcome_to_wire(wire_b, rejection(Code::Empty)), now), Heard::Stray);
        assert_eq!(table.hear(outcome_to_wire("no number".into(), rejection(Code::Empty)), now), Heard::Stray);
        assert_eq!((table.len(), table.asked()), (0, 0));
    }

    #[test]
    fn a_draining_servers_questions_are_kept() {
        let (mut table, now) = (Table::default(), Instant::now());
        let (number, mut answer) = insert(&mut table, rollout("a"), now);
        let wire = table.ask(number, now).unwrap().id;
        assert_eq!(table.hear(outcome_to_wire(wire, rejection(Code::Draining)), now), Heard::Draining);
        assert!(answer.try_recv().is_err());
        assert_eq!((table.len(), table.asked()), (1, 0));
        assert_eq!(table.lost_for(MS, now + 2 * MS), [(number, 2 * MS)]);

        // The loss counts from the first time, not the latest.
        assert!(table.ask(number, now + MS).is_some());
        table.lose_all(now + MS);
        assert_eq!(table.lost_for(MS, now + 2 * MS), [(number, 2 * MS)]);
    }

    #[test]
    fn the_deadline_counts_from_the_submission() {
        let (mut table, now) = (Table::default(), Instant::now());
        let (number, mut answer) = insert(&mut table, v1::Rollout { deadline_ms: Some(100), ..rollout("a") }, now);
        assert_eq!(table.ask(number, now).unwrap().deadline_ms, Some(100));
        table.lose_all(now);
        assert_eq!(table.ask(number, now + 30 * MS).unwrap().deadline_ms, Some(70));
        table.lose_all(now);
        assert_eq!(table.ask(number, now + 100 * MS), None);
        assert_eq!(answer.try_recv().unwrap().unwrap().unwrap_err().code, Code::DeadlineExceeded);
        assert_eq!((table.len(), table.asked()), (0, 0));
    }

    #[test]
    fn what_nobody_waits_for_is_not_asked_again() {
        let (mut table, now) = (Table::default(), Instant::now());
        let (number, answer) = insert(&mut table, rollout("a"), now);
        drop(answer);
        assert_eq!(table.ask(number, now), None);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_rollout_too_large_for_one_message_is_rejected_here() {
        let (mut table, now) = (Table::default(), Instant::now());
        let text = v1::rollout::Input::Text("x".repeat(MAX_MESSAGE_BYTES));
        let (number, mut answer) = insert(&mut table, v1::Rollout { input: Some(text), ..rollout("a") }, now);
        assert_eq!(table.ask(number, now), None);
        assert_eq!(answer.try_recv().unwrap().unwrap().unwrap_err().code, Code::TooLong);
    }

    #[test]
    fn ids_on_the_wire_keep_to_the_limit() {
        let id = wire_id(7, &"é".repeat(MAX_ID_BYTES));
        assert!(id.len() <= MAX_ID_BYTES && id.len() > MAX_ID_BYTES - 2 && id.starts_with("7:é"));
        assert_eq!(number_of(&id), Some(7));
        assert_eq!(number_of(&wire_id(8, "a:b")), Some(8));
    }
}
