//! The lives. Whatever goes wrong for such a client is its own business, as long as it is no hang: it ends by itself or is killed.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reward_sidecar::client::BackOff;
use reward_sidecar::client::blocking::Client;
use reward_sidecar::rollout::{Input, Rollout};
use reward_sidecar::shm::frame::{NO_OPTIONS, kind, write_cancel, write_options, write_rollout};
use reward_sidecar::shm::layout::{Flag, HEARTBEAT, SKIP, VERSION};

use super::raw::{Raw, hello};

type Life = fn(&Path, &mut Random) -> io::Result<()>;

const LIVES: [(&str, Life); 18] = [
    ("killed while asking", killed_while_asking),
    ("killed in its sleep", killed_in_its_sleep),
    ("killed while writing", killed_while_writing),
    ("killed in the handshake", killed_in_the_handshake),
    ("never greets", never_greets),
    ("another version", another_version),
    ("speaks HTTP", speaks_http),
    ("half a record", half_a_record),
    ("scribbled header", scribbled_header),
    ("scribbled positions", scribbled_positions),
    ("scribbles all over", scribbles_all_over),
    ("wrong frames", wrong_frames),
    ("never reads", never_reads),
    ("slow reader", slow_reader),
    ("talks on the line", talks_on_the_line),
    ("leaves with answers due", leaves_with_answers_due),
    ("withdraws anything", withdraws_anything),
    ("lies about time", lies_about_time),
];

pub const KINDS: [&str; LIVES.len()] = {
    let mut kinds = [""; LIVES.len()];
    let mut i = 0;
    while i < LIVES.len() {
        kinds[i] = LIVES[i].0;
        i += 1;
    }
    kinds
};

pub fn live(kind: &str, seed: u64, socket: &Path) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let life = LIVES.iter().find(|(name, _)| *name == kind).unwrap().1;
    // The sidecar may end a lane that breaks its rules while its client still talks.
    let _ = life(socket, &mut random);
}

/// See `tests/common`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn die() -> ! {
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
    unreachable!("nobody survives SIGKILL")
}

/// Dies at a random moment within some milliseconds, whatever this process is doing then.
fn die_soon(random: &mut Random) {
    let after = Duration::from_micros(random.below(4_000));
    std::thread::spawn(move || {
        std::thread::park_timeout(after);
        die()
    });
}

fn ids(n: u64) -> Rollout {
    let ids = (0..1 + n % 3_000).map(|i| (i * 31 + n) as u32).collect();
    Rollout { input: Some(Input::TokenIds(ids)), ..Rollout::default() }
}

fn client(socket: &Path) -> Client {
    let back_off = BackOff { budget: Duration::from_secs(2), ..BackOff::default() };
    Client::builder(format!("shm://{}", socket.display())).back_off(back_off).connect().unwrap()
}

fn open(socket: &Path) -> io::Result<Raw> {
    Raw::open(socket)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
}

/// Waits for the sidecar's end of the line, as one does whose lane is to be closed.
fn until_parted(mut raw: Raw) -> io::Result<()> {
    raw.ring();
    let mut word = String::new();
    raw.socket.read_to_string(&mut word)?;
    assert!(word.contains("rules"), "the sidecar parted without its reason: {word}");
    Ok(())
}

fn ask_for_ever(socket: &Path, together: u64) -> ! {
    let client = client(socket);
    for n in 0.. {
        let rollouts = (0..together).map(|i| ids(n * 7 + i * 13)).collect::<Vec<_>>();
        client.score_all(Arc::new(rollouts), &mut || true).unwrap();
    }
    unreachable!("u64 has no end")
}

fn killed_while_asking(socket: &Path, random: &mut Random) -> io::Result<()> {
    die_soon(random);
    ask_for_ever(socket, 1 + random.below(200))
}

fn killed_in_its_sleep(socket: &Path, random: &mut Random) -> io::Result<()> {
    die_soon(random);
    ask_for_ever(socket, 1)
}

fn killed_while_writing(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    die_soon(random);
    for n in 0.. {
        if write_rollout(&mut raw.rollouts, n, NO_OPTIONS, None, &ids(random.next()).borrowed()).is_ok_and(|sent| sent)
        {
            raw.ring();
        }
        while let Ok(Some(answer)) = raw.rewards.next() {
            drop(answer);
        }
    }
    Ok(())
}

fn killed_in_the_handshake(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(&hello(VERSION)[..random.below(17) as usize])?;
    die()
}

fn never_greets(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    if random.below(2) == 0 {
        stream.write_all(b"rw-")?;
    }
    if random.below(4) == 0 {
        die_soon(random);
    } else {
        return Ok(());
    }
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn another_version(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(&hello(VERSION + 1 + random.below(1000) as u32))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    assert!(String::from_utf8_lossy(&answer).contains("lane version"), "{answer:?}");
    Ok(())
}

fn speaks_http(socket: &Path, _: &mut Random) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn half_a_record(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    let words = 1 + random.below(500) as usize;
    let mut writer = raw.rollouts.begin(kind::ROLLOUT, words).unwrap().unwrap();
    for _ in 0..random.below(words as u64) {
        writer.word(random.next());
    }
    raw.ring();
    die()
}

/// A good record whose header is another by the time that it is read.
fn scribbled_header(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    let place = raw.sizes.rollouts();
    // Published by hand, so that the header is wrong from the beginning.
    let wrong = [
        (0, random.next() | 1 << 31),
        (0, 4 | u64::from(SKIP) << 32 | 1 << 60),
        (0, 4 | (5 + random.below(1000)) << 32),
        (1, 1 + random.next() % 1000),
    ];
    let (word, value) = wrong[random.below(4) as usize];
    let mut writer = raw.rollouts.begin(kind::ROLLOUT, 4).unwrap().unwrap();
    (0..4).for_each(|_| writer.word(0));
    raw.scribble(place.data + word, value);
    raw.scribble(place.tail, 6);
    until_parted(raw)
}

fn scribbled_positions(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    let (rollouts, rewards) = (raw.sizes.rollouts(), raw.sizes.rewards());
    match random.below(3) {
        0 => raw.scribble(rollouts.tail, u64::MAX - random.below(1 << 40)),
        1 => raw.scribble(rollouts.tail, rollouts.capacity as u64 + 1 + random.below(1 << 20)),
        _ => {
            raw.scribble(rewards.head, 1 + random.next() % (1 << 50));
            write_rollout(&mut raw.rollouts, 1, NO_OPTIONS, None, &ids(5).borrowed()).unwrap();
        }
    }
    until_parted(raw)
}

/// Every word it can reach, again and again.
fn scribbles_all_over(socket: &Path, random: &mut Random) -> io::Result<()> {
    let raw = open(socket)?;
    die_soon(random);
    let words = raw.sizes.words() as u64;
    let rollouts = raw.sizes.rollouts();
    let flags = [Flag::SidecarSleeps, Flag::ClientSleeps, Flag::RolloutRoom, Flag::RewardRoom];
    loop {
        match random.below(8) {
            0 => raw.scribble(rollouts.tail, random.below(3_000)),
            1 => raw.scribble_flag(flags[random.below(4) as usize], random.next() as u32),
            2 => raw.ring(),
            3 => raw.scribble(rollouts.data + random.below(64) as usize, random.below(9) | 2 << 32),
            4 => raw.scribble(rollouts.data + random.below(64) as usize, random.below(9)),
            _ => {
                let word = random.below(words) as usize;
                if !flags.iter().any(|flag| flag.word() == word) {
                    raw.scribble(word, random.next());
                }
            }
        }
    }
}

/// Records of the right form with the wrong content.
fn wrong_frames(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    match random.below(4) {
        0 => {
            // Options that nobody ever gave.
            write_rollout(&mut raw.rollouts, 1, random.below(300) as u32, None, &ids(5).borrowed()).unwrap();
        }
        1 => {
            write_options(&mut raw.rollouts, random.below(256) as u32, &random.next().to_ne_bytes()).unwrap();
            // By chance it may be an aggregation; this is none for certain.
            write_options(&mut raw.rollouts, 0, &[0xff; 16]).unwrap();
        }
        2 => {
            let words = random.below(40) as usize;
            let mut writer = raw.rollouts.begin(6 + random.below(60_000) as u16, words).unwrap().unwrap();
            (0..words).for_each(|_| writer.word(random.next()));
            writer.publish();
        }
        _ => {
            let mut writer = raw.rollouts.begin(kind::ROLLOUT, 7).unwrap().unwrap();
            // A text of more bytes than the record has.
            [7, 1, 0, u64::from(NO_OPTIONS), 0, 100 + random.next() % 1000, 0]
                .iter()
                .for_each(|&word| writer.word(word));
            writer.publish();
        }
    }
    until_parted(raw)
}

/// Asks until its ring is full, and stays.
fn never_reads(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    let mut number = 0;
    while write_rollout(&mut raw.rollouts, number, NO_OPTIONS, None, &ids(number).borrowed()).unwrap() {
        number += 1;
        if number % 64 == 0 {
            raw.ring();
        }
    }
    if random.below(2) == 0 {
        die();
    }
    Ok(())
}

fn slow_reader(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    if random.below(2) == 0 {
        die_soon(random);
    }
    for number in 0..40 {
        write_rollout(&mut raw.rollouts, number, NO_OPTIONS, None, &ids(number).borrowed()).unwrap();
    }
    raw.ring();
    let mut read = 0;
    while read < 20 {
        std::thread::park_timeout(Duration::from_micros(200));
        if let Some(answer) = raw.rewards.next().unwrap() {
            drop(answer);
            read += 1;
        }
    }
    Ok(())
}

fn talks_on_the_line(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    write_rollout(&mut raw.rollouts, 1, NO_OPTIONS, None, &ids(random.below(50)).borrowed()).unwrap();
    raw.socket.write_all(b"hello?")?;
    let mut word = String::new();
    raw.socket.read_to_string(&mut word)?;
    assert!(word.contains("carries nothing"), "{word}");
    Ok(())
}

fn leaves_with_answers_due(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    for number in 0..random.below(300) {
        write_rollout(&mut raw.rollouts, number, NO_OPTIONS, None, &ids(number).borrowed()).unwrap();
    }
    raw.ring();
    Ok(())
}

/// Rollouts that are in flight, answered, and unknown, some of them twice. It breaks no rule: every rollout is answered.
fn withdraws_anything(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    if random.below(2) == 0 {
        die_soon(random);
    }
    let (mut sent, mut answered) = (0, 0);
    while answered < 200 {
        if sent < 200 && write_rollout(&mut raw.rollouts, sent, NO_OPTIONS, None, &ids(sent).borrowed()).unwrap() {
            sent += 1;
        }
        write_cancel(&mut raw.rollouts, random.below(300)).unwrap();
        raw.ring();
        while let Some(answer) = raw.rewards.next().unwrap() {
            drop(answer);
            answered += 1;
        }
    }
    Ok(())
}

/// Deadlines that no clock shows, and a heartbeat that it writes itself: each rollout is answered, and nobody else notices.
fn lies_about_time(socket: &Path, random: &mut Random) -> io::Result<()> {
    let mut raw = open(socket)?;
    if random.below(2) == 0 {
        die_soon(random);
    }
    let (mut sent, mut answered) = (0, 0);
    while answered < 40 {
        let deadline = [0, 1, u64::MAX, u64::MAX / 2, random.next()][random.below(5) as usize];
        if sent < 40
            && write_rollout(&mut raw.rollouts, sent, NO_OPTIONS, Some(deadline), &ids(sent).borrowed()).unwrap()
        {
            sent += 1;
        }
        raw.scribble(HEARTBEAT, random.next());
        raw.ring();
        while let Some(answer) = raw.rewards.next().unwrap() {
            drop(answer);
            answered += 1;
        }
    }
    Ok(())
}
