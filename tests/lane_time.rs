//! Time and death on lanes: servers that are stopped, deadlines, outages, drains with clients that pause, withdrawals.
//!
//! What a test waits for is a condition; a wait that takes as long as `PATIENCE` has failed.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::*;
use reward_sidecar::client::BackOff;
use reward_sidecar::client::blocking::{Answers, Builder, Client};
use reward_sidecar::engine::{EchoEngine, ReadAt, ReadPolicy, Reduce, TextAssets};
use reward_sidecar::reward::{Code, Outcome};
use reward_sidecar::rollout::{Input, Rollout, Rollouts};
use reward_sidecar::shm::clock;
use reward_sidecar::shm::frame::{NO_OPTIONS, Reply};
use reward_sidecar::shm::handshake::{self, HandshakeError};
use reward_sidecar::shm::lane::ClientEnd;
use reward_sidecar::sidecar::{Config, DrainTimeout, Sidecar};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);

fn lanes() -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    let shm = Some(folder.path().join("lanes.sock"));
    (folder, Config { shm, max_wait_ms: 0, known_answer_ms: 0, ..Config::default() })
}

fn builder(socket: &Path) -> Builder {
    let (initial, max) = (Duration::from_millis(1), Duration::from_millis(20));
    Client::builder(format!("shm://{}", socket.display())).back_off(BackOff { initial, max, budget: PATIENCE })
}

fn ids(n: u32) -> Rollout {
    Rollout { input: Some(Input::TokenIds(vec![n, 7])), ..Rollout::default() }
}

fn rollouts(range: std::ops::Range<u32>) -> Vec<Rollout> {
    range.map(ids).collect()
}

/// Goes on for as long as a test may take.
fn patience() -> impl FnMut() -> bool {
    let until = Instant::now() + PATIENCE;
    move || Instant::now() < until
}

fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < until, "{what}: not in time");
        std::thread::yield_now();
    }
}

fn check(rollouts: &[Rollout], outcomes: &[Outcome]) {
    assert_eq!(rollouts.len(), outcomes.len());
    for (rollout, outcome) in rollouts.iter().zip(outcomes) {
        let Some(Input::TokenIds(ids)) = &rollout.input else { panic!("no ids") };
        assert_eq!(outcome.as_ref().unwrap().attributes, EchoEngine::expected(ids));
    }
}

/// The real binary with an echo engine, which does not outlive its test.
struct Server(Child);

impl Server {
    fn start(socket: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
            .args(["serve", "--model", "echo", "--grpc", "off", "--admin", "off", "--log", "info", "--shm"])
            .arg(socket)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains(" ready") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the sidecar ended");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Returns once no thread of it runs any more.
    fn stop(&self) {
        self.signal(Signal::STOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.0.id()));
        let stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        };
        wait_until("every thread stopped", || std::fs::read_dir(&tasks).unwrap().all(stopped));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// However long the server hangs: the heartbeat may stand still for longer than this test lasts.
#[test]
fn a_stopped_server_keeps_no_client_beyond_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("lanes.sock");
    let server = Server::start(&socket);
    let client = builder(&socket).heartbeat_timeout(2 * PATIENCE).in_flight_limit(2).connect().unwrap();
    check(&rollouts(0..4), &client.score_all(Arc::new(rollouts(0..4)), &mut patience()).unwrap());
    server.stop();
    // More than may be in flight, and more than once: their places are free again, although nobody answered.
    for _ in 0..2 {
        let late: Vec<Rollout> = (0..5).map(|n| Rollout { deadline_ms: Some(200), ..ids(n) }).collect();
        let began = Instant::now();
        let outcomes = client.score_all(Arc::new(late), &mut patience()).unwrap();
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(200), "{took:?}");
        assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap_err().code == Code::DeadlineExceeded));
        println!("5 rollouts with deadline_ms = 200, two in flight, a stopped server: all were told after {took:?}");
    }
    server.signal(Signal::CONT);
    // Its late answers are nobody's; these are.
    check(&rollouts(10..50), &client.score_all(Arc::new(rollouts(10..50)), &mut patience()).unwrap());
}

#[test]
fn a_server_without_a_heartbeat_is_left_and_another_asked() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("lanes.sock");
    let hanging = Server::start(&socket);
    // The default would do as well, and takes longer.
    let client = builder(&socket).heartbeat_timeout(Duration::ZERO).connect().unwrap();
    hanging.stop();
    let mut answers = client.answers();
    let asked: Arc<dyn Rollouts> = Arc::new(rollouts(0..20));
    for index in 0..20 {
        answers.submit(&asked, index, index as u64, &mut patience()).unwrap();
    }
    std::fs::remove_file(&socket).unwrap();
    let _living = Server::start(&socket);
    let mut outcomes = vec![None; 20];
    while let Some((tag, answer)) = answers.next(&mut patience()).unwrap() {
        outcomes[tag as usize] = Some(answer.unwrap());
    }
    check(&rollouts(0..20), &outcomes.into_iter().map(Option::unwrap).collect::<Vec<_>>());
}

/// A sidecar that runs beats, whether its clients have anything to say or not.
#[test]
fn an_idle_lane_is_not_left() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("lanes.sock");
    let _server = Server::start(&socket);
    let mut lane = handshake::connect(&socket, PATIENCE).unwrap().end;
    let mut longest = Duration::ZERO;
    let began = Instant::now();
    wait_until("three beats", || {
        longest = longest.max(lane.heartbeat.still_for(Instant::now()));
        began.elapsed() > Duration::from_millis(3_500)
    });
    // Twice what is promised, for a machine that is short of cores.
    assert!(longest < 2 * reward_sidecar::shm::heartbeat::LONGEST_PAUSE, "{longest:?}");
}

/// The time that a rollout spends in the ring, where the sidecar does not read it, counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_counts_from_the_submission() {
    let (_folder, config) = lanes();
    let config = Config { stream_in_flight: 1, ..config };
    let (sidecar, gate) = gated(config.clone()).await;
    let ClientEnd { mut rollouts, mut rewards, line, .. } =
        handshake::connect(config.shm.as_deref().unwrap(), PATIENCE).unwrap().end;
    assert!(rollouts.rollout(0, NO_OPTIONS, None, &ids(1).borrowed()).unwrap());
    wait_until("the first is in the engine", || gate.reached.load(Ordering::SeqCst) == 1);
    let deadline = clock::after_ms(50);
    assert!(rollouts.rollout(1, NO_OPTIONS, Some(deadline), &ids(2).borrowed()).unwrap());
    assert!(rollouts.rollout(2, NO_OPTIONS, Some(clock::after_ms(86_000_000)), &ids(3).borrowed()).unwrap());
    // One is unanswered, so no other is read before the gate opens.
    wait_until("the deadline has passed", || clock::until(deadline).is_zero());
    gate.open();
    let (bell, sidecars) = (rewards.bell(), rollouts.bell());
    let mut codes = Vec::new();
    while codes.len() < 3 {
        match rewards.next(|_| Some("v".into())).unwrap() {
            Some(Reply::Rewards { number, .. }) => codes.push((number, None)),
            Some(Reply::Rejection { number, message, .. }) => codes.push((number, Some(message))),
            Some(other) => panic!("{other:?}"),
            None => bell.sleep(Duration::from_millis(50), || rewards.is_waiting()),
        }
        rewards.made_room(&sidecars);
        assert_eq!(line.closed(), None);
    }
    assert_eq!((&codes[0], &codes[2]), (&(0, None), &(2, None)));
    assert!(codes[1].1.as_deref().unwrap().contains("before the sidecar read"), "{codes:?}");
    sidecar.drain().await.unwrap();
}

/// A rollout that waits in the queue of a sidecar that lives has not been lost, however often sidecars come and go before.
#[test]
fn two_outages_kill_no_rollout() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (_folder, config) = lanes();
    let budget = Duration::from_secs(2);
    let (initial, max) = (Duration::from_millis(1), Duration::from_millis(20));
    let (first, first_gate) = runtime.block_on(gated(config.clone()));
    let client = builder(config.shm.as_deref().unwrap()).back_off(BackOff { initial, max, budget }).connect().unwrap();
    let asking = std::thread::spawn(move || client.score_all(Arc::new(rollouts(0..40)), &mut patience()).unwrap());
    wait_until("they are asked", || first_gate.reached.load(Ordering::SeqCst) > 0);
    let went = Instant::now();
    drop(first);
    let (second, second_gate) = runtime.block_on(gated(config.clone()));
    wait_until("they are asked again", || second_gate.reached.load(Ordering::SeqCst) > 0);
    // In its queue for longer than a rollout may be lost.
    wait_until("the budget is over", || went.elapsed() > budget + Duration::from_millis(200));
    drop(second);
    let third = runtime.block_on(echo(config));
    check(&rollouts(0..40), &asking.join().unwrap());
    first_gate.open();
    second_gate.open();
    runtime.block_on(third.drain()).unwrap();
}

/// Answers with so many reads that a few fill the reward ring: the others wait in the sidecar.
const STEP: u32 = 9;

fn many_steps(n: u32) -> Rollout {
    let ids = (0..60).map(|i| if i % 2 == 1 { STEP } else { 10 + n }).collect();
    Rollout { input: Some(Input::TokenIds(ids)), ..Rollout::default() }
}

async fn of_steps(config: Config) -> Sidecar {
    let at = ReadAt::EveryToken { token: STEP, reduce: Reduce::Min };
    let engine = EchoEngine::new(CONTEXT).taking(TextAssets::default(), ReadPolicy { at, ..ReadPolicy::default() });
    Sidecar::start(config, Box::new(engine)).await.unwrap()
}

/// Sends what `n` answers are due for, and reads none of them. Returns once all are answered.
fn pause(sidecar: &Sidecar, config: &Config, n: u32) -> ClientEnd {
    let mut lane = handshake::connect(config.shm.as_deref().unwrap(), PATIENCE).unwrap().end;
    for number in 0..n {
        let sent = || lane.rollouts.rollout(number.into(), NO_OPTIONS, None, &many_steps(number).borrowed()).unwrap();
        wait_until("room", sent);
    }
    wait_until("all are read", || lane.rollouts.has_room(lane.rollouts.most_bytes()).unwrap());
    wait_until("all are answered", || sidecar.unanswered() == 0);
    lane
}

/// A client that pauses while the sidecar drains gets everything, what had overflowed its ring included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_client_gets_its_answers_from_a_draining_sidecar() {
    const ROLLOUTS: u32 = 6;
    let (_folder, config) = lanes();
    // Its reward ring holds fewer answers of this kind.
    let config = Config { stream_in_flight: 8, ..config };
    let sidecar = of_steps(config.clone()).await;
    let mut lane = pause(&sidecar, &config, ROLLOUTS);
    let draining = tokio::spawn(sidecar.drain());
    let path = config.shm.clone().unwrap();
    wait_until("it drains", || matches!(handshake::connect(&path, PATIENCE), Err(HandshakeError::Refused { .. })));
    // Longer than connections have to close once everything is answered.
    let began = Instant::now();
    wait_until("a pause", || began.elapsed() > Duration::from_millis(2_500));
    assert!(!draining.is_finished() && lane.line.closed().is_none());
    let mut read = BTreeSet::new();
    wait_until("all are read", || {
        while let Some(reply) = lane.rewards.next(|_| Some("v".into())).unwrap() {
            let Reply::Rewards { number, rewards } = reply else { panic!("{reply:?}") };
            assert!(rewards.reads.len() == 30 && read.insert(number));
        }
        lane.rewards.made_room(&lane.rollouts.bell());
        read.len() == ROLLOUTS as usize
    });
    draining.await.unwrap().unwrap();
    assert_eq!(lane.line.closed().as_deref(), Some("the sidecar is shutting down"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_counted_when_the_drain_ends() {
    let (_folder, config) = lanes();
    let config = Config { stream_in_flight: 8, drain_ms: 100, ..config };
    let sidecar = of_steps(config.clone()).await;
    let mut lane = pause(&sidecar, &config, 6);
    // One of them is read, and one withdrawn.
    assert!(lane.rewards.next(|_| Some("v".into())).unwrap().is_some());
    assert!(lane.rollouts.cancel(5).unwrap());
    wait_until("it is read", || lane.rollouts.has_room(lane.rollouts.most_bytes()).unwrap());
    let DrainTimeout { unanswered, unread, .. } = sidecar.drain().await.unwrap_err();
    assert_eq!((unanswered, unread), (0, 4));
}

/// One that left with everything read keeps nobody, and neither does one that waits for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_no_idle_client() {
    let (_folder, config) = lanes();
    let config = Config { drain_ms: PATIENCE.as_millis() as u64, ..config };
    let sidecar = echo(config.clone()).await;
    let socket = config.shm.clone().unwrap();
    let client = tokio::task::spawn_blocking(move || {
        let client = builder(&socket).connect().unwrap();
        check(&rollouts(0..20), &client.score_all(Arc::new(rollouts(0..20)), &mut patience()).unwrap());
        client
    });
    let client = client.await.unwrap();
    tokio::time::timeout(PATIENCE / 2, sidecar.drain()).await.unwrap().unwrap();
    drop(client);
}

fn submitted(answers: &mut Answers, range: std::ops::Range<u32>) {
    let asked: Arc<dyn Rollouts> = Arc::new(rollouts(range.clone()));
    for (index, tag) in range.enumerate() {
        answers.submit(&asked, index, tag.into(), &mut patience()).unwrap();
    }
}

/// Dropped or interrupted calls, and single rollouts: the sidecar scores nothing that nobody waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_is_withdrawn() {
    let (_folder, config) = lanes();
    let (sidecar, gate) = gated(Config { max_batch_rollouts: 1, ..config.clone() }).await;
    let socket = config.shm.clone().unwrap();
    let client = tokio::task::spawn_blocking(move || builder(&socket).connect().unwrap()).await.unwrap();
    let mut kept = client.answers();
    submitted(&mut kept, 0..1);
    wait_until("the engine is busy", || gate.reached.load(Ordering::SeqCst) == 1);

    // The first of these lies ready for the engine, where nothing is taken back.
    submitted(&mut kept, 1..5);
    wait_until("they are in the queue", || sidecar.unanswered() == 5);
    let mut dropped = client.answers();
    submitted(&mut dropped, 100..110);
    wait_until("all are in the queue", || sidecar.unanswered() == 15);
    drop(dropped);
    wait_until("ten are withdrawn", || sidecar.unanswered() == 5);

    // A call that is interrupted.
    let interrupted = std::thread::spawn({
        let client = client.clone();
        let mut looks = 0;
        move || {
            client.score_all(Arc::new(rollouts(200..220)), &mut || {
                looks += 1;
                looks < 3
            })
        }
    });
    assert!(interrupted.join().unwrap().is_err());
    wait_until("its rollouts are withdrawn", || sidecar.unanswered() == 5);

    kept.submitter().cancel(2..=3);
    wait_until("two more are", || sidecar.unanswered() == 3);
    gate.open();
    let mut codes = Vec::new();
    while let Some((tag, answer)) = kept.next(&mut patience()).unwrap() {
        codes.push((tag, answer.unwrap().err().map(|rejection| rejection.code)));
    }
    codes.sort_unstable_by_key(|(tag, _)| *tag);
    let cancelled = Some(Code::Cancelled);
    assert_eq!(codes, [(0, None), (1, None), (2, cancelled), (3, cancelled), (4, None)]);
    // What was discarded has given its place back.
    let all = rollouts(300..1400);
    check(&all, &client.score_all(Arc::new(all.clone()), &mut patience()).unwrap());
    assert_eq!(gate.reached.load(Ordering::SeqCst), 3 + 1100, "what was withdrawn reached the engine");
    sidecar.drain().await.unwrap();
}

/// Withdrawals are read while no rollout may be, and what waits at the sidecar's door is given up there and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawal_overtakes_what_may_not_be_read() {
    let (_folder, config) = lanes();
    // One in the engine, one ready for it, one in the queue; those behind them have to wait for room.
    let config = Config { max_batch_rollouts: 1, queue_rollouts: 1, tokenizer_threads: 1, ..config };
    let (sidecar, gate) = gated(config.clone()).await;
    let ClientEnd { mut rollouts, mut rewards, line: _line, .. } =
        handshake::connect(config.shm.as_deref().unwrap(), PATIENCE).unwrap().end;
    assert!(rollouts.rollout(0, NO_OPTIONS, None, &ids(0).borrowed()).unwrap());
    wait_until("the engine is busy", || gate.reached.load(Ordering::SeqCst) == 1);
    // The last two wait in intake, where a lane may have no more.
    for number in 1..5 {
        assert!(rollouts.rollout(number, NO_OPTIONS, None, &ids(number as u32).borrowed()).unwrap());
    }
    wait_until("the queue is full", || sidecar.unanswered() >= 2);
    for number in [3, 4] {
        assert!(rollouts.cancel(number).unwrap());
    }
    let (mut scored, mut withdrawn) = (BTreeSet::new(), BTreeSet::new());
    let mut read = |until: &dyn Fn(&BTreeSet<u64>, &BTreeSet<u64>) -> bool| {
        wait_until("answers", || {
            while let Some(reply) = rewards.next(|_| Some("v".into())).unwrap() {
                match reply {
                    Reply::Rewards { number, .. } => assert!(scored.insert(number), "{number} twice"),
                    Reply::Rejection { number, message, .. } => {
                        assert!(message.contains("left") || message.contains("withdr"), "{message}");
                        assert!(withdrawn.insert(number), "{number} twice");
                    }
                    Reply::Card(_) => panic!("there is one model"),
                }
            }
            until(&scored, &withdrawn)
        });
    };
    // Before the engine has done anything.
    read(&|scored, withdrawn| scored.is_empty() && *withdrawn == BTreeSet::from([3, 4]));
    gate.open();
    read(&|scored, _| *scored == BTreeSet::from([0, 1, 2]));
    sidecar.drain().await.unwrap();
}
