//! The two ends of a lane: rings, their doorbells, the heartbeat, and the socket whose end is the lane's.
//!
//! Invariant: every publication rings for an end that sleeps, so that no end sleeps while what it waits for is there.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Broken;
pub use super::bell::SidecarBell;
use super::doorbell::{self, lower, must_ring, raise};
use super::frame::{self, Reply};
#[cfg(not(loom))]
use super::heartbeat::{Heartbeat, HeartbeatWatch};
#[cfg(not(loom))]
use super::layout::Sizes;
use super::layout::{Flag, HEADER, WORD};
use super::region::Region;
use super::ring::{Consumer, Producer, Record};
use crate::reward::Rewards;
use crate::rollout::RolloutRef;

/// Longest reason for the end of a lane, in bytes.
const MAX_REASON_BYTES: usize = 1024;

/// The sidecar's end.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct SidecarEnd {
    /// Rollouts in.
    pub rollouts: RolloutReceiver,
    /// Rewards out.
    pub rewards: RewardSender,
    /// The sign of life.
    pub heartbeat: Heartbeat,
    /// The connection: its end is the lane's.
    pub line: SidecarLine,
}

/// The client's end.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct ClientEnd {
    /// Rollouts out.
    pub rollouts: RolloutSender,
    /// Rewards in.
    pub rewards: RewardReceiver,
    /// The sidecar's sign of life.
    pub heartbeat: HeartbeatWatch,
    /// The connection: its end is the lane's.
    pub line: ClientLine,
}

#[cfg(not(loom))]
impl SidecarEnd {
    /// The end of new memory. Non-blocking `socket` leads to the client, which has the `bell`'s other copy.
    pub(super) fn new(region: Region, sizes: Sizes, socket: UnixStream, bell: OwnedFd) -> Self {
        let region = Arc::new(region);
        Self {
            rollouts: RolloutReceiver {
                consumer: Consumer::new(region.clone(), sizes.rollouts()),
                region: region.clone(),
            },
            rewards: RewardSender { producer: Producer::new(region.clone(), sizes.rewards()), region: region.clone() },
            heartbeat: Heartbeat::new(region),
            line: SidecarLine { socket, bell },
        }
    }
}

#[cfg(not(loom))]
impl ClientEnd {
    /// The end of memory that the sidecar made.
    pub(super) fn new(region: Region, sizes: Sizes, socket: UnixStream, bell: OwnedFd) -> Self {
        let region = Arc::new(region);
        Self {
            rollouts: RolloutSender {
                producer: Producer::new(region.clone(), sizes.rollouts()),
                region: region.clone(),
                bell: SidecarBell::new(bell),
            },
            rewards: RewardReceiver {
                consumer: Consumer::new(region.clone(), sizes.rewards()),
                region: region.clone(),
            },
            heartbeat: HeartbeatWatch::new(region),
            line: ClientLine { socket },
        }
    }
}

/// Reads what the client sends.
#[derive(Debug)]
pub struct RolloutReceiver {
    consumer: Consumer,
    region: Arc<Region>,
}

impl RolloutReceiver {
    /// The next record, if there is one: options, a rollout, or the withdrawal of one.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend its items")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, Broken> {
        self.consumer.next()
    }

    /// Its kind, without reading it.
    pub fn peek(&mut self) -> Result<Option<u16>, Broken> {
        self.consumer.peek()
    }

    /// Whether there is something to read.
    pub fn is_waiting(&self) -> bool {
        self.consumer.is_waiting()
    }

    /// To be called after some records were read: wakes a client that waits for their room.
    pub fn made_room(&self) {
        if must_ring(&self.region, Flag::RolloutRoom) {
            wake_client(&self.region);
        }
    }

    /// The sidecar is about to sleep until the lane's bell rings. It must look at [`Self::is_waiting`] once more.
    pub fn going_to_sleep(&self) {
        raise(&self.region, Flag::SidecarSleeps);
    }

    /// The sidecar is awake, and need not be rung for.
    pub fn awake(&self) {
        lower(&self.region, Flag::SidecarSleeps);
    }
}

/// Writes what the sidecar sends: answers, and which model gives them.
#[derive(Debug)]
pub struct RewardSender {
    producer: Producer,
    region: Arc<Region>,
}

impl RewardSender {
    /// Words of the ring.
    pub fn capacity(&self) -> usize {
        self.producer.capacity()
    }

    /// Words that the client has not read yet.
    pub fn used(&mut self) -> Result<usize, Broken> {
        self.producer.used()
    }

    /// Where the records end that were published, in words since the lane was opened.
    pub fn published(&self) -> u64 {
        self.producer.published()
    }

    /// How far the client has read, in the same count.
    pub fn read(&mut self) -> Result<u64, Broken> {
        self.producer.read()
    }

    /// Whether the ring could ever hold this answer.
    pub fn fits(&self, words: usize) -> bool {
        HEADER + words <= self.capacity()
    }

    /// Answers with rewards. `Ok(false)`: there is no room yet.
    pub fn rewards(&mut self, number: u64, rewards: &Rewards) -> Result<bool, Broken> {
        let sent = frame::write_rewards(&mut self.producer, number, rewards)?;
        self.ring_if(sent)
    }

    /// Answers with a rejection. `Ok(false)`: there is no room yet.
    pub fn rejection(&mut self, number: u64, code: u32, message: &str) -> Result<bool, Broken> {
        let sent = frame::write_rejection(&mut self.producer, number, code, message)?;
        self.ring_if(sent)
    }

    /// Most bytes of a card that go into one record: a quarter of the ring, so that answers have room beside it.
    pub fn card_part_bytes(&self) -> usize {
        self.capacity() / 4 * WORD
    }

    /// Sends a part of the card of a new generation; `bytes` are those of the whole card. `Ok(false)`: there is no room yet.
    pub fn card(&mut self, generation: u64, bytes: usize, part: &[u8]) -> Result<bool, Broken> {
        let sent = frame::write_card(&mut self.producer, generation, bytes, part)?;
        self.ring_if(sent)
    }

    fn ring_if(&self, sent: bool) -> Result<bool, Broken> {
        if sent {
            wake_client(&self.region);
        }
        Ok(sent)
    }

    /// The sidecar will wait until answers have been read, and wants the lane's bell rung then. It must look at
    /// [`Self::used`] once more.
    pub fn want_room(&self) {
        raise(&self.region, Flag::RewardRoom);
    }
}

fn wake_client(region: &Region) {
    if must_ring(region, Flag::ClientSleeps) {
        region.wake(Flag::ClientSleeps);
    }
}

/// The sidecar's side of the connection.
#[derive(Debug)]
pub struct SidecarLine {
    socket: UnixStream,
    bell: OwnedFd,
}

impl SidecarLine {
    /// Readable, or hung up, when the lane is to be closed: a client has nothing to say here.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Rung by the client. To be waited for edge by edge: it is never read, since its other holder could make that block.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Tells the client why the lane is closed.
    pub fn say_why(&self, why: &str) {
        // The socket does not block. A client that is gone, or never reads, is not told.
        let _ = (&self.socket).write_all(&why.as_bytes()[..why.len().min(MAX_REASON_BYTES)]);
    }
}

/// Writes what the client sends.
#[derive(Debug)]
pub struct RolloutSender {
    producer: Producer,
    region: Arc<Region>,
    bell: SidecarBell,
}

impl RolloutSender {
    /// The largest record that the ring can ever hold, in bytes.
    pub fn most_bytes(&self) -> usize {
        (self.producer.capacity() - HEADER) * WORD
    }

    /// Bytes of a rollout's record.
    pub fn bytes_of(rollout: &RolloutRef) -> usize {
        frame::rollout_words(rollout) * WORD
    }

    /// Bytes of the record of so many bytes of options.
    pub fn bytes_of_options(bytes: usize) -> usize {
        frame::options_words(bytes) * WORD
    }

    /// Sends a rollout. `Ok(false)`: there is no room yet. The deadline is a time of the [`clock`](super::clock).
    pub fn rollout(
        &mut self,
        number: u64,
        options: u32,
        deadline_ns: Option<u64>,
        rollout: &RolloutRef,
    ) -> Result<bool, Broken> {
        let sent = frame::write_rollout(&mut self.producer, number, options, deadline_ns, rollout)?;
        self.ring_if(sent)
    }

    /// Withdraws a rollout that was sent. `Ok(false)`: there is no room yet.
    pub fn cancel(&mut self, number: u64) -> Result<bool, Broken> {
        let sent = frame::write_cancel(&mut self.producer, number)?;
        self.ring_if(sent)
    }

    /// Says what a number means that rollouts name as their options. `Ok(false)`: there is no room yet.
    pub fn options(&mut self, number: u32, bytes: &[u8]) -> Result<bool, Broken> {
        // The rollout that names them may find no room before they are read.
        let sent = frame::write_options(&mut self.producer, number, bytes)?;
        self.ring_if(sent)
    }

    fn ring_if(&self, sent: bool) -> Result<bool, Broken> {
        if sent && must_ring(&self.region, Flag::SidecarSleeps) {
            self.bell.ring();
        }
        Ok(sent)
    }

    /// Whether a record of so many bytes would find room now.
    pub fn has_room(&mut self, bytes: usize) -> Result<bool, Broken> {
        self.producer.has_room(bytes.div_ceil(WORD))
    }

    /// The sidecar's bell.
    pub fn bell(&self) -> SidecarBell {
        self.bell.clone()
    }

    /// The client will wait for room, and wants to be woken then ([`ClientBell::sleep`]). It must look once more.
    pub fn want_room(&self) {
        raise(&self.region, Flag::RolloutRoom);
    }
}

/// Reads what the sidecar sends.
#[derive(Debug)]
pub struct RewardReceiver {
    consumer: Consumer,
    region: Arc<Region>,
}

impl RewardReceiver {
    /// The next record, if there is one. `version_of` knows the model version of each generation that was announced.
    pub fn next(&mut self, version_of: impl FnOnce(u64) -> Option<Arc<str>>) -> Result<Option<Reply>, Broken> {
        self.consumer.next()?.map(|record| frame::read_reply(record, version_of)).transpose()
    }

    /// Whether there is something to read.
    pub fn is_waiting(&self) -> bool {
        self.consumer.is_waiting()
    }

    /// The client's bell, to be waited at.
    pub fn bell(&self) -> ClientBell {
        ClientBell { region: self.region.clone() }
    }

    /// To be called after some records were read: wakes a sidecar that waits for their room.
    pub fn made_room(&self, sidecar: &SidecarBell) {
        if must_ring(&self.region, Flag::RewardRoom) {
            sidecar.ring();
        }
    }
}

/// Where a client's threads sleep. They may be several.
#[derive(Debug, Clone)]
pub struct ClientBell {
    region: Arc<Region>,
}

impl ClientBell {
    /// Sleeps until something is published, or room is made that was wanted, for at most so long, unless `ready` says,
    /// after the sidecar has been told, that there is no need to. A signal ends it too.
    pub fn sleep(&self, longest: Duration, ready: impl FnOnce() -> bool) {
        doorbell::sleep(&self.region, Flag::ClientSleeps, longest, ready);
    }
}

/// The client's side of the connection.
#[derive(Debug)]
pub struct ClientLine {
    socket: UnixStream,
}

impl ClientLine {
    /// Whether the sidecar has closed the lane, or is gone; then, its reason, which is empty where it gave none.
    pub fn closed(&self) -> Option<String> {
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut sockets, Some(&at_once)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => None,
            // It says nothing before the end.
            _ => Some(self.reason()),
        }
    }

    fn reason(&self) -> String {
        let mut reason = Vec::new();
        // The sidecar has written all that it will; nothing here may wait for more.
        let _ = self.socket.set_nonblocking(true);
        let _ = (&self.socket).take(MAX_REASON_BYTES as u64).read_to_end(&mut reason);
        String::from_utf8_lossy(&reason).into_owned()
    }
}

impl Drop for ClientLine {
    /// The end of the lane, although a forked process may have a copy of the socket.
    fn drop(&mut self) {
        // Fails only where the sidecar was first.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;
