//! Both ends in one process, over a real socket and a real memory file.

use std::os::unix::net::UnixListener;
use std::thread;

use super::*;
use crate::rollout::{Input, Rollout};
use crate::shm::frame::{NO_OPTIONS, kind, read_rollout};
use crate::shm::handshake::{self, Card, HandshakeError, Hello, Peer, Status};
use crate::shm::layout::VERSION;

const SIZES: Sizes = Sizes { card_bytes: 5, rollout_bytes: 1 << 14, reward_bytes: 1 << 12 };
/// Of an answer with one attribute and one read.
const REPLY_WORDS: usize = HEADER + 7;
const LONG: Duration = Duration::from_secs(30);

/// A listening socket, and what its owner does with one connection after a good greeting.
fn sidecar<T: Send + 'static>(
    answer: impl FnOnce(UnixStream, Result<(), String>) -> T + Send + 'static,
) -> (tempfile::TempDir, std::path::PathBuf, thread::JoinHandle<T>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lane.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut hello = Hello::default();
        let heard = loop {
            if let Some(heard) = hello.read(&socket).unwrap() {
                break heard;
            }
        };
        socket.set_nonblocking(true).unwrap();
        answer(socket, heard)
    });
    (folder, path, thread)
}

fn ids(ids: &[u32]) -> Rollout {
    Rollout { id: "a".into(), input: Some(Input::TokenIds(ids.to_vec())), ..Rollout::default() }
}

/// Answers each rollout with its number of tokens until the client leaves.
fn echo(mut end: SidecarEnd) {
    let mut asked = std::collections::VecDeque::new();
    loop {
        while let Some(record) = end.rollouts.next().unwrap() {
            assert_eq!(record.kind(), kind::ROLLOUT);
            asked.push_back(read_rollout(record).unwrap());
        }
        end.rollouts.made_room();
        while let Some(next) = asked.front() {
            let Some(Input::TokenIds(ids)) = &next.rollout.as_ref().unwrap().input else { panic!("no ids") };
            let rewards = Rewards {
                reward: ids.len() as f32,
                attributes: vec![next.number as f32],
                tokens: ids.len() as u32,
                truncated: false,
                model_version: "".into(),
                generation: 5,
                queue_ns: 1,
                forward_ns: 2,
                reads: vec![],
                thinking: None,
            };
            if !end.rewards.rewards(next.number, &rewards).unwrap() {
                break;
            }
            asked.pop_front();
        }
        end.rollouts.going_to_sleep();
        end.rewards.want_room();
        let has_room = end.rewards.used().unwrap() + REPLY_WORDS <= end.rewards.capacity();
        if end.rollouts.is_waiting() || (has_room && !asked.is_empty()) {
            continue;
        }
        // The bell counts; here it is read, since its other holder is this process.
        let mut wanted =
            [PollFd::from_borrowed_fd(end.line.bell(), PollFlags::IN), PollFd::new(&end.line.socket, PollFlags::IN)];
        poll(&mut wanted, None).unwrap();
        if !wanted[1].revents().is_empty() {
            assert_eq!(asked.len(), 0);
            return;
        }
        rustix::io::read(end.line.bell(), &mut [0; 8]).unwrap();
    }
}

#[test]
fn rollouts_go_and_rewards_come_while_both_sleep_and_wake() {
    let (_folder, path, thread) = sidecar(|socket, heard| {
        heard.unwrap();
        echo(handshake::open(socket, Card { generation: 5, bytes: b"card!" }, SIZES, 77).unwrap());
    });
    let opened = handshake::connect(&path, LONG).unwrap();
    assert_eq!((opened.card.as_slice(), opened.generation, opened.in_flight_limit), (&b"card!"[..], 5, 77));
    let ClientEnd { mut rollouts, mut rewards, line, .. } = opened.end;
    let (bell, sidecar) = (rewards.bell(), rollouts.bell());
    const ROLLOUTS: u64 = 2_000;
    let rollout = |number: u64| ids(&vec![7; (number % 300) as usize]);
    let (mut sent, mut answered) = (0, 0);
    while answered < ROLLOUTS {
        while sent < ROLLOUTS && rollouts.rollout(sent, NO_OPTIONS, None, &rollout(sent).borrowed()).unwrap() {
            sent += 1;
        }
        let mut heard = false;
        while let Some(reply) = rewards.next(|_| Some("v".into())).unwrap() {
            let Reply::Rewards { number, rewards } = reply else { panic!("{reply:?}") };
            assert_eq!(
                (number, rewards.tokens, rewards.attributes),
                (answered, (answered % 300) as u32, vec![answered as f32])
            );
            answered += 1;
            heard = true;
        }
        if heard {
            rewards.made_room(&sidecar);
        } else if answered < ROLLOUTS {
            rollouts.want_room();
            let bytes = RolloutSender::bytes_of(&rollout(sent).borrowed());
            bell.sleep(LONG, || rewards.is_waiting() || (sent < ROLLOUTS && rollouts.has_room(bytes).unwrap()));
        }
    }
    assert_eq!(line.closed(), None);
    drop((rollouts, rewards, line));
    thread.join().unwrap();
}

#[test]
fn a_lane_that_is_closed_is_noticed_and_may_say_why() {
    let (_folder, path, thread) = sidecar(|socket, _| {
        let end = handshake::open(socket, Card { generation: 1, bytes: b"" }, SIZES, 1).unwrap();
        end.line.say_why("the lane broke its rules: a test");
    });
    let opened = handshake::connect(&path, LONG).unwrap();
    thread.join().unwrap();
    assert_eq!(opened.end.line.closed().as_deref(), Some("the lane broke its rules: a test"));
}

#[test]
fn a_refused_client_hears_why() {
    for (status, expected) in [(Status::Full, true), (Status::Version, false)] {
        let (_folder, path, thread) = sidecar(move |socket, _| handshake::refuse(&socket, status, "because"));
        let refused = handshake::connect(&path, LONG).unwrap_err();
        thread.join().unwrap();
        assert!(
            matches!(&refused, HandshakeError::Refused { transient, reason } if *transient == expected && reason == "because"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_client_refused_before_the_greeting_hears_why() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    handshake::refuse(&theirs, Status::Full, "because");
    drop(theirs);
    let refused = handshake::greet(ours, "somewhere".as_ref(), LONG).unwrap_err();
    assert!(
        matches!(&refused, HandshakeError::Refused { transient: true, reason } if reason == "because"),
        "{refused:?}"
    );
}

#[test]
fn another_version_is_refused_by_either_end() {
    let greet = |bytes: &[u8]| {
        let (_folder, path, thread) = sidecar(|_, heard| heard);
        let mut socket = UnixStream::connect(&path).unwrap();
        socket.write_all(bytes).unwrap();
        thread.join().unwrap()
    };
    let hello =
        |magic: &[u8; 8], version: u32, last: u32| [&magic[..], &version.to_ne_bytes(), &last.to_ne_bytes()].concat();
    assert_eq!(greet(&hello(b"rw-lane\n", VERSION, 0)), Ok(()));
    assert!(greet(&hello(b"rw-lane\n", VERSION + 1, 0)).unwrap_err().contains("lane version 5, this sidecar 4"));
    let older = greet(&hello(b"rw-lane\n", VERSION - 1, 0)).unwrap_err();
    assert!(older.contains("lane version 3, this sidecar 4; install the same release of both"), "{older}");
    assert!(greet(&hello(b"rw-lane\n", VERSION, 1)).unwrap_err().contains("does not know"));
    assert!(greet(b"PRI * HTTP/2.0\r\n").unwrap_err().contains("something else"));

    for (answer, says) in [
        ([b"rw-lane\n", &5u32.to_ne_bytes()[..], &[0; 36]].concat(), "lane version 5, this client 4"),
        (vec![b'x'; 48], "no reward-sidecar"),
        (
            [b"rw-lane\n", &VERSION.to_ne_bytes()[..], &[0; 28], &1u32.to_ne_bytes(), &[0; 4]].concat(),
            "rollout ring: 0 bytes",
        ),
        (
            [
                b"rw-lane\n",
                &VERSION.to_ne_bytes()[..],
                &[0; 12],
                &4096u64.to_ne_bytes(),
                &4096u64.to_ne_bytes(),
                &1u32.to_ne_bytes(),
                &[0; 4],
            ]
            .concat(),
            "0 descriptors",
        ),
        ([b"rw-lane\n", &VERSION.to_ne_bytes()[..], &[0; 36]].concat(), "no rollout"),
        (b"rw-lane\n".to_vec(), "failed to fill"),
    ] {
        let (_folder, path, thread) = sidecar(move |mut socket, _| socket.write_all(&answer).unwrap());
        let why = handshake::connect(&path, LONG).unwrap_err().to_string();
        thread.join().unwrap();
        assert!(why.contains(says), "{why}");
    }
}

#[test]
fn nobody_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lane.sock");
    assert!(matches!(handshake::connect(&path, LONG), Err(HandshakeError::Connect { .. })));
    drop(UnixListener::bind(&path).unwrap());
    let why = handshake::connect(&path, LONG).unwrap_err().to_string();
    assert!(why.contains("refused"), "{why}");
}

#[test]
fn an_answer_that_never_comes_whole_is_given_up() {
    let (_folder, path, thread) = sidecar(|mut socket, _| {
        socket.write_all(b"rw-lane\n").unwrap();
        // Until the client hangs up.
        socket.set_nonblocking(false).unwrap();
        socket.read(&mut [0]).unwrap()
    });
    let failed = handshake::connect(&path, Duration::from_millis(20)).unwrap_err();
    assert!(
        matches!(&failed, HandshakeError::Connect { source, .. } if source.kind() == std::io::ErrorKind::TimedOut),
        "{failed:?}"
    );
    assert_eq!(thread.join().unwrap(), 0);
}

/// The numbers that a process in another container shows.
#[test]
fn a_peer_without_a_process_number() {
    use rustix::net::{AddressFamily, SocketType, socket};
    // What is not connected has no peer: process 0 of user -1.
    let nobody = Peer::of(socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap()).unwrap();
    assert_eq!(nobody, Peer { uid: u32::MAX, pid: None });
    assert!(!nobody.is_trusted());
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let own = Peer::of(ours).unwrap();
    assert_eq!(own, Peer { uid: rustix::process::geteuid().as_raw(), pid: Some(rustix::process::getpid()) });
    assert!(own.is_trusted());
}

/// Options and a rollout that find no room together: the sidecar must not sleep over the options.
#[test]
fn options_ring_too() {
    let (_folder, path, thread) =
        sidecar(|socket, _| handshake::open(socket, Card { generation: 1, bytes: b"" }, SIZES, 1).unwrap());
    let mut client = handshake::connect(&path, LONG).unwrap().end;
    let mut sidecar = thread.join().unwrap();
    sidecar.rollouts.going_to_sleep();
    assert!(!sidecar.rollouts.is_waiting());
    assert!(client.rollouts.options(0, &vec![0; SIZES.rollout_bytes / 2]).unwrap());
    let large = ids(&vec![0; SIZES.rollout_bytes / 8]);
    assert!(!client.rollouts.rollout(1, 0, None, &large.borrowed()).unwrap());
    let mut bell = [PollFd::from_borrowed_fd(sidecar.line.bell(), PollFlags::IN)];
    assert_eq!(poll(&mut bell, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap(), 1);
    drop(sidecar.rollouts.next().unwrap().unwrap());
    assert!(client.rollouts.rollout(1, 0, None, &large.borrowed()).unwrap());
}
