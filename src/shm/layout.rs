//! The memory file of a lane, in words of eight bytes. Everything is in the machine's own byte order: both ends are on it.
//!
//! ```text
//!  word      0 ┌──────────────────────────────────────────────┐
//!              │ magic, layout version, generation of the card│ written once, by the sidecar
//!           16 ├──────────────────────────────────────────────┤
//!              │ write position of the rollout ring           │ client's        each of these nine
//!           32 │ read position of the rollout ring            │ sidecar's       stands in two cache lines
//!           48 │ write position of the reward ring            │ sidecar's       of its own, so that the
//!           64 │ read position of the reward ring             │ client's        ends never write to the
//!           80 │ flag: the sidecar sleeps                     │                 same one (processors fetch
//!           96 │ flag: the client sleeps (a futex)            │                 lines in pairs)
//!          112 │ flag: the client wants room for rollouts     │
//!          128 │ flag: the sidecar wants room for rewards     │
//!          144 │ heartbeat: counted on while the sidecar runs │ sidecar's
//!          512 ├──────────────────────────────────────────────┤ one page
//!              │ the model's card (bytes, rounded up)         │ written once, by the sidecar
//!              ├──────────────────────────────────────────────┤ whole pages
//!              │ rollout ring: a power of two of words        │
//!              ├──────────────────────────────────────────────┤
//!              │ reward ring: a power of two of words         │
//!              └──────────────────────────────────────────────┘
//! ```
//!
//! Positions count words since the lane was opened and never go back; a word's place in its ring is its position modulo
//! the ring's length. What lies between the read and the write position are records:
//!
//! ```text
//!   word 0   payload words (32 bits) │ kind (16 bits) │ 0 (16 bits)
//!   word 1   number of the record in this ring, counted from 0
//!   word 2.. payload; may go on at the ring's beginning
//! ```
//!
//! A flag is half a word, which is odd while it is up ([`doorbell`](super::doorbell)).
//!
//! A record of kind [`SKIP`] says nothing: a producer whose ring is empty uses one to begin again at the front, so that a
//! ring that is never full touches few of its pages, and those stay in the cache.

/// Bytes of a word.
pub const WORD: usize = 8;

/// First word of every lane's memory.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"rw-lane\n");

/// Version of everything in this room: layout, frames, handshake. An end speaks exactly one.
pub const VERSION: u32 = 4;

/// Words of a record's header.
pub const HEADER: usize = 2;

/// Kind of the records that are passed over.
pub const SKIP: u16 = u16::MAX;

/// From here on, in words, an empty ring begins again at its front: 64 KiB stay in a core's second cache.
#[cfg(not(loom))]
pub const REWIND: usize = (64 << 10) / WORD;

/// The same in the model checker's rings.
#[cfg(loom)]
pub const REWIND: usize = 4;

/// Words of a page.
const PAGE: usize = 4096 / WORD;

/// Words between two things that different ends write.
const APART: usize = 16;

/// Word of the number of the generation that the card describes.
pub const GENERATION: usize = 2;

/// Word of the heartbeat ([`heartbeat`](super::heartbeat)).
pub const HEARTBEAT: usize = 9 * APART;

/// Words before the card.
const FRONT: usize = PAGE;

/// Where one ring lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Word of its write position.
    pub tail: usize,
    /// Word of its read position.
    pub head: usize,
    /// First word of its records.
    pub data: usize,
    /// Words of records; a power of two.
    pub capacity: usize,
}

/// A flag; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// The sidecar sleeps, and wants to hear of rollouts.
    SidecarSleeps = 80,
    /// The client sleeps, and wants to hear of rewards and of room.
    ClientSleeps = 96,
    /// The client found no room for a rollout.
    RolloutRoom = 112,
    /// The sidecar reads no further until there is room for rewards.
    RewardRoom = 128,
}

impl Flag {
    /// Its word.
    pub fn word(self) -> usize {
        self as usize
    }
}

/// Sizes of a lane's parts, agreed in the handshake. Kept privately by both ends; the memory is never asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the model's card.
    pub card_bytes: usize,
    /// Bytes of the rollout ring.
    pub rollout_bytes: usize,
    /// Bytes of the reward ring.
    pub reward_bytes: usize,
}

/// Smallest ring, in bytes: a page of its own.
pub const MIN_RING_BYTES: usize = PAGE * WORD;

/// Largest ring, in bytes.
pub const MAX_RING_BYTES: usize = 1 << 30;

/// Largest card, in bytes: a chat template of a few dozen kB, many times over.
pub const MAX_CARD_BYTES: usize = 16 << 20;

impl Sizes {
    /// Whether a lane can have these sizes.
    pub fn check(&self) -> Result<(), String> {
        for (what, bytes) in [("rollout ring", self.rollout_bytes), ("reward ring", self.reward_bytes)] {
            if !bytes.is_power_of_two() || !(MIN_RING_BYTES..=MAX_RING_BYTES).contains(&bytes) {
                return Err(format!(
                    "{what}: {bytes} bytes is no power of two from {MIN_RING_BYTES} to {MAX_RING_BYTES}"
                ));
            }
        }
        match self.card_bytes {
            0..=MAX_CARD_BYTES => Ok(()),
            bytes => Err(format!("card: {bytes} bytes, more than {MAX_CARD_BYTES}")),
        }
    }

    /// First word of the card.
    pub fn card(&self) -> usize {
        FRONT
    }

    /// The rollout ring.
    pub fn rollouts(&self) -> Place {
        let data = FRONT + (self.card_bytes.div_ceil(WORD)).next_multiple_of(PAGE);
        Place { tail: APART, head: 2 * APART, data, capacity: self.rollout_bytes / WORD }
    }

    /// The reward ring.
    pub fn rewards(&self) -> Place {
        let before = self.rollouts();
        let data = before.data + before.capacity;
        Place { tail: 3 * APART, head: 4 * APART, data, capacity: self.reward_bytes / WORD }
    }

    /// Words of the whole memory.
    pub fn words(&self) -> usize {
        let last = self.rewards();
        last.data + last.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_fill_whole_pages() {
        for card_bytes in [0, 1, 4096, 4097] {
            let sizes = Sizes { card_bytes, rollout_bytes: 1 << 16, reward_bytes: 1 << 12 };
            sizes.check().unwrap();
            let (rollouts, rewards) = (sizes.rollouts(), sizes.rewards());
            assert!(sizes.card() + card_bytes.div_ceil(WORD) <= rollouts.data);
            assert_eq!(rollouts.data + rollouts.capacity, rewards.data);
            assert_eq!((sizes.words() * WORD, rewards.capacity), ((rewards.data * WORD) + (1 << 12), 512));
            assert!(sizes.words().is_multiple_of(PAGE) && rollouts.data.is_multiple_of(PAGE));
            let mut control = vec![rollouts.tail, rollouts.head, rewards.tail, rewards.head];
            let flags = [Flag::SidecarSleeps, Flag::ClientSleeps, Flag::RolloutRoom, Flag::RewardRoom];
            control.extend(flags.map(Flag::word));
            control.push(HEARTBEAT);
            control.sort_unstable();
            assert!(control.windows(2).all(|pair| pair[0] + APART <= pair[1]));
            assert!(control[0] >= APART && control[8] + APART <= FRONT);
        }
    }

    #[test]
    fn sizes_that_no_lane_has() {
        let good = Sizes { card_bytes: 0, rollout_bytes: MIN_RING_BYTES, reward_bytes: MAX_RING_BYTES };
        good.check().unwrap();
        for bad in [
            Sizes { rollout_bytes: 4095, ..good },
            Sizes { rollout_bytes: 0, ..good },
            Sizes { reward_bytes: 3 << 20, ..good },
            Sizes { reward_bytes: usize::MAX, ..good },
            Sizes { card_bytes: usize::MAX, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
