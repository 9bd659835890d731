"""What can go wrong: one exception with a stable code, and its kinds, which are Python's own exceptions as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._native import Batch


class RewardSidecarError(Exception):
    """Why a rollout has no rewards, or why there are none at all.

    Most are of a kind: `Rejected` (the server does not score this rollout), `DeadlineExceeded` (there was no answer in
    time; also a `TimeoutError`), `ConnectionFailed` (there is no server to answer; also a `ConnectionError`). Of no kind
    are `BAD_ADDRESS`, `BAD_REPLY` (the server's reply cannot be trusted), `OTHER_TOKENIZER` (the token ids are not of the
    model's tokenizer), and the reasons for which a launched server did not start.

        try:
            batch = client.score(texts=texts, timeout=10.0)
        except TimeoutError as error:
            print(error.code, error.batch)
    """

    code: str
    """Stable, for programs: `TOO_LONG`, `UNKNOWN_ATTRIBUTE`, `DISCONNECTED`, ..."""
    message: str
    """For a person: what was wrong, where, and what to do."""
    index: int | None
    """The rollout's place in its batch or stream. `None`: it is not about one rollout."""
    batch: Batch | None
    """What was scored nevertheless, where a whole batch is raised."""

    def __init__(self, code: str, message: str, index: int | None = None, batch: Batch | None = None) -> None:
        """Keeps all four, so that it survives a pickle: `RewardSidecarError("TOO_LONG", "9000 tokens", index=3)`."""
        # Not `super()`: an OSError, which some kinds are as well, has a meaning of its own for several arguments.
        Exception.__init__(self, code, message, index, batch)
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


class Rejected(RewardSidecarError):
    """The server does not score this rollout: it is malformed, or asks for what the model does not have.

    The code says why: `TOO_LONG`, `EMPTY`, `MALFORMED`, `UNKNOWN_ATTRIBUTE`, `BAD_OPTION`, `EMPTY_COMPLETION`, ... Trying
    again does not help, but after `ENGINE_FAILED`, and after `OTHER_VERSION` (another model took over meanwhile).

        except reward_sidecar.Rejected as error:
            if error.code == "TOO_LONG":
                ...
    """


class DeadlineExceeded(RewardSidecarError, TimeoutError):
    """There was no answer within `timeout` or `deadline_ms`; the code is `DEADLINE_EXCEEDED`. Also a `TimeoutError`.

    except TimeoutError:
        ...
    """


class ConnectionFailed(RewardSidecarError, ConnectionError):
    """There is no server to answer. Also a `ConnectionError`.

    The code says why: `DISCONNECTED` (nobody answers at the address), `REFUSED` (what answers there is no sidecar of this
    version), `WRONG_OWNER` (another user listens there), `NEVER_ANSWERED` (connections are lost over this rollout),
    `SERVER_EXITED` (the server that was launched has ended), `CLOSED` (the client is closed).

        except ConnectionError:
            ...
    """
