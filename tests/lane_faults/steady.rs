//! Clients that behave: they ask without a pause, and count the answers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use reward_sidecar::client::blocking::Client;
use reward_sidecar::engine::EchoEngine;
use reward_sidecar::rollout::{Input, Rollout, Rollouts};

pub struct Steady {
    ended: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u64>>,
}

impl Steady {
    pub fn start(clients: usize, socket: &Path) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let clients = (0..clients as u32).map(|seed| {
            let (ended, address) = (Arc::clone(&ended), format!("shm://{}", socket.display()));
            std::thread::spawn(move || ask(&Client::connect(address).unwrap(), seed, &ended))
        });
        Self { clients: clients.collect(), ended }
    }

    /// Ends them; how many questions they have had answered.
    pub fn stop(self) -> u64 {
        self.ended.store(true, Ordering::SeqCst);
        self.clients.into_iter().map(|client| client.join().unwrap()).sum()
    }
}

fn ids(seed: u32, n: u32) -> Vec<u32> {
    (0..1 + n % 700).map(|i| i.wrapping_mul(2_654_435_761) ^ n ^ seed << 24).collect()
}

fn ask(client: &Client, seed: u32, ended: &AtomicBool) -> u64 {
    const TOGETHER: u32 = 64;
    let (mut next, mut answered) = (0, 0);
    while !ended.load(Ordering::SeqCst) {
        let rollout = |n| Rollout { input: Some(Input::TokenIds(ids(seed, n))), ..Rollout::default() };
        let rollouts: Arc<dyn Rollouts> = Arc::new((next..next + TOGETHER).map(rollout).collect::<Vec<_>>());
        let mut answers = client.answers();
        let mut open = BTreeSet::new();
        for index in 0..TOGETHER {
            let tag = u64::from(next + index);
            answers.submit(&rollouts, index as usize, tag, &mut || true).unwrap();
            open.insert(tag);
        }
        while let Some((tag, answer)) = answers.next(&mut || true).unwrap() {
            assert!(open.remove(&tag), "an answer to no open question");
            assert_eq!(answer.unwrap().unwrap().attributes, EchoEngine::expected(&ids(seed, tag as u32)));
            answered += 1;
        }
        assert!(open.is_empty(), "{} questions were never answered", open.len());
        next += TOGETHER;
    }
    answered
}
