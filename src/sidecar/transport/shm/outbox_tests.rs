//! An outbox and the client's end of its lane, in one thread.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use prost::Message as _;

use super::*;
use crate::engine::{EchoEngine, Engine as _};
use crate::proto::{ServedModel, card_from_wire, card_to_wire, v1};
use crate::reward::{ReadRewards, Rewards};
use crate::shm::frame::{CardAssembly, Reply};
use crate::shm::handshake::{self, Card};
use crate::shm::lane::{ClientEnd, SidecarEnd};
use crate::shm::layout::{MIN_RING_BYTES, Sizes};
use crate::sidecar::Identity;

struct Scene {
    outbox: Arc<Outbox>,
    generations: Arc<Generations>,
    interest: Interest,
    client: ClientEnd,
    cards: CardAssembly,
    /// Model versions that were announced, by generation.
    versions: HashMap<u64, Arc<str>>,
    _line: crate::shm::lane::SidecarLine,
}

fn generation(number: u64, version: &str) -> Generation {
    let mut model = EchoEngine::new(16).card().as_ref().clone();
    model.model_version = version.into();
    let served = ServedModel { model, in_flight_limit: 4, over_long: "reject".into(), aggregations: Vec::new() };
    Generation { number, card: card_to_wire(&served).encode_to_vec() }
}

/// A lane with the smallest rings, opened with generation 1.
fn scene() -> Scene {
    let first = generation(1, "v1");
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let sizes = Sizes { card_bytes: first.card.len(), rollout_bytes: MIN_RING_BYTES, reward_bytes: MIN_RING_BYTES };
    let end = handshake::open(ours, Card { generation: 1, bytes: &first.card }, sizes, 8).unwrap();
    let opened = handshake::greet(theirs, "test".as_ref(), Duration::from_secs(10)).unwrap();
    assert_eq!((opened.generation, &opened.card), (1, &first.card));
    let generations = Arc::new(Generations::new(first));
    let SidecarEnd { rewards, line, .. } = end;
    let reserve = Reserve { in_flight_limit: 8, reply_words: 40 };
    let control = Arc::new(Control::new().unwrap());
    Scene {
        outbox: Arc::new(Outbox::new(rewards, reserve, 1, Arc::clone(&generations), control)),
        generations,
        interest: Interest::of(&Identity::new("shm", None)),
        client: opened.end,
        cards: CardAssembly::after(1),
        versions: HashMap::from([(1, "v1".into())]),
        _line: line,
    }
}

fn rewards(generation: u64, version: &str, reads: usize) -> Outcome {
    let read = ReadRewards { tokens: 1, attributes: vec![1.0, 2.0], reward: 1.0, end: None };
    Ok(Rewards {
        reward: 1.0,
        attributes: vec![1.0, 2.0],
        tokens: 3,
        truncated: false,
        model_version: version.into(),
        generation,
        queue_ns: 1,
        forward_ns: 2,
        reads: vec![read; reads],
        thinking: None,
    })
}

impl Scene {
    fn ticket(&self, number: u64) -> Ticket {
        self.outbox.ticket(number, &self.interest).unwrap()
    }

    /// What the client reads next, with what it knows by then: numbers with versions, or with codes.
    fn read(&mut self) -> Option<Result<(u64, String), (u64, u32)>> {
        loop {
            let versions = &self.versions;
            match self.client.rewards.next(|generation| versions.get(&generation).cloned()).unwrap()? {
                Reply::Rewards { number, rewards } => return Some(Ok((number, rewards.model_version.to_string()))),
                Reply::Rejection { number, code, .. } => return Some(Err((number, code))),
                Reply::Card(part) => {
                    if let Some((generation, card)) = self.cards.add(part).unwrap() {
                        let card = card_from_wire(v1::ModelCard::decode(&*card).unwrap()).unwrap();
                        self.versions.insert(generation, card.model.model_version);
                    }
                }
            }
        }
    }
}

#[test]
fn a_new_generation_is_announced_before_the_first_rewards_that_bear_it() {
    let mut scene = scene();
    let [first, second, third] = [1, 2, 3].map(|number| scene.ticket(number));
    first.answer(rewards(1, "v1", 0));
    scene.generations.replace(generation(2, "v2"));
    second.answer(rewards(2, "v2", 0));
    // The one before may still have rollouts in the engine.
    third.answer(rewards(1, "v1", 0));
    for (number, version) in [(1, "v1"), (2, "v2"), (3, "v1")] {
        assert_eq!(scene.read(), Some(Ok((number, version.to_owned()))));
    }
    // A client that waits for nothing is told as well, and once.
    scene.generations.replace(generation(5, "v5"));
    scene.outbox.announce_latest().unwrap();
    scene.outbox.announce_latest().unwrap();
    scene.ticket(4).answer(rewards(5, "v5", 0));
    assert_eq!(scene.read(), Some(Ok((4, "v5".to_owned()))));
    assert_eq!(scene.read(), None);
}

#[test]
fn a_generation_that_was_replaced_before_it_was_announced_has_its_own_version() {
    let mut scene = scene();
    let [second, third] = [2, 3].map(|number| scene.ticket(number));
    scene.generations.replace(generation(3, "v3"));
    second.answer(rewards(2, "v2", 0));
    third.answer(rewards(3, "v3", 0));
    assert_eq!(scene.read(), Some(Ok((2, "v2".to_owned()))));
    assert_eq!(scene.read(), Some(Ok((3, "v3".to_owned()))));
}

/// The card goes in parts, as the client reads, and what bears its number goes behind it.
#[test]
fn a_card_larger_than_the_ring_comes_whole() {
    let mut scene = scene();
    let mut large = generation(2, "v2");
    let mut card = v1::ModelCard::decode(&*large.card).unwrap();
    card.name = "x".repeat(3 * MIN_RING_BYTES);
    large.card = card.encode_to_vec();
    scene.generations.replace(large);
    scene.ticket(1).answer(rewards(2, "v2", 0));
    assert!(!scene.outbox.admits().unwrap(), "the rest of the card needs the ring");
    let mut answer = None;
    for _ in 0..20 {
        answer = answer.or_else(|| scene.read());
        scene.outbox.flush().unwrap();
    }
    assert_eq!(answer, Some(Ok((1, "v2".to_owned()))));
    assert!(scene.outbox.admits().unwrap());
}

#[test]
fn a_rollout_that_is_withdrawn_is_answered_once() {
    let mut scene = scene();
    let ticket = scene.ticket(7);
    assert!(!scene.outbox.cancel(6), "nobody knows it");
    assert!(!ticket.withdrawn() && scene.outbox.cancel(7) && ticket.withdrawn());
    // The thread that finds it in the queue does this.
    drop(ticket);
    assert_eq!(scene.read(), Some(Err((7, code_to_wire(Code::Cancelled) as u32))));
    assert!(!scene.outbox.cancel(7), "it is answered");
    assert_eq!(scene.read(), None);
    // The number may be used again then, and not before.
    let again = scene.ticket(7);
    let broken = scene.outbox.ticket(7, &scene.interest).unwrap_err().to_string();
    assert!(broken.contains("bears the number of another"), "{broken}");
    assert_eq!(scene.read(), None);
    again.answer(rewards(1, "v1", 0));
    assert_eq!(scene.read(), Some(Ok((7, "v1".to_owned()))));
}

/// What found no room is not lost, and what nobody has read is known.
#[test]
fn answers_count_as_undelivered_until_the_client_has_read_them() {
    let mut scene = scene();
    let tickets: Vec<Ticket> = (0..6).map(|number| scene.ticket(number)).collect();
    assert!(!scene.outbox.is_finished_or_rings().unwrap(), "six are unanswered");
    for ticket in tickets {
        // Two of these fill the ring.
        ticket.answer(rewards(1, "v1", 60));
    }
    assert_eq!(scene.outbox.undelivered(), 6);
    for number in 0..6u64 {
        assert!(!scene.outbox.is_finished_or_rings().unwrap());
        assert_eq!(scene.read(), Some(Ok((number, "v1".to_owned()))));
        scene.outbox.flush().unwrap();
        assert_eq!(scene.outbox.undelivered(), 5 - number as usize);
    }
    assert!(scene.outbox.is_finished_or_rings().unwrap());
    // Nobody waits for what was withdrawn, even after it was answered, or for a refusal.
    scene.ticket(10).answer(rewards(1, "v1", 0));
    scene.ticket(11).answer(Err(Rejection::new(Code::Draining, "because")));
    scene.ticket(12).answer(Err(Rejection::new(Code::DeadlineExceeded, "because")));
    assert_eq!(scene.outbox.undelivered(), 2);
    scene.outbox.cancel(10);
    assert_eq!(scene.outbox.undelivered(), 1);
}
