//! What is open or waits now: gauges that go up with a value and down when it is dropped; and how lanes end.

use ::metrics::{Gauge, counter, gauge};

use super::handles;
use super::names::{ACCEPT_PAUSES, LANES_CLOSED, LANES_OPEN, STREAMS_OPEN};

/// Counts while it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counted")
    }
}

/// Counts as an open stream while it lives.
#[derive(Debug)]
pub struct OpenStream(#[expect(dead_code, reason = "counts until it is dropped")] Counted);

/// A stream was opened.
pub fn open_stream() -> OpenStream {
    OpenStream(Counted::new(gauge!(STREAMS_OPEN)))
}

/// Counts as an open lane while it lives.
#[derive(Debug)]
pub struct OpenLane(#[expect(dead_code, reason = "counts until it is dropped")] Counted);

/// A lane was opened.
pub fn open_lane() -> OpenLane {
    OpenLane(Counted::new(gauge!(LANES_OPEN)))
}

/// Counts as a rollout that waits while it lives.
#[derive(Debug)]
pub struct Waits(#[expect(dead_code, reason = "counts until it is dropped")] Option<Counted>);

/// A rollout begins to wait for a tokenizer's thread.
pub fn waits_for_tokenizer() -> Waits {
    Waits(handles::get().map(|handles| Counted::new(handles.tokenizer_waiting.clone())))
}

/// A rollout begins to wait for room in the queue.
pub fn waits_for_room() -> Waits {
    Waits(handles::get().map(|handles| Counted::new(handles.room_waiting.clone())))
}

/// How a lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneEnd {
    /// Its client left, or died.
    HungUp,
    /// Its client broke the rules.
    Broken,
    /// The sidecar shut down.
    Drained,
    /// It was never opened.
    Refused,
}

impl LaneEnd {
    /// Every end.
    pub const ALL: &[LaneEnd] = &[LaneEnd::HungUp, LaneEnd::Broken, LaneEnd::Drained, LaneEnd::Refused];

    fn name(self) -> &'static str {
        match self {
            LaneEnd::HungUp => "hung_up",
            LaneEnd::Broken => "broken",
            LaneEnd::Drained => "drained",
            LaneEnd::Refused => "refused",
        }
    }
}

/// A lane was closed, or not opened.
pub fn lane_closed(end: LaneEnd) {
    counter!(LANES_CLOSED, "reason" => end.name()).increment(1);
}

/// An acceptor of this kind accepts nobody for now.
pub fn accept_paused(of: &'static str) {
    counter!(ACCEPT_PAUSES, "acceptor" => of).increment(1);
}

/// What accepts clients.
const ACCEPTORS: &[&str] = &["admin", "grpc", "shm"];

/// See [`super::handles::Handles::start_at_zero`].
pub(super) fn start_at_zero() {
    gauge!(STREAMS_OPEN).set(0.0);
    gauge!(LANES_OPEN).set(0.0);
    for end in LaneEnd::ALL {
        counter!(LANES_CLOSED, "reason" => end.name()).absolute(0);
    }
    for acceptor in ACCEPTORS {
        counter!(ACCEPT_PAUSES, "acceptor" => *acceptor).absolute(0);
    }
}
