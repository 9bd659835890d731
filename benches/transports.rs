//! One rollout of 2,048 token ids, there and back, by every transport, against a sidecar in a process of its own whose
//! engine is the echo; and as many of them at a time as each transport takes. `cargo bench --bench transports` prints
//! microseconds, rollouts and bytes of ids per second; `-- WORD` takes only the transports whose names have it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reward_sidecar::client::blocking::{Builder, Client};
use reward_sidecar::rollout::{Input, Rollout, Rollouts};

const TOKENS: u32 = 2048;
const LONE: usize = 20_000;
const TOGETHER: usize = 20_000;

/// A name, how to make a client, and how many of them.
type Row<'a> = (String, Box<dyn Fn() -> Builder + 'a>, usize);

fn main() {
    // Cargo itself passes `--bench`.
    let word = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{:<34} {:>9} {:>9} {:>9} {:>14} {:>8}", "", "p50 µs", "p99 µs", "worst µs", "rollouts/s", "GB/s");
    let folder = tempfile::tempdir().expect("a folder for sockets");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (spins, client_spin) in [("200", Duration::from_micros(200)), ("0", Duration::ZERO)] {
        let (uds, shm) = (path("grpc.sock"), path("lanes.sock"));
        let server = Server::start(&["--uds", &uds, "--shm", &shm, "--grpc", "127.0.0.1:0", "--shm-spin-us", spins]);
        let lane = || Client::builder(format!("shm://{shm}")).spin(client_spin);
        let state = if spins == "0" { "both sleep" } else { "both watch" };
        let mut rows: Vec<Row> = Vec::new();
        rows.push((format!("lane, {state}"), Box::new(lane), 1));
        rows.push((format!("64 lanes, {state}"), Box::new(lane), 64));
        if spins == "0" {
            let (uds, grpc) = (uds.clone(), server.grpc.clone());
            rows.push(("gRPC, Unix socket".into(), Box::new(move || Client::builder(format!("unix://{uds}"))), 1));
            rows.push(("gRPC, TCP".into(), Box::new(move || Client::builder(format!("grpc://{grpc}"))), 1));
        }
        for (name, client, clients) in rows.iter().filter(|(name, ..)| name.contains(&word)) {
            measure(name, client, *clients);
        }
    }
}

fn rollouts(n: usize) -> Arc<dyn Rollouts> {
    let rollout = |n: u32| {
        let ids = (0..TOKENS).map(|i| (i + n).wrapping_mul(2_654_435_761) >> 15).collect();
        Rollout { input: Some(Input::TokenIds(ids)), ..Rollout::default() }
    };
    Arc::new((0..n as u32).map(rollout).collect::<Vec<_>>())
}

fn measure(name: &str, client: &dyn Fn() -> Builder, clients: usize) {
    let connect = || client().connect().expect("a sidecar that listens");
    let client = connect();
    let alone = rollouts(1);
    let ask = || {
        let began = Instant::now();
        let outcomes = client.score_all(Arc::clone(&alone), &mut || true).expect("an answer");
        assert!(outcomes[0].is_ok(), "{outcomes:?}");
        began.elapsed()
    };
    (0..200).for_each(|_| {
        ask();
    });
    let mut times: Vec<Duration> = (0..LONE).map(|_| ask()).collect();
    times.sort_unstable();
    let at = |share: f64| times[((LONE - 1) as f64 * share) as usize].as_nanos() as f64 / 1e3;
    let (p50, p99, worst) = (at(0.5), at(0.99), at(1.0));

    let each = TOGETHER / clients;
    let batch = rollouts(each.min(1024));
    let others: Vec<Client> = (1..clients).map(|_| connect()).collect();
    let began = Instant::now();
    let asked = std::thread::scope(|scope| {
        let batch = &batch;
        let work = move |client: &Client| {
            let mut asked = 0;
            while asked < each {
                let outcomes = client.score_all(Arc::clone(batch), &mut || true).expect("answers");
                assert!(outcomes.iter().all(Result::is_ok));
                asked += outcomes.len();
            }
            asked
        };
        let threads: Vec<_> = others.iter().map(|client| scope.spawn(move || work(client))).collect();
        work(&client) + threads.into_iter().map(|thread| thread.join().expect("its own panic")).sum::<usize>()
    });
    let rate = asked as f64 / began.elapsed().as_secs_f64();
    let bytes = rate * f64::from(4 * TOKENS) / 1e9;
    println!("{name:<34} {p50:>9.1} {p99:>9.1} {worst:>9.1} {rate:>14.0} {bytes:>8.2}");
}

/// A sidecar that does not outlive its bench.
struct Server {
    process: Child,
    grpc: String,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
            .args(["serve", "--model", "echo", "--max-wait-ms", "0", "--admin", "127.0.0.1:0"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let log = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut grpc = String::new();
        let mut lines = log.lines().map_while(Result::ok);
        for line in lines.by_ref() {
            if let Some((_, address)) = line.split_once("grpc: listening on ")
                && grpc.is_empty()
            {
                grpc = address.to_owned();
            }
            if line.ends_with(": ready") {
                break;
            }
        }
        // Nobody reads on, and nothing more is said that would fill the pipe.
        std::thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
        Self { process, grpc }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
