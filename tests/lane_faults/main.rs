//! Clients that die, scribble, stall and lie, against a real sidecar; beside them clients that behave and count.
//!
//! `cargo test --test lane_faults` runs some hundred lives; `cargo test --release --test lane_faults -- --lives 10000` as many as you
//! like. A life is a process of its own, killed by SIGKILL at a random moment unless it leaves by itself. Counted before and after:
//! the sidecar's descriptors, threads, mappings, memory and open lanes. Every question of those who behave is answered once, and right.

#[cfg(target_os = "linux")]
mod life;
#[cfg(target_os = "linux")]
mod other_user;
#[cfg(target_os = "linux")]
mod raw;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod steady;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--life", kind, seed, socket] => life::live(kind, seed.parse().unwrap(), socket.as_ref()),
        ["--connect", socket] => other_user::connect(socket.as_ref()),
        ["--lives", lives] => run(lives.parse().unwrap()),
        // The test runner's own flags mean nothing here, but for a filter that names something else.
        _ => run(300),
    }
}

#[cfg(target_os = "linux")]
fn run(lives: u64) {
    use std::collections::BTreeMap;
    use std::time::Instant;

    /// Lives at a time.
    const AT_ONCE: usize = 6;
    /// Clients that behave.
    const STEADY: usize = 3;
    /// Deaths of the sidecar.
    const DEATHS: usize = 5;
    /// What one leaked lane costs at the very least: the pages of its memory that were touched.
    const LANE_BYTES: u64 = 3 * 4096;

    let mut server = server::Server::start();
    let steady = steady::Steady::start(STEADY, &server.socket);
    let mut counts: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    let live = |from: u64, to: u64, counts: &mut BTreeMap<&str, [u64; 2]>| {
        let mut running: Vec<(&str, std::process::Child)> = Vec::new();
        for seed in from..to {
            while running.len() >= AT_ONCE {
                end_one(&mut running, counts);
            }
            let kind = life::KINDS[seed as usize % life::KINDS.len()];
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--life", kind, &seed.to_string()])
                .arg(&server.socket)
                .spawn()
                .unwrap();
            running.push((kind, child));
        }
        while !running.is_empty() {
            end_one(&mut running, counts);
        }
    };

    // The first lives fill caches, pools and the allocator's arenas.
    let warm = (lives / 5).min(500);
    live(0, warm, &mut counts);
    let freed = server.wait_for_lanes(STEADY as u64);
    let before = server.footprint(STEADY);
    println!("after {warm} lives: {before:?}");
    let began = Instant::now();
    live(warm, lives, &mut counts);
    let took = began.elapsed();
    let freed = freed.max(server.wait_for_lanes(STEADY as u64));
    let after = server.footprint(STEADY);
    println!("after {lives} lives: {after:?}\n");

    println!("{:<24} {:>8} {:>8}", "kind of life", "killed", "left");
    for (kind, [killed, left]) in &counts {
        println!("{kind:<24} {killed:>8} {left:>8}");
    }
    let answered = steady.stop();
    let (accepted, metrics) = server.wait_until_all_is_answered();
    println!(
        "\n{lives} lives in {took:.1?} after warming up; the last one's lane was free {} ms later at most",
        freed.as_millis()
    );
    println!(
        "{answered} questions of {STEADY} clients that behave, each answered once and right; {accepted} accepted of all"
    );
    println!("{metrics}");

    assert_eq!(counts.values().flatten().sum::<u64>(), lives, "every life is counted");
    // Fewer there may be: a thread that had nothing to do has ended.
    assert!(after.descriptors <= before.descriptors && after.threads <= before.threads);
    assert_eq!(after.lane_mappings, before.lane_mappings);
    // One lane in ten leaked would be seen, and so would one byte in three of what each life sends; an allocator's moods would not.
    let lived = lives - warm;
    let most = before.resident + lived / 10 * LANE_BYTES + (16 << 20);
    assert!(after.resident < most, "{} bytes resident, {} before", after.resident, before.resident);
    // The other way round: the sidecar dies, again and again, and a client that behaves asks the next one.
    let steady = steady::Steady::start(STEADY, &server.socket);
    for _ in 0..DEATHS {
        server.kill_and_replace();
        let answered = steady.answered();
        while steady.answered() < answered + 1_000 {
            std::thread::yield_now();
        }
    }
    let answered = steady.stop();
    println!(
        "the sidecar was killed {DEATHS} times in the midst of {answered} questions, each answered once and right"
    );
    other_user::is_refused_at_once(&server.socket);
    server.stop();
}

/// Waits for one life to end, whichever is first in line.
#[cfg(target_os = "linux")]
fn end_one<'a>(
    running: &mut Vec<(&'a str, std::process::Child)>,
    counts: &mut std::collections::BTreeMap<&'a str, [u64; 2]>,
) {
    use std::os::unix::process::ExitStatusExt as _;
    let (kind, mut child) = running.remove(0);
    let status = child.wait().unwrap();
    let left = match (status.signal(), status.code()) {
        (Some(9), _) => 0,
        (_, Some(0)) => 1,
        _ => panic!("a life of kind {kind} ended with {status}: its own fault, or the sidecar's"),
    };
    counts.entry(kind).or_default()[left] += 1;
}
