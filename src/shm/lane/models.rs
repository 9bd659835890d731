//! What loom explores of two ends that sleep and wake: a ring that is lost leaves a thread asleep for ever, which it reports.
//!
//! Rings here hold one record at a time, so that every second one waits for room.

use super::*;
use crate::rollout::Rollout;
use crate::shm::frame::{CardAssembly, NO_OPTIONS, kind, read_options, read_rollout};
use crate::shm::layout::Place;

const LONG: Duration = Duration::from_secs(1);

/// As in the doorbell's models.
const PREEMPTIONS: usize = 3;

struct Sidecar {
    rollouts: RolloutReceiver,
    rewards: RewardSender,
    bell: SidecarBell,
}

struct Client {
    rollouts: RolloutSender,
    rewards: RewardReceiver,
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(check);
}

fn lane() -> (Client, Sidecar) {
    let region = Arc::new(Region::modelled(20));
    let asked = Place { tail: 0, head: 1, data: 4, capacity: 8 };
    let answered = Place { tail: 2, head: 3, data: 12, capacity: 8 };
    let bell = SidecarBell::default();
    let client = Client {
        rollouts: RolloutSender {
            producer: Producer::new(region.clone(), asked),
            region: region.clone(),
            bell: bell.clone(),
        },
        rewards: RewardReceiver { consumer: Consumer::new(region.clone(), answered), region: region.clone() },
    };
    let sidecar = Sidecar {
        rollouts: RolloutReceiver { consumer: Consumer::new(region.clone(), asked), region: region.clone() },
        rewards: RewardSender { producer: Producer::new(region.clone(), answered), region },
        bell,
    };
    (client, sidecar)
}

impl Sidecar {
    /// The number of the next rollout, slept for.
    fn asked(&mut self) -> u64 {
        self.next(|record| read_rollout(record).unwrap().number)
    }

    /// What the next record says, slept for.
    fn next<T>(&mut self, read: impl Fn(Record<'_>) -> T) -> T {
        loop {
            if let Some(read) = self.rollouts.next().unwrap().map(&read) {
                self.rollouts.made_room();
                return read;
            }
            self.sleep(|sidecar| sidecar.rollouts.is_waiting());
        }
    }

    /// Answers, once there is room, which is slept for.
    fn answer(&mut self, number: u64) {
        while !self.rewards.rejection(number, 1, "").unwrap() {
            self.rewards.want_room();
            self.sleep(|sidecar| sidecar.rewards.used().unwrap() == 0);
        }
    }

    fn sleep(&mut self, ready: impl FnOnce(&mut Self) -> bool) {
        self.rollouts.going_to_sleep();
        if !ready(self) {
            self.bell.wait();
        }
        self.rollouts.awake();
    }
}

/// Sends a rollout once there is room, which is slept for.
fn send(rollouts: &mut RolloutSender, bell: &ClientBell, number: u64) {
    let rollout = Rollout::default();
    while !rollouts.rollout(number, NO_OPTIONS, None, &rollout.borrowed()).unwrap() {
        rollouts.want_room();
        bell.sleep(LONG, || rollouts.has_room(RolloutSender::bytes_of(&rollout.borrowed())).unwrap());
    }
}

/// The number of the next answer, slept for.
fn answered(rewards: &mut RewardReceiver, sidecar: &SidecarBell) -> u64 {
    let bell = rewards.bell();
    loop {
        if let Some(Reply::Rejection { number, .. }) = rewards.next(|_| None).unwrap() {
            rewards.made_room(sidecar);
            return number;
        }
        bell.sleep(LONG, || rewards.is_waiting());
    }
}

#[test]
fn a_sidecar_sleeps_over_no_rollout_and_a_client_over_no_room() {
    model(|| {
        let (client, mut sidecar) = lane();
        let mut rollouts = client.rollouts;
        let bell = client.rewards.bell();
        let asking = loom::thread::spawn(move || (0..2).for_each(|number| send(&mut rollouts, &bell, number)));
        assert_eq!([sidecar.asked(), sidecar.asked()], [0, 1]);
        asking.join().unwrap();
    });
}

#[test]
fn a_client_sleeps_over_no_answer_and_a_sidecar_over_no_room() {
    model(|| {
        let (mut client, mut sidecar) = lane();
        let bell = client.rollouts.bell();
        let answering = loom::thread::spawn(move || (0..3).for_each(|number| sidecar.answer(number)));
        let mut next = || answered(&mut client.rewards, &bell);
        assert_eq!([next(), next(), next()], [0, 1, 2]);
        answering.join().unwrap();
    });
}

/// One thread asks, another reads: both sleep at the client's bell.
#[test]
fn two_threads_of_a_client_sleep_over_nothing() {
    model(|| {
        let (client, mut sidecar) = lane();
        let Client { mut rollouts, mut rewards } = client;
        let (bell, sidecars) = (rewards.bell(), rollouts.bell());
        send(&mut rollouts, &bell, 0);
        let asking = loom::thread::spawn(move || send(&mut rollouts, &bell, 1));
        let reading = loom::thread::spawn(move || answered(&mut rewards, &sidecars));
        assert_eq!(sidecar.asked(), 0);
        sidecar.answer(0);
        assert_eq!(reading.join().unwrap(), 0);
        asking.join().unwrap();
    });
}

/// The rollout that names them finds no room before they are read.
#[test]
fn a_sidecar_sleeps_over_no_options() {
    model(|| {
        let (client, mut sidecar) = lane();
        let mut rollouts = client.rollouts;
        let bell = client.rewards.bell();
        let asking = loom::thread::spawn(move || {
            assert!(rollouts.options(3, b"weights").unwrap());
            send(&mut rollouts, &bell, 0);
        });
        assert_eq!(sidecar.next(|record| read_options(record).unwrap().bytes), b"weights");
        assert_eq!(sidecar.asked(), 0);
        asking.join().unwrap();
    });
}

/// A withdrawal is read while no rollout may be: the sidecar looks at what comes next before it reads it.
#[test]
fn a_sidecar_that_looks_before_it_reads_sleeps_over_nothing() {
    model(|| {
        let (client, mut sidecar) = lane();
        let mut rollouts = client.rollouts;
        let bell = client.rewards.bell();
        let sending = loom::thread::spawn(move || {
            assert!(rollouts.cancel(7).unwrap());
            send(&mut rollouts, &bell, 1);
        });
        for expected in [kind::CANCEL, kind::ROLLOUT] {
            let found = loop {
                match sidecar.rollouts.peek().unwrap() {
                    Some(kind) => break kind,
                    None => sidecar.sleep(|sidecar| sidecar.rollouts.peek().unwrap().is_some()),
                }
            };
            assert_eq!(found, expected);
            // What was looked at is what is read.
            assert_eq!(sidecar.rollouts.next().unwrap().unwrap().kind(), expected);
            sidecar.rollouts.made_room();
        }
        sending.join().unwrap();
    });
}

/// A new generation comes in parts, before the first answer that bears it.
#[test]
fn a_client_sleeps_over_no_card() {
    model(|| {
        let (mut client, mut sidecar) = lane();
        let bell = client.rollouts.bell();
        let announcing = loom::thread::spawn(move || {
            for part in [&b"first 8 "[..], b"others"] {
                while !sidecar.rewards.card(2, 14, part).unwrap() {
                    sidecar.rewards.want_room();
                    sidecar.sleep(|sidecar| sidecar.rewards.used().unwrap() == 0);
                }
            }
        });
        let mut assembly = CardAssembly::after(1);
        let sleeping = client.rewards.bell();
        let announced = loop {
            match client.rewards.next(|_| None).unwrap() {
                Some(Reply::Card(part)) => {
                    client.rewards.made_room(&bell);
                    if let Some(announced) = assembly.add(part).unwrap() {
                        break announced;
                    }
                }
                Some(other) => panic!("{other:?}"),
                None => sleeping.sleep(LONG, || client.rewards.is_waiting()),
            }
        };
        assert_eq!(announced, (2, b"first 8 others".to_vec()));
        announcing.join().unwrap();
    });
}
