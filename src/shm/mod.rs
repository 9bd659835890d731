//! Lanes: rollouts to a sidecar, and rewards back, through memory that two processes share.
//!
//! A lane is one client's pair of rings in one sealed memory file, which the sidecar makes and hands over through a Unix
//! socket. Nothing but the two ends touches it, no system call is made while both are awake, and a rollout's tokens are
//! copied twice: by the client into the ring, by the sidecar out of it.
//!
//! ```text
//!   client                            one memory file (layout.rs)                                sidecar
//!
//!   RolloutSender ── Producer ──> [ rollout ring: options, rollouts, cancels ] ── Consumer ──> RolloutReceiver
//!   RewardReceiver ─ Consumer <── [ reward ring: rewards, rejections, cards  ] <─ Producer ─── RewardSender
//!   HeartbeatWatch ────────────── [ heartbeat: counted on every second ..... ] <────────────── Heartbeat
//!
//!         sleeps on a futex  ◄──── "client sleeps" flag · "sidecar sleeps" flag ────►  sleeps in epoll, on an eventfd
//!
//!   UnixStream ─────────────── handshake.rs: version, descriptors, then silence; its end is the lane's ────── UnixStream
//! ```
//!
//! - [`region`]: the memory file, and the only `unsafe` of this room. Everything in it is an atomic word, so that whatever
//!   the other end writes, and whenever, is at worst a wrong number here and never undefined behaviour.
//! - [`ring`]: one producer, one consumer, records of any length with sequence numbers.
//! - [`doorbell`]: an end that is about to sleep says so first; one that publishes looks whether the other sleeps.
//! - [`heartbeat`]: how a client tells a sidecar that is stopped or hangs from one that is slow.
//! - [`clock`]: the clock of deadlines, which both ends read.
//! - [`frame`]: what the records say.
//! - [`handshake`]: versions, credentials, descriptors.
//! - [`lane`]: the two ends.
//!
//! **The other end is not trusted.** A word of the memory is loaded once, checked, and only the loaded value is used:
//! positions must lie where this end's own count allows, a record must lie in what was published, its sequence number must
//! be the next, its fields must fit its length. Whatever breaks these rules is [`Broken`], and the end of that lane alone.
//!
//! This room knows neither tokio nor a model, and no wire format but its own.

mod bell;
#[cfg(not(loom))]
pub mod clock;
pub mod doorbell;
mod error;
pub mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
#[cfg(not(loom))]
pub mod handshake;
#[cfg(not(loom))]
pub mod heartbeat;
pub mod lane;
pub mod layout;
pub mod region;
pub mod ring;
mod sync;

pub use error::Broken;
