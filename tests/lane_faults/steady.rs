//! Clients that behave: they ask without a pause, and count the answers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use reward_sidecar::client::blocking::Client;
use reward_sidecar::engine::EchoEngine;
use reward_sidecar::rollout::{Input, Rollout, Rollouts};

pub struct Steady {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    answered: AtomicU64,
}

impl Steady {
    pub fn start(clients: usize, socket: &Path) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = (0..clients as u32).map(|seed| {
            let (shared, address) = (Arc::clone(&shared), format!("shm://{}", socket.display()));
            std::thread::spawn(move || ask(&Client::connect(address).unwrap(), seed, &shared))
        });
        Self { clients: clients.collect(), shared }
    }

    /// Ends them; how many questions they have had answered.
    pub fn stop(self) -> u64 {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// Questions answered so far.
    pub fn answered(&self) -> u64 {
        assert!(self.clients.iter().all(|client| !client.is_finished()), "a client that behaves has ended");
        self.shared.answered.load(Ordering::SeqCst)
    }
}

/// The one after it is beyond the engine's vocabulary.
const LAST_ID: u32 = u32::MAX - 1;

fn ids(seed: u32, n: u32) -> Vec<u32> {
    (0..1 + n % 700).map(|i| (i.wrapping_mul(2_654_435_761) ^ n ^ seed << 24).min(LAST_ID)).collect()
}

fn ask(client: &Client, seed: u32, shared: &Shared) {
    const TOGETHER: u32 = 64;
    let mut next = 0;
    while !shared.ended.load(Ordering::SeqCst) {
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
            shared.answered.fetch_add(1, Ordering::SeqCst);
        }
        assert!(open.is_empty(), "{} questions were never answered", open.len());
        next += TOGETHER;
    }
}
