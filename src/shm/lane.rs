//! The two ends of a lane: rings, their doorbells, and the socket whose end is the lane's.
//!
//! Invariant: whatever is published is rung for, so that an end that sleeps never sleeps over something that it waits for.

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
use super::layout::Sizes;
use super::layout::{Flag, HEADER};
use super::region::Region;
use super::ring::{Consumer, Producer, Record};
use crate::reward::Rewards;
use crate::rollout::RolloutRef;

/// Longest parting word in bytes.
const MAX_PARTING_BYTES: usize = 1024;

/// The sidecar's end.
#[derive(Debug)]
pub struct SidecarEnd {
    /// Rollouts in. One thread's.
    pub rollouts: RolloutReceiver,
    /// Rewards out. Whoever answers, one at a time.
    pub rewards: RewardSender,
    /// The connection: its end is the lane's.
    pub line: SidecarLine,
}

/// The client's end.
#[derive(Debug)]
pub struct ClientEnd {
    /// Rollouts out. One at a time.
    pub rollouts: RolloutSender,
    /// Rewards in. One at a time.
    pub rewards: RewardReceiver,
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
            rewards: RewardSender { producer: Producer::new(region.clone(), sizes.rewards()), region },
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
            rewards: RewardReceiver { consumer: Consumer::new(region.clone(), sizes.rewards()), region },
            line: ClientLine { socket },
        }
    }
}

/// Reads what the client asks.
#[derive(Debug)]
pub struct RolloutReceiver {
    consumer: Consumer,
    region: Arc<Region>,
}

impl RolloutReceiver {
    /// The next record, if there is one: options or a rollout.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend its items")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, Broken> {
        self.consumer.next()
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

/// Writes the answers.
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

    /// Tells the client why the lane is closed, as far as it listens.
    pub fn part(&self, why: &str) {
        // The socket does not block; whoever is gone, or never reads, goes without.
        let _ = (&self.socket).write_all(&why.as_bytes()[..why.len().min(MAX_PARTING_BYTES)]);
    }
}

/// Writes what the client asks.
#[derive(Debug)]
pub struct RolloutSender {
    producer: Producer,
    region: Arc<Region>,
    bell: SidecarBell,
}

impl RolloutSender {
    /// The largest record that the ring can ever hold, in bytes.
    pub fn most_bytes(&self) -> usize {
        (self.producer.capacity() - HEADER) * super::layout::WORD
    }

    /// Bytes of a rollout's record.
    pub fn bytes_of(rollout: &RolloutRef) -> usize {
        frame::rollout_words(rollout) * super::layout::WORD
    }

    /// Bytes of the record of so many bytes of options.
    pub fn bytes_of_options(bytes: usize) -> usize {
        frame::options_words(bytes) * super::layout::WORD
    }

    /// Asks a rollout. `Ok(false)`: there is no room yet.
    pub fn rollout(&mut self, number: u64, options: u32, rollout: &RolloutRef) -> Result<bool, Broken> {
        let sent = frame::write_rollout(&mut self.producer, number, options, rollout)?;
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
        self.producer.has_room(bytes.div_ceil(super::layout::WORD))
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

/// Reads the answers.
#[derive(Debug)]
pub struct RewardReceiver {
    consumer: Consumer,
    region: Arc<Region>,
}

impl RewardReceiver {
    /// The next answer, if there is one. `version` is the model's.
    pub fn next(&mut self, version: &Arc<str>) -> Result<Option<Reply>, Broken> {
        self.consumer.next()?.map(|record| frame::read_reply(record, version)).transpose()
    }

    /// Whether there is an answer.
    pub fn is_waiting(&self) -> bool {
        self.consumer.is_waiting()
    }

    /// The client's bell, to be waited at.
    pub fn bell(&self) -> ClientBell {
        ClientBell { region: self.region.clone() }
    }

    /// To be called after some answers were read: wakes a sidecar that waits for their room.
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
    /// Whether the sidecar has closed the lane, or is gone; then, its parting word, if it had one.
    pub fn parted(&self) -> Option<String> {
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut sockets, Some(&at_once)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => None,
            // It says nothing before it parts.
            _ => Some(self.parting_word()),
        }
    }

    fn parting_word(&self) -> String {
        let mut word = Vec::new();
        // The sidecar has written all that it will; nothing here may wait for more.
        let _ = self.socket.set_nonblocking(true);
        let _ = (&self.socket).take(MAX_PARTING_BYTES as u64).read_to_end(&mut word);
        String::from_utf8_lossy(&word).into_owned()
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
