//! Why a rollout is answered without having been looked at by the engine, where the reason is not in the rollout itself.

use crate::reward::{Code, Rejection};

/// Its deadline passed.
pub(super) fn expired() -> Rejection {
    Rejection::new(Code::DeadlineExceeded, "the deadline passed before the rollout was scored")
}

/// Its caller left, or cancelled it.
pub(super) fn cancelled() -> Rejection {
    Rejection::new(Code::Cancelled, "the caller left or cancelled the rollout before it was scored")
}

/// The server scores nothing more.
pub(super) fn draining() -> Rejection {
    Rejection::new(
        Code::Draining,
        "the server is shutting down and did not score the rollout; send it to another, or again later",
    )
}
