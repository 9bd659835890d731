//! What an event of the poller's is about: its two lowest bits say which descriptor, the rest whose.

pub(super) const SOCKET: u64 = 0;
pub(super) const BELL: u64 = 1;
pub(super) const PROCESS: u64 = 2;
pub(super) const GREETING: u64 = 3;
/// Not a lane's number.
pub(super) const LISTENER: u64 = u64::MAX;
pub(super) const CONTROL: u64 = u64::MAX - 1;
