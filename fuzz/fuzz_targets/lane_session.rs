//! A whole sidecar with an echo engine, and a client that does on its lane what the bytes say. It may lose its lane, and
//! nothing else may happen: the client beside it has every question answered, and right.
#![no_main]

#[path = "../../tests/lane_faults/raw.rs"]
#[allow(dead_code)]
mod raw;

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use reward_sidecar::client::blocking::Client;
use reward_sidecar::engine::EchoEngine;
use reward_sidecar::rollout::{Input, Rollout};
use reward_sidecar::shm::frame::{write_cancel, write_options, write_rollout};
use reward_sidecar::shm::layout::{Flag, VERSION};
use reward_sidecar::sidecar::{Config, Sidecar};

use self::raw::{Raw, hello};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const CONTEXT: u32 = 64;
const FLAGS: [Flag; 4] = [Flag::SidecarSleeps, Flag::ClientSleeps, Flag::RolloutRoom, Flag::RewardRoom];

struct Scene {
    socket: PathBuf,
    steady: Client,
    _folder: tempfile::TempDir,
    _sidecar: Sidecar,
    _runtime: tokio::runtime::Runtime,
}

static SCENE: OnceLock<Scene> = OnceLock::new();

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("lanes.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = Config {
            shm: Some(socket.clone()),
            shm_ring_bytes: 8192,
            stream_in_flight: 8,
            max_wait_ms: 0,
            ..Config::default()
        };
        let engine = Box::new(EchoEngine::new(CONTEXT));
        let sidecar = runtime.block_on(Sidecar::start(config, engine)).unwrap();
        let steady = Client::connect(format!("shm://{}", socket.display())).unwrap();
        Self { socket, steady, _folder: folder, _sidecar: sidecar, _runtime: runtime }
    }

    /// Asks beside whoever misbehaves.
    fn ask(&self, n: u32) {
        let ids: Vec<Vec<u32>> =
            (0..1 + n % 20).map(|i| (0..1 + (n + i) % CONTEXT).map(|id| id ^ n).collect()).collect();
        let rollouts: Vec<Rollout> = ids.iter().map(|ids| rollout(ids.clone())).collect();
        let until = Instant::now() + PATIENCE;
        let outcomes = self.steady.score_all(Arc::new(rollouts), &mut || Instant::now() < until).unwrap();
        assert_eq!(outcomes.len(), ids.len());
        for (ids, outcome) in ids.iter().zip(outcomes) {
            assert_eq!(outcome.unwrap().attributes, EchoEngine::expected(ids));
        }
    }
}

fn rollout(ids: Vec<u32>) -> Rollout {
    Rollout { input: Some(Input::TokenIds(ids)), ..Rollout::default() }
}

/// Reads what it is to do from the front of some bytes; zeros follow their end.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn bytes(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u64 {
        let mut word = [0; 8];
        let bytes = self.bytes(8);
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let scene = SCENE.get_or_init(Scene::new);
    let mut script = Script(bytes);
    let left = match script.byte() {
        0 => greet_badly(scene, &mut script),
        _ => misbehave(scene, &mut script),
    };
    // It may have been sent away while it was still talking.
    if let Err(error) = left {
        assert!(!matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "the sidecar hangs");
    }
    scene.ask(7);
});

/// Leaves, and waits until the sidecar has let go.
fn leave(mut socket: &UnixStream) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.shutdown(Shutdown::Write)?;
    socket.read_to_end(&mut Vec::new()).map(drop)
}

fn greet_badly(scene: &Scene, script: &mut Script) -> io::Result<()> {
    let mut socket = UnixStream::connect(&scene.socket)?;
    let good = hello(VERSION);
    while !script.0.is_empty() {
        let length = usize::from(script.byte());
        match length {
            0..32 => socket.write_all(script.bytes(length))?,
            32..64 => socket.write_all(&good[..length % 17])?,
            _ => scene.ask(length as u32),
        }
    }
    leave(&socket)
}

fn load(lane: &Raw, word: usize) -> u64 {
    lane.region.words()[word].load(Ordering::Relaxed)
}

fn misbehave(scene: &Scene, script: &mut Script) -> io::Result<()> {
    let Some(mut lane) = Raw::open(&scene.socket)? else { panic!("lanes are left over") };
    let (asked, answered) = (lane.sizes.rollouts(), lane.sizes.rewards());
    while !script.0.is_empty() {
        match script.byte() % 13 {
            0 => {
                let n = u32::from(script.byte());
                let rollout = rollout((0..n % 80).collect());
                // Some that passed long ago, and some that never will.
                let deadline = [None, Some(0), Some(u64::MAX)][n as usize % 3];
                // No room, or it has spoiled its own ring.
                let _ = write_rollout(&mut lane.rollouts, n.into(), u32::MAX - n / 200, deadline, &rollout.borrowed());
                lane.ring();
            }
            1 => {
                let (kind, words) = (u16::from(script.byte()) % 8, usize::from(script.byte()));
                if let Ok(Some(mut writer)) = lane.rollouts.begin(kind, words) {
                    (0..words).for_each(|_| writer.word(script.word()));
                    writer.publish();
                }
                lane.ring();
            }
            2 => {
                let (number, length) = (script.byte().into(), usize::from(script.byte()));
                let _ = write_options(&mut lane.rollouts, number, script.bytes(length));
                lane.ring();
            }
            3 => {
                let word = script.word() as usize % lane.sizes.words();
                if !FLAGS.iter().any(|flag| flag.word() == word) {
                    lane.scribble(word, script.word());
                }
            }
            4 => {
                let flag = FLAGS[usize::from(script.byte() % 4)];
                lane.scribble_flag(flag, script.word() as u32);
            }
            5 => {
                let (back, bit) = (u64::from(script.byte()), script.byte() % 64);
                let position = load(&lane, asked.tail).wrapping_sub(back);
                let word = asked.data + (position % asked.capacity as u64) as usize;
                lane.scribble(word, load(&lane, word) ^ 1 << bit);
            }
            6 => {
                let word = [asked.tail, asked.head, answered.tail, answered.head][usize::from(script.byte() % 4)];
                let by = i64::from(script.byte() as i8) as u64;
                lane.scribble(word, load(&lane, word).wrapping_add(by));
                lane.ring();
            }
            7 => {
                for _ in 0..script.byte() {
                    if !matches!(lane.rewards.next(), Ok(Some(_))) {
                        break;
                    }
                }
            }
            8 => lane.ring(),
            12 => {
                let _ = write_cancel(&mut lane.rollouts, script.byte().into());
                lane.ring();
            }
            9 => {
                let length = usize::from(script.byte());
                lane.socket.write_all(script.bytes(length))?;
            }
            _ => scene.ask(script.byte().into()),
        }
    }
    leave(&lane.socket)
}
