"""The native half. What is public of it is exported by the package."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from typing_extensions import NotRequired, Self, Unpack, final

from ._errors import RewardSidecarError

class Message(TypedDict):
    """One message of a conversation."""

    role: str
    content: str
    score: NotRequired[bool]
    """Whether this turn is scored too, as if it were the completion of what comes before it. An assistant's only."""

class Array(Protocol):
    """What NumPy can read: a tensor on the CPU, for instance."""

    def __array__(self) -> NDArray[Any]: ...

Prompt: TypeAlias = str | Sequence[Message]
"""A text is what a user says."""

Ids: TypeAlias = NDArray[np.integer[Any]] | Array | Sequence[int]
"""The token ids of one rollout, or of a part of it."""

IdRows: TypeAlias = Sequence[Ids] | NDArray[np.integer[Any]] | Array | tuple[Ids, Ids]
"""The token ids of several: one array for each, an array of two dimensions, or a tuple of all ids in one array and the
offsets: where each row begins, and where the last one ends."""

Candidate: TypeAlias = str | Ids

FinishReason: TypeAlias = Literal["stop", "length"]

class Clip(TypedDict, total=False):
    """An interval; open where nothing is said."""

    min: float
    max: float

class Transform(TypedDict, total=False):
    """`clip((attribute - mean) / std * scale + shift)`."""

    mean: float
    std: float
    scale: float
    shift: float
    clip: Clip

class LengthPenalty(TypedDict):
    """Taken off for each completion token over the target."""

    per_token: float
    target_tokens: int

class Aggregation(TypedDict, total=False):
    """How attributes become one reward. The formula stands in the protocol, at `Aggregation`."""

    name: str
    weighting: str
    weights: Mapping[str, float]
    transforms: Mapping[str, Transform]
    clip: Clip
    offset: float
    unfinished_penalty: float
    length_penalty: LengthPenalty

class Options(TypedDict, total=False):
    """How rollouts are to be scored."""

    weights: Mapping[str, float] | None
    """By attribute. None at all: the model's default weighting."""
    weighting: str | None
    """One of the card's weightings, by its name."""
    aggregation: Aggregation | str | None
    """Everything else about the aggregation, as in a rollout file."""
    deadline_ms: int | None
    """Milliseconds after which a rollout is rejected rather than scored."""
    priority: int | None
    """Higher goes first."""
    traceparent: str | None
    """W3C trace context."""

class Request(Options, total=False):
    """The arguments of `score`."""

    prompts: Iterable[Prompt] | None
    completions: Iterable[str] | None
    texts: Iterable[str] | None
    input_ids: IdRows | None
    prompt_ids: IdRows | None
    completion_ids: IdRows | None
    group: str | None
    groups: Iterable[str] | None
    finish_reasons: Iterable[FinishReason | None] | None
    raise_on_error: bool

class Rollout(TypedDict, total=False):
    """One rollout, in the form of a line of a rollout file; exactly one of the four forms."""

    id: str | None
    prompt: Prompt | None
    completion: str | None
    text: str | None
    input_ids: Ids | None
    prompt_ids: Ids | None
    completion_ids: Ids | None
    group: str | None
    finish_reason: FinishReason | None
    weights: Mapping[str, float] | None
    weighting: str | None
    aggregation: Aggregation | str | None
    deadline_ms: int | None
    priority: int | None
    traceparent: str | None

class Settings(TypedDict, total=False):
    """What a client is made with, beside its address."""

    in_flight_limit: int | None
    """Most rollouts unanswered at a time; the server's limit counts where it is lower."""
    deadline_ms: int | None
    """The deadline of rollouts that bring none of their own."""
    spin_us: int | None
    """How long to watch shared memory for an answer before sleeping. Costs a core, and pays where there is one to spare."""
    connect_timeout_s: float
    """How long to try a server that does not answer. Default: 30."""

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
        `raise_on_error=False`. Raises `TypeError` or `ValueError` for arguments that cannot be meant, before anything is
        sent.
        """
    def stream(self, rollouts: Iterable[Rollout], group: str | None = None, **options: Unpack[Options]) -> Stream:
        """Scores rollouts as they come, and gives their results as they finish.

        `rollouts` may be a generator, and endless: the next one is asked for while a result is waited for and there is room
        in flight. What is said here holds for rollouts that say nothing else; one with weights of its own has nothing of the
        aggregation here. A rollout that is malformed or rejected has a result with an `error`; raises `RewardSidecarError`
        when the server is lost.
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
        """Begins to score one rollout of a stream; returns its number, or the result where there is no asking for it."""
    def forget(self, number: int) -> None:
        """Nobody waits for this one any more."""
    def finished(self) -> list[tuple[int, Any, bool]]:
        """What is done since the last call: numbers, what was wanted or an exception, and which of them."""
    def close(self) -> None:
        """What is not done fails with `CLOSED`."""

def run_cli(arguments: Sequence[str]) -> int:
    """The command line: arguments in, the first of them its name, and the exit code out. For once in a process."""
