use tokio::sync::oneshot;

use super::*;
use crate::client::room::Room;
use crate::client::waiter::Origin;
use crate::proto::outcome_to_wire;
use crate::reward::Outcome;

const MS: Duration = Duration::from_millis(1);

fn rollout(id: &str) -> v1::Rollout {
    v1::Rollout { id: id.into(), ..Default::default() }
}

fn rejection(code: Code) -> Outcome {
    Err(Rejection::new(code, "because"))
}

fn reply(id: &str, code: Code) -> v1::Reply {
    outcome_to_wire(id.into(), rejection(code))
}

fn insert(
    table: &mut Table,
    number: u64,
    rollout: v1::Rollout,
    deadline: Option<Deadline>,
) -> oneshot::Receiver<Answer> {
    let (answer, receiver) = oneshot::channel();
    let permit = Room::new(1).try_acquire().unwrap().unwrap();
    table.insert(number, rollout, Box::new(answer), deadline, permit);
    receiver
}

fn code(receiver: &mut oneshot::Receiver<Answer>) -> Code {
    receiver.try_recv().unwrap().unwrap().unwrap_err().code
}

#[test]
fn equal_ids_are_told_apart() {
    let (mut table, now) = (Table::default(), Instant::now());
    let mut answer_a = insert(&mut table, 0, rollout("same"), None);
    let mut answer_b = insert(&mut table, 1, rollout("same"), None);
    let [a, b] = [(); 2].map(|()| table.next_to_send(now).unwrap().rollout.id);
    assert!(table.next_to_send(now).is_none());
    assert_eq!(table.in_flight(), 2);

    assert_eq!(table.reply(reply(&b, Code::Empty), now), Reply::Answered);
    assert_eq!(table.reply(reply(&a, Code::TooLong), now), Reply::Answered);
    assert_eq!((code(&mut answer_a), code(&mut answer_b)), (Code::TooLong, Code::Empty));
    // An answer given twice is nobody's.
    assert_eq!(table.reply(reply(&b, Code::Empty), now), Reply::Unknown);
    assert_eq!(table.reply(reply("no number", Code::Empty), now), Reply::Unknown);
    assert_eq!((table.len(), table.in_flight()), (0, 0));
}

#[test]
fn a_draining_servers_rollouts_are_kept() {
    let (mut table, now) = (Table::default(), Instant::now());
    let mut answer = insert(&mut table, 0, rollout("a"), None);
    let id = table.next_to_send(now).unwrap().rollout.id;
    assert_eq!(table.reply(reply(&id, Code::Draining), now), Reply::Draining);
    assert!(answer.try_recv().is_err());
    assert_eq!((table.len(), table.in_flight()), (1, 0));
}

#[test]
fn two_outages_do_not_make_a_rollout_lost_and_connected_time_counts_for_nothing() {
    let (mut table, mut now) = (Table::default(), Instant::now());
    let _answer = insert(&mut table, 0, rollout("a"), None);
    // Connected for an hour each time, and without a connection for 10 ms.
    for times in 1..=2 {
        table.next_to_send(now).unwrap();
        now += Duration::from_secs(3600);
        table.disconnect(now);
        now += 10 * MS;
        assert_eq!(table.lost(Duration::ZERO, now), [], "{times} losses");
    }
    table.next_to_send(now).unwrap();
    table.disconnect(now);
    now += 10 * MS;
    assert_eq!(table.lost(30 * MS, now), []);
    let lost = table.lost(29 * MS, now);
    assert_eq!(lost.iter().map(|(n, l)| (*n, l.times, l.waited)).collect::<Vec<_>>(), [(0, 3, 30 * MS)]);
}

#[test]
fn a_deadline_that_passes_is_answered_sent_or_not() {
    let (mut table, now) = (Table::default(), Instant::now());
    let deadline = |ms| Deadline::new(now, Some(ms));
    let mut sent = insert(&mut table, 0, rollout("a"), deadline(100));
    table.next_to_send(now).unwrap();
    let mut waiting = insert(&mut table, 1, rollout("b"), deadline(50));
    let mut later = insert(&mut table, 2, rollout("c"), deadline(200));
    assert_eq!(table.next_deadline(), Some(now + 50 * MS));
    assert_eq!(table.expire(now + 49 * MS), []);
    let withdrawn = table.expire(now + 100 * MS);
    assert_eq!(withdrawn, [Withdrawn { number: 0, wire_id: "0:a".into() }]);
    assert_eq!((code(&mut sent), code(&mut waiting)), (Code::DeadlineExceeded, Code::DeadlineExceeded));
    assert!(later.try_recv().is_err());
    assert_eq!(table.next_deadline(), Some(now + 200 * MS));

    // The server owes one reply that nobody wants, and it counts until it is there.
    table.expect_discarded(0);
    assert_eq!((table.len(), table.in_flight()), (1, 1));
    assert_eq!(table.reply(reply("0:a", Code::Cancelled), now), Reply::Discarded);
    assert_eq!(table.in_flight(), 0);
    // It is noticed on the way to the stream, too.
    assert!(table.next_to_send(now + 200 * MS).is_none());
    assert_eq!((code(&mut later), table.next_deadline()), (Code::DeadlineExceeded, None));
}

#[test]
fn what_is_discarded_is_owed_by_one_connection_alone() {
    let (mut table, now) = (Table::default(), Instant::now());
    let _answer = insert(&mut table, 0, rollout("a"), None);
    table.next_to_send(now).unwrap();
    assert_eq!(table.cancel(0), Some(Withdrawn { number: 0, wire_id: "0:a".into() }));
    table.expect_discarded(0);
    table.disconnect(now);
    assert_eq!(table.in_flight(), 0);
}

/// A waiter of a series.
#[derive(Debug)]
struct Member(Origin);

impl Waiter for Member {
    fn is_gone(&self) -> bool {
        false
    }

    fn answer(self: Box<Self>, answer: Answer) {
        assert_eq!(answer.unwrap().unwrap_err().code, Code::Cancelled);
    }

    fn origin(&self) -> Option<Origin> {
        Some(self.0)
    }
}

#[test]
fn of_a_series_only_what_is_named_is_cancelled() {
    let (mut table, now) = (Table::default(), Instant::now());
    let room = Room::new(9);
    for (number, (series, tag)) in [(7, 0), (7, 1), (8, 0), (7, 2)].into_iter().enumerate() {
        let permit = room.try_acquire().unwrap().unwrap();
        table.insert(number as u64, rollout(""), Box::new(Member(Origin { series, tag })), None, permit);
    }
    table.next_to_send(now).unwrap();
    assert_eq!(table.cancel_series(7, &(0..=1)), [Withdrawn { number: 0, wire_id: "0:".into() }]);
    assert_eq!(table.numbers(), [2, 3]);
    // Their room is free again.
    let free: Vec<_> = std::iter::from_fn(|| room.try_acquire().unwrap()).collect();
    assert_eq!(free.len(), 7);
}

#[test]
fn what_nobody_waits_for_is_not_sent_again() {
    let (mut table, now) = (Table::default(), Instant::now());
    drop(insert(&mut table, 0, rollout("a"), None));
    assert!(table.next_to_send(now).is_none());
    assert_eq!(table.len(), 0);
}

#[test]
fn a_rollout_too_large_for_one_message_is_rejected_here() {
    let (mut table, now) = (Table::default(), Instant::now());
    let text = v1::rollout::Input::Text("x".repeat(MAX_MESSAGE_BYTES));
    let mut answer = insert(&mut table, 0, v1::Rollout { input: Some(text), ..rollout("a") }, None);
    assert!(table.next_to_send(now).is_none());
    assert_eq!(code(&mut answer), Code::TooLong);
}

#[test]
fn ids_on_the_wire_keep_to_the_limit() {
    let id = wire_id(7, &"é".repeat(MAX_ID_BYTES));
    assert!(id.len() <= MAX_ID_BYTES && id.len() > MAX_ID_BYTES - 2 && id.starts_with("7:é"));
    assert_eq!(number_of(&id), Some(7));
    assert_eq!(number_of(&wire_id(8, "a:b")), Some(8));
}
