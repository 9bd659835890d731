"""What can go wrong, as one exception with a stable code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._native import Batch


class RewardSidecarError(Exception):
    """Why a rollout has no rewards, or why there are none at all.

    The server rejects a rollout with one of its codes (`TOO_LONG`, `UNKNOWN_ATTRIBUTE`, ...). Where the client cannot
    get an answer, the code is its own: `BAD_ADDRESS`, `DISCONNECTED` (nobody answers), `REFUSED` (whoever answers is no
    sidecar of this version), `NEVER_ANSWERED` (connections are lost over this rollout), `BAD_REPLY`, `MODEL_CHANGED`
    (the server came back with another model meanwhile), `CLOSED`.
    """

    code: str
    """Stable, for programs."""
    message: str
    """For a person: what was wrong, where, and what to do."""
    index: int | None
    """The rollout's place in its batch or stream. `None`: it is not about one rollout."""
    batch: Batch | None
    """What was scored nevertheless, where a whole batch is raised."""

    def __init__(self, code: str, message: str, index: int | None = None, batch: Batch | None = None) -> None:
        # All of them, so that it survives a pickle.
        super().__init__(code, message, index, batch)
        self.code = code
        self.message = message
        self.index = index
        self.batch = batch

    def __str__(self) -> str:
        where = "" if self.index is None else f"rollout {self.index}: "
        return f"{where}{self.code}: {self.message}"

    def __repr__(self) -> str:
        where = "" if self.index is None else f", index={self.index}"
        return f"{type(self).__name__}({self.code!r}, {self.message!r}{where})"
