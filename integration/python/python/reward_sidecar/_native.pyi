"""The native half. What is public of it is exported by the package."""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self, Unpack, disjoint_base, final

from ._errors import RewardSidecarError
from ._types import Options, Request, Rollout, Settings

@final
class Reads:
    """What the model says at each of the places at which it reads a rollout."""

    def __new__(
        cls, tokens: NDArray[np.uint32], attributes: NDArray[np.float32], rewards: NDArray[np.float32]
    ) -> Self: ...
    @property
    def tokens(self) -> NDArray[np.uint32]:
        """[m]: tokens up to and including the one that is read."""
    @property
    def attributes(self) -> NDArray[np.float32]:
        """[m, k]."""
    @property
    def rewards(self) -> NDArray[np.float32]:
        """[m]."""
    def __len__(self) -> int: ...

@final
class Batch:
    """The rewards of a batch of rollouts, in their order."""

    def __new__(
        cls,
        names: tuple[str, ...],
        model_version: str,
        rewards: NDArray[np.float32],
        attributes: NDArray[np.float32],
        tokens: NDArray[np.uint32],
        truncated: NDArray[np.bool_],
        errors: list[RewardSidecarError],
        reads: list[Reads],
    ) -> Self: ...
    @property
    def names(self) -> tuple[str, ...]:
        """Names of the attributes, in the order of the columns of `attributes`."""
    @property
    def model_version(self) -> str:
        """The model that gave all of these."""
    @property
    def rewards(self) -> NDArray[np.float32]:
        """[n]: NaN where a rollout failed."""
    @property
    def attributes(self) -> NDArray[np.float32]:
        """[n, k]: untransformed; NaN where a rollout failed."""
    @property
    def tokens(self) -> NDArray[np.uint32]:
        """[n]: tokens that were scored; 0 where a rollout failed."""
    @property
    def truncated(self) -> NDArray[np.bool_]:
        """[n]: whether the prompt was cut to fit the context."""
    @property
    def errors(self) -> list[RewardSidecarError]:
        """What went wrong, ordered by `index`."""
    @property
    def reads(self) -> list[Reads]:
        """For each rollout its reads, where the model reads rollouts at several places; else empty."""
    def __len__(self) -> int: ...

@final
class Result:
    """The rewards of one rollout, or why it has none."""

    @property
    def index(self) -> int:
        """Its place among the rollouts, from 0."""
    @property
    def id(self) -> str | None:
        """The caller's name for it."""
    @property
    def reward(self) -> float:
        """NaN where it failed."""
    @property
    def attributes(self) -> NDArray[np.float32]:
        """[k], in the order of the card's attributes; empty where it failed."""
    @property
    def error(self) -> RewardSidecarError | None:
        """Why it has no rewards."""
    @property
    def tokens(self) -> int:
        """Tokens that were scored."""
    @property
    def truncated(self) -> bool:
        """Whether the prompt was cut to fit the context."""
    @property
    def model_version(self) -> str | None:
        """The model that gave it."""
    @property
    def reads(self) -> Reads | None:
        """Its reads, where the model reads at several places."""

@final
class Stream:
    """Results as they finish. For one thread at a time, and for the process that began it."""

    def __iter__(self) -> Iterator[Result]: ...
    def __next__(self) -> Result: ...

@disjoint_base
class Client:
    """See `reward_sidecar.Client`."""

    def __new__(cls, address: str, **settings: Unpack[Settings]) -> Self: ...
    def __getnewargs_ex__(self) -> tuple[tuple[str], Settings]: ...
    @property
    def address(self) -> str:
        """The address, as it was given."""
    def _card(self) -> dict[str, Any]: ...
    def score(self, **request: Unpack[Request]) -> Batch:
        """Scores rollouts, and returns when all are answered.

        Exactly one form: `prompts` and `completions` (the model's chat template is applied); `texts` (which carry it
        already); `input_ids`; `prompt_ids` and `completion_ids`.

        Raises `RewardSidecarError` for the first rollout that failed, with the whole `batch`; not with
        `raise_on_error=False`. Raises `TypeError` or `ValueError` for arguments that cannot be meant, before anything
        is sent.
        """
    def stream(self, rollouts: Iterable[Rollout], group: str | None = None, **options: Unpack[Options]) -> Stream:
        """Scores rollouts as they come, and gives their results as they finish.

        `rollouts` may be a generator, and endless: the next one is asked for while a result is waited for and there is
        room in flight. What is said here holds for rollouts that say nothing else; one with weights of its own has
        nothing of the aggregation here. A rollout that is malformed or rejected has a result with an `error`; raises
        `RewardSidecarError` when the server is lost.
        """
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

@final
class Defaults:
    """What holds for each rollout of a stream."""

    def __new__(cls, group: str | None = None, **options: Unpack[Options]) -> Self: ...

@final
class Desk:
    """Scoring for an event loop, which must not wait."""

    def __new__(cls, client: Client) -> Self: ...
    def fileno(self) -> int:
        """What the loop is to watch for reading."""
    def score(self, **request: Unpack[Request]) -> int:
        """Begins what `Client.score` does; returns the number under which `finished` will have it."""
    def score_one(self, rollout: Rollout, index: int, defaults: Defaults) -> int | Result:
        """Begins to score one rollout of a stream; returns its number, or its result where it is not asked."""
    def forget(self, number: int) -> None:
        """Nobody waits for this one any more."""
    def finished(self) -> list[tuple[int, Any, bool]]:
        """What is done since the last call: numbers, what was wanted or an exception, and which of them."""
    def close(self) -> None:
        """What is not done fails with `CLOSED`."""

def run_cli(arguments: Sequence[str]) -> int:
    """The command line: arguments in, the first of them its name, and the exit code out. For once in a process."""
