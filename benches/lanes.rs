//! What a rollout's way costs without a model: round trips and throughput through a lane and over gRPC, side by side in one
//! run, with what waking another thread costs on this machine. `cargo bench --bench lanes` prints a table;
//! `-- ROUNDS` sets the number of round trips.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reward_sidecar::client::blocking::Client;
use reward_sidecar::engine::EchoEngine;
use reward_sidecar::rollout::{Input, Rollout};
use reward_sidecar::shm::doorbell;
use reward_sidecar::shm::layout::Flag;
use reward_sidecar::shm::region::Region;
use reward_sidecar::sidecar::{Config, Sidecar};

/// Token ids of one rollout.
const IDS: usize = 2048;
/// Watching for ever.
const ALWAYS: Duration = Duration::from_secs(3600);

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    // Cargo itself passes `--bench`.
    let rounds = std::env::args().skip(1).find(|a| !a.starts_with('-')).map_or(Ok(3000), |a| a.parse())?;
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let _inside = runtime.enter();

    println!("| one rollout of {IDS} ids, there and back | p50 µs | p99 µs |\n|---|---|---|");
    print("two threads that wake each other by futex", wakes(rounds)?);
    for (sidecar_spins, client_spins) in [(true, true), (true, false), (false, false)] {
        let mut config = config(folder.path());
        config.shm_spin_us = if sidecar_spins { ALWAYS.as_micros() as u64 } else { 0 };
        let lane = format!("shm://{}", folder.path().join("lanes").display());
        let sidecar = runtime.block_on(Sidecar::start(config, Box::new(EchoEngine::new(1 << 20))))?;
        let client = Client::builder(&lane).spin(if client_spins { ALWAYS } else { Duration::ZERO }).connect()?;
        let word = |spins| if spins { "spins" } else { "sleeps" };
        print(
            &format!("lane; sidecar {}, client {}", word(sidecar_spins), word(client_spins)),
            round_trips(&client, rounds)?,
        );
        drop(client);
        if !sidecar_spins {
            let uds = Client::connect(format!("unix://{}", folder.path().join("uds").display()))?;
            print("gRPC on a Unix socket", round_trips(&uds, rounds)?);
            let tcp = Client::connect(format!("grpc://{}", sidecar.grpc_addr().ok_or("no address")?))?;
            print("gRPC on TCP", round_trips(&tcp, rounds)?);
            drop((uds, tcp));
            println!("\n| throughput, {IDS} ids each | rollouts/s | GB/s of ids |\n|---|---|---|");
            for lanes in [1, 64] {
                let clients = (0..lanes).map(|_| Client::connect(&*lane)).collect::<Result<Vec<_>, _>>()?;
                let per_second = throughput(&clients, rounds * 10)?;
                println!("| {lanes} lane(s) | {per_second:.0} | {:.2} |", per_second * (4 * IDS) as f64 / 1e9);
            }
            let uds = Client::connect(format!("unix://{}", folder.path().join("uds").display()))?;
            let per_second = throughput(&[uds], rounds)?;
            println!("| gRPC on a Unix socket | {per_second:.0} | {:.2} |", per_second * (4 * IDS) as f64 / 1e9);
        }
        runtime.block_on(sidecar.drain())?;
    }
    Ok(())
}

fn config(folder: &Path) -> Config {
    Config {
        grpc: Some(([127, 0, 0, 1], 0).into()),
        uds: Some(folder.join("uds")),
        shm: Some(folder.join("lanes")),
        max_wait_ms: 0,
        ..Config::default()
    }
}

fn rollout(n: usize) -> Vec<Rollout> {
    let ids = (0..IDS as u32).map(|i| i.wrapping_mul(31) + n as u32).collect();
    vec![Rollout { id: "a".into(), input: Some(Input::TokenIds(ids)), ..Rollout::default() }]
}

fn round_trips(client: &Client, rounds: usize) -> Result<Vec<Duration>, Error> {
    let mut times = Vec::with_capacity(rounds);
    for n in 0..rounds + 200 {
        let rollouts = Arc::new(rollout(n));
        let began = Instant::now();
        let outcomes = client.score_all(rollouts, &mut || true)?;
        let time = began.elapsed();
        outcomes.into_iter().next().ok_or("no answer")??;
        // The first ones touch memory and find out how fast the engine is.
        if n >= 200 {
            times.push(time);
        }
    }
    Ok(times)
}

fn throughput(clients: &[Client], rollouts: usize) -> Result<f64, Error> {
    let each = rollouts / clients.len();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(move || {
                    let rollouts = (0..each).flat_map(|n| rollout(n % 16)).collect::<Vec<_>>();
                    client.score_all(Arc::new(rollouts), &mut || true).map(|outcomes| outcomes.len())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a client's thread").map(drop))
    })?;
    Ok((each * clients.len()) as f64 / began.elapsed().as_secs_f64())
}

/// Two threads, each of which sleeps until the other rings.
fn wakes(rounds: usize) -> Result<Vec<Duration>, Error> {
    let region = Arc::new(Region::create(512)?.0);
    let turn = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let wait = |region: &Region, flag, turn: &std::sync::atomic::AtomicUsize, until: usize| {
        while turn.load(std::sync::atomic::Ordering::SeqCst) < until {
            doorbell::sleep(region, flag, ALWAYS, || turn.load(std::sync::atomic::Ordering::SeqCst) >= until);
        }
    };
    let ring = |region: &Region, flag, turn: &std::sync::atomic::AtomicUsize| {
        turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if doorbell::must_ring(region, flag) {
            region.wake(flag);
        }
    };
    let mut times = Vec::with_capacity(rounds);
    std::thread::scope(|scope| {
        let (there, theirs) = (Arc::clone(&region), Arc::clone(&turn));
        scope.spawn(move || {
            for n in 0..rounds {
                wait(&there, Flag::SidecarSleeps, &theirs, 2 * n + 1);
                ring(&there, Flag::ClientSleeps, &theirs);
            }
        });
        for n in 0..rounds {
            let began = Instant::now();
            ring(&region, Flag::SidecarSleeps, &turn);
            wait(&region, Flag::ClientSleeps, &turn, 2 * n + 2);
            times.push(began.elapsed());
        }
    });
    Ok(times)
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1e3;
    println!("| {what} | {:.1} | {:.1} |", at(0.5), at(0.99));
}
