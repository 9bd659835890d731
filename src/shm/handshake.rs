//! How a lane is opened, through a Unix socket.
//!
//! ```text
//!   client -> sidecar   magic (64) │ version (32) │ 0 (32)
//!   sidecar -> client   magic (64) │ version (32) │ status (32) │ card, rollout ring, reward ring in bytes (3 x 64)
//!                       │ in-flight limit (32) │ bytes of a reason (32) │ the reason
//!                       with, where the status is 0, two descriptors: the memory, the sidecar's bell
//! ```
//!
//! Then both are silent; the connection stands for the lane. Before it ends one, the sidecar may say why, as text.
//!
//! Either end speaks one version and refuses any other. The messages have been the same since version 1, so that an end of any
//! version can read why it is refused. Both check who is at the other end: the same user, or root.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
};
use rustix::process::{Pid, geteuid};

use super::lane::{ClientEnd, SidecarEnd};
use super::layout::{GENERATION, MAGIC, Sizes, VERSION, WORD};
use super::region::Region;
use super::sync::Ordering;

mod error;

pub use self::error::{HandshakeError, SocketOwner};

const HELLO_BYTES: usize = 16;
const ANSWER_BYTES: usize = 48;
const MAX_REASON_BYTES: usize = 512;
/// Descriptors of a lane.
const DESCRIPTORS: usize = 2;

/// Why a sidecar opens no lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Open = 0,
    /// It does not speak the client's version.
    Version = 1,
    /// It has as many lanes as it may have.
    Full = 2,
    /// It is shutting down.
    Draining = 3,
    /// Something else is wrong, which its reason says.
    Failed = 4,
    /// It belongs to another user.
    Owner = 5,
}

impl Status {
    /// Whether asking again later may help.
    fn is_transient(number: u32) -> bool {
        [Self::Full, Self::Draining, Self::Failed].iter().any(|&status| status as u32 == number)
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process, where it is one that this process can see.
    pub pid: Option<Pid>,
}

impl Peer {
    /// Of a connected Unix socket.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        // Not rustix: its credentials cannot hold the number 0, which a process in another namespace has here.
        let credentials = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok(Self { uid: credentials.uid(), pid: Pid::from_raw(credentials.pid()) })
    }

    /// Whether it may have a lane: the same user, or root.
    pub fn is_trusted(&self) -> bool {
        self.uid == geteuid().as_raw() || self.uid == 0
    }
}

/// A client's greeting, as far as it has come.
#[derive(Debug, Default)]
pub struct Hello {
    bytes: [u8; HELLO_BYTES],
    read: usize,
}

impl Hello {
    /// Reads on from a non-blocking socket. `None`: not complete yet. `Some(Err)`: to be refused, with the reason.
    pub fn read(&mut self, socket: &UnixStream) -> io::Result<Option<Result<(), String>>> {
        while self.read < HELLO_BYTES {
            match (&*socket).read(&mut self.bytes[self.read..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => self.read += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(self.check()))
    }

    fn check(&self) -> Result<(), String> {
        let mut fields = Fields(&self.bytes);
        if fields.u64() != MAGIC {
            return Err(
                "this socket opens lanes, and the client speaks something else; gRPC has a socket of its own".into()
            );
        }
        match (fields.u32(), fields.u32()) {
            (VERSION, 0) => Ok(()),
            (version, 0) => Err(format!(
                "the client speaks lane version {version}, this sidecar {VERSION}; install the same release of both"
            )),
            _ => Err("the client's greeting has a field that this sidecar does not know".into()),
        }
    }
}

/// A card, and the number of the model generation that it describes.
#[derive(Debug, Clone, Copy)]
pub struct Card<'a> {
    /// 1 is the first of a sidecar's process.
    pub generation: u64,
    /// What it means is a matter of the two ends.
    pub bytes: &'a [u8],
}

/// Opens a lane to a client whose greeting was good, over its non-blocking socket. `sizes` are made for the card.
pub fn open(socket: UnixStream, card: Card, sizes: Sizes, in_flight_limit: u32) -> io::Result<SidecarEnd> {
    let (region, file) = Region::create(sizes.words())?;
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    region.words()[0].store(MAGIC, Ordering::Relaxed);
    region.words()[1].store(u64::from(VERSION), Ordering::Relaxed);
    region.words()[GENERATION].store(card.generation, Ordering::Relaxed);
    for (word, bytes) in region.words()[sizes.card()..].iter().zip(card.bytes.chunks(WORD)) {
        let mut whole = [0; WORD];
        whole[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
    }
    let answer = answer(Status::Open, sizes, in_flight_limit, "");
    let descriptors = [file.as_fd(), bell.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fitted = control.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(fitted);
    let sent = sendmsg(&socket, &[io::IoSlice::new(&answer)], &mut control, SendFlags::NOSIGNAL)?;
    if sent != answer.len() {
        return Err(io::Error::new(io::ErrorKind::WriteZero, "the client does not read"));
    }
    Ok(SidecarEnd::new(region, sizes, socket, bell))
}

/// Tells a client, over its non-blocking socket, why it gets no lane.
pub fn refuse(socket: &UnixStream, status: Status, reason: &str) {
    let sizes = Sizes { card_bytes: 0, rollout_bytes: 0, reward_bytes: 0 };
    // A client that does not listen is not told.
    let _ = (&*socket).write_all(&answer(status, sizes, 0, reason));
}

fn answer(status: Status, sizes: Sizes, in_flight_limit: u32, reason: &str) -> Vec<u8> {
    let reason = crate::reward::shortened(reason, MAX_REASON_BYTES);
    let mut answer = Vec::with_capacity(ANSWER_BYTES + reason.len());
    answer.extend(MAGIC.to_ne_bytes());
    answer.extend(VERSION.to_ne_bytes());
    answer.extend((status as u32).to_ne_bytes());
    for bytes in [sizes.card_bytes, sizes.rollout_bytes, sizes.reward_bytes] {
        answer.extend((bytes as u64).to_ne_bytes());
    }
    answer.extend(in_flight_limit.to_ne_bytes());
    answer.extend((reason.len() as u32).to_ne_bytes());
    answer.extend(reason.as_bytes());
    answer
}

/// A lane, as a client gets it.
#[derive(Debug)]
pub struct Opened {
    /// The lane.
    pub end: ClientEnd,
    /// The model's card; what it means is a matter of the two ends.
    pub card: Vec<u8>,
    /// The generation that the card describes.
    pub generation: u64,
    /// Most rollouts that may be unanswered.
    pub in_flight_limit: u32,
}

/// Asks the sidecar that listens at `path` for a lane; waits for its answer, but no longer than this.
pub fn connect(path: &Path, longest: Duration) -> Result<Opened, HandshakeError> {
    Greeting::to(path, longest)?.finish()
}

/// Asks for a lane over a socket that is connected. The path is for messages.
pub fn greet(socket: UnixStream, path: &Path, longest: Duration) -> Result<Opened, HandshakeError> {
    Greeting::over(socket, path, longest)?.finish()
}

/// A sidecar that was greeted and has not answered yet.
#[derive(Debug)]
pub struct Greeting {
    socket: UnixStream,
    path: PathBuf,
    until: Instant,
    /// Why the greeting could not be sent. A sidecar that refuses at once has said so, and may be gone before it is greeted.
    unsent: Option<io::Error>,
}

impl Greeting {
    /// Greets the sidecar that listens at `path`. Does not wait for it; `longest` is the time for its answer.
    pub fn to(path: &Path, longest: Duration) -> Result<Self, HandshakeError> {
        let socket = dial(path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => {
                let owner = std::fs::metadata(path).map_or(SocketOwner::Hidden, |file| SocketOwner::User(file.uid()));
                HandshakeError::Forbidden { path: path.to_owned(), owner, own: geteuid().as_raw() }
            }
            _ => HandshakeError::Connect { path: path.to_owned(), source },
        })?;
        Self::over(socket, path, longest)
    }

    /// Greets over a socket that is connected.
    fn over(socket: UnixStream, path: &Path, longest: Duration) -> Result<Self, HandshakeError> {
        // However long the caller would wait, the clock can say it.
        let until = Instant::now() + longest.min(Duration::from_secs(1 << 30));
        let failed = |source| HandshakeError::Connect { path: path.to_owned(), source };
        let peer = Peer::of(&socket).map_err(failed)?;
        if !peer.is_trusted() {
            return Err(HandshakeError::Owner { path: path.to_owned(), found: peer.uid, own: geteuid().as_raw() });
        }
        socket.set_nonblocking(false).map_err(failed)?;
        let mut hello = Vec::from(MAGIC.to_ne_bytes());
        hello.extend(VERSION.to_ne_bytes());
        hello.extend(0u32.to_ne_bytes());
        let unsent = (&socket).write_all(&hello).err();
        Ok(Self { socket, path: path.to_owned(), until, unsent })
    }

    /// Waits for the answer, no longer than this; whether [`Self::finish`] can be called without waiting much longer, since
    /// the answer has begun, or the time for it is over.
    pub fn wait(&self, longest: Duration) -> bool {
        let remaining = self.until.saturating_duration_since(Instant::now());
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
        let waits = remaining.min(longest).try_into().unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let answered = !matches!(poll(&mut sockets, Some(&waits)), Ok(0) | Err(rustix::io::Errno::INTR));
        answered || Instant::now() >= self.until
    }

    /// The lane, once the answer is there.
    pub fn finish(self) -> Result<Opened, HandshakeError> {
        let Self { socket, path, until, unsent } = self;
        receive_lane(socket, &path, until, unsent)
    }
}

fn receive_lane(
    socket: UnixStream,
    path: &Path,
    until: Instant,
    unsent: Option<io::Error>,
) -> Result<Opened, HandshakeError> {
    let failed = |source| HandshakeError::Connect { path: path.to_owned(), source };
    let no_sidecar = |why: String| HandshakeError::NoSidecar { path: path.to_owned(), why };
    let mut reader = Within { socket: &socket, until };
    let (bytes, descriptors) = receive(&mut reader).map_err(|error| failed(unsent.unwrap_or(error)))?;
    let mut fields = Fields(&bytes);
    let (magic, version, status) = (fields.u64(), fields.u32(), fields.u32());
    if magic != MAGIC {
        return Err(no_sidecar("what listens there is no reward-sidecar".into()));
    }
    let [card_bytes, rollout_bytes, reward_bytes] = std::array::from_fn(|_| fields.u64());
    let (in_flight_limit, reason_bytes) = (fields.u32(), fields.u32());
    if status != Status::Open as u32 {
        let mut reason = Vec::new();
        let most = u64::from(reason_bytes).min(MAX_REASON_BYTES as u64);
        reader.take(most).read_to_end(&mut reason).map_err(failed)?;
        let reason = String::from_utf8_lossy(&reason).into_owned();
        if status == Status::Owner as u32 {
            // It runs as root, which this process trusts, but which does not trust this process.
            let found = Peer::of(&socket).map_err(failed)?.uid;
            return Err(HandshakeError::Owner { path: path.to_owned(), found, own: geteuid().as_raw() });
        }
        return Err(HandshakeError::Refused { transient: Status::is_transient(status), reason });
    }
    if version != VERSION {
        let why = format!(
            "the sidecar speaks lane version {version}, this client {VERSION}; install the same release of both"
        );
        return Err(HandshakeError::Refused { transient: false, reason: why });
    }
    if in_flight_limit == 0 {
        return Err(no_sidecar("the lane that it opens admits no rollout".into()));
    }
    let bytes = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let sizes =
        Sizes { card_bytes: bytes(card_bytes), rollout_bytes: bytes(rollout_bytes), reward_bytes: bytes(reward_bytes) };
    sizes.check().map_err(no_sidecar)?;
    let [file, bell] = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors)
        .map_err(|found| no_sidecar(format!("{} descriptors came; a lane has {DESCRIPTORS}", found.len())))?;
    let region = Region::open(&file, sizes.words()).map_err(failed)?;
    let first = [0, 1].map(|word| region.words()[word].load(Ordering::Relaxed));
    if first != [MAGIC, u64::from(VERSION)] {
        return Err(no_sidecar("the lane's memory does not begin as one".into()));
    }
    let generation = region.words()[GENERATION].load(Ordering::Relaxed);
    let words = &region.words()[sizes.card()..][..sizes.card_bytes.div_ceil(WORD)];
    let mut card: Vec<u8> = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
    card.truncate(sizes.card_bytes);
    Ok(Opened { end: ClientEnd::new(region, sizes, socket, bell), card, generation, in_flight_limit })
}

/// Connects without waiting: a sidecar too busy to accept is none for now.
fn dial(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// The fixed part of the answer, with what descriptors came along.
fn receive(reader: &mut Within) -> io::Result<([u8; ANSWER_BYTES], Vec<OwnedFd>)> {
    let mut answer = [0; ANSWER_BYTES];
    // Room for a few more, so that a wrong number is counted and closed rather than cut off.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2 * DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = loop {
        let mut space = [io::IoSliceMut::new(&mut answer)];
        match recvmsg(reader.socket()?, &mut space, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            received => break received?.bytes,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    reader.read_exact(&mut answer[read..])?;
    Ok((answer, descriptors))
}

/// Reads from a blocking socket, all in all no longer than agreed.
struct Within<'a> {
    socket: &'a UnixStream,
    until: Instant,
}

impl Within<'_> {
    /// The socket, which waits no longer than there is time for.
    fn socket(&self) -> io::Result<&UnixStream> {
        let remaining = self.until.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(remaining))?;
        Ok(self.socket)
    }
}

impl io::Read for Within<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket()?.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

/// Fixed fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u64(&mut self) -> u64 {
        let (field, rest) = self.0.split_first_chunk().expect("the fields of a message fill it");
        self.0 = rest;
        u64::from_ne_bytes(*field)
    }

    fn u32(&mut self) -> u32 {
        let (field, rest) = self.0.split_first_chunk().expect("the fields of a message fill it");
        self.0 = rest;
        u32::from_ne_bytes(*field)
    }
}
