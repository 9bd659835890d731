"""The native half. What is public of it is exported by the package."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self, Unpack, disjoint_base, final

from ._errors import RewardSidecarError
from ._types import (
    Aggregation,
    Bar,
    Completion,
    FinishReason,
    HasVocabulary,
    IdRows,
    Ids,
    Json,
    Masks,
    Messages,
    Options,
    Prompt,
    Request,
    Rollout,
    Settings,
)

__all__ = [
    "Batch",
    "Client",
    "Defaults",
    "Desk",
    "Reads",
    "Result",
    "Stream",
    "Thinking",
    "__version__",
    "_batch",
    "_reads",
    "_result",
    "_thinking",
    "run_cli",
]

__version__: str
"""The package's version."""

@final
class Reads:
    """What the model says at each of the places at which it reads a rollout."""

    @property
    def tokens(self) -> NDArray[np.uint32]:
        """[m]: tokens up to and including the one that is read."""
    @property
    def attributes(self) -> NDArray[np.float32]:
        """[m, k]."""
    @property
    def rewards(self) -> NDArray[np.float32]:
        """[m]."""
    @property
    def ends(self) -> NDArray[np.int64]:
        """[m]: where the token that is read ends in what was sent; -1 where that is not known."""
    def __len__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]: ...

@final
class Thinking:
    """What was taken out of a completion before it was scored."""

    @property
    def taken(self) -> list[tuple[int, int]]:
        """Begin and end of each part, in characters of a text, in ids of ids."""
    @property
    def unclosed(self) -> bool:
        """Whether it was never closed."""
    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]: ...

@final
class Batch:
    """The rewards of a batch of rollouts, in their order."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the attributes, in the order of the columns of `attributes`."""
    @property
    def ids(self) -> tuple[str, ...]:
        """The ids that were given to `score`; empty where none were."""
    @property
    def by_id(self) -> MappingProxyType[str, Result]:
        """Each rollout by its id."""
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
    @property
    def thinking(self) -> list[Thinking | None]:
        """For each rollout what `answer_only` has taken out; empty where that was asked of none."""
    @property
    def model_versions(self) -> tuple[str, ...]:
        """[n]: the model that gave each; one and the same, but with `version="any"`."""
    @overload
    def __getitem__(self, key: str, /) -> NDArray[np.float32]:
        """[n]: one attribute of all rollouts, by its name."""
    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Result:
        """One rollout by itself."""
    def __iter__(self) -> Iterator[Result]:
        """Each rollout by itself."""
    def __len__(self) -> int: ...
    def to_dict(self) -> dict[str, Any]:
        """The columns by their names: `id` where ids were given, `reward`, each attribute, `tokens`, `truncated`, `error`."""
    def to_pandas(self) -> Any:
        """The columns of `to_dict` as a pandas data frame; needs pandas."""
    def to_polars(self) -> Any:
        """The columns of `to_dict` as a Polars data frame; needs polars."""
    def to_arrow(self) -> Any:
        """The columns of `to_dict` as an Arrow table; needs pyarrow."""
    def _repr_html_(self) -> str: ...
    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]: ...

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
    @property
    def thinking(self) -> Thinking | None:
        """What `answer_only` has taken out of its completion."""
    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]: ...

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
    @property
    def _tokenizer(self) -> HasVocabulary | str | None: ...
    def _watch(self, watch: Callable[[], str | None]) -> None:
        """From now on `watch()` is asked while a call waits: a str is why the server will not answer any more."""
    def _card(self, timeout: float | None = None) -> dict[str, Any]: ...
    def score(
        self,
        *,
        prompts: Iterable[Prompt] | None = None,
        completions: Iterable[Completion] | None = None,
        messages: Iterable[Messages] | None = None,
        texts: Iterable[str] | None = None,
        input_ids: IdRows | None = None,
        prompt_ids: IdRows | None = None,
        completion_ids: IdRows | None = None,
        attention_mask: Masks | None = None,
        lengths: Ids | None = None,
        prompt_mask: Masks | None = None,
        prompt_lengths: Ids | None = None,
        completion_mask: Masks | None = None,
        completion_lengths: Ids | None = None,
        id: str | int | Iterable[str | int] | None = None,
        weights: Mapping[str, float] | None = None,
        weighting: str | None = None,
        aggregation: Aggregation | str | None = None,
        group: str | int | None = None,
        groups: Iterable[str | int] | None = None,
        finish_reason: FinishReason | Iterable[FinishReason] = None,
        finish_reasons: Iterable[FinishReason] | None = None,
        require_completion: bool | None = False,
        answer_only: bool | tuple[str, str] | None = None,
        version: str | None = None,
        tokenizer: HasVocabulary | str | None = None,
        tools: Sequence[Json] | Sequence[Sequence[Json] | None] | str | None = None,
        documents: Sequence[Json] | Sequence[Sequence[Json] | None] | str | None = None,
        chat_template_kwargs: Json | Sequence[Json | None] | str | None = None,
        chat_template: str | Sequence[str | None] | None = None,
        reference: str | Messages | Sequence[str | Messages | None] | None = None,
        deadline_ms: int | None = None,
        priority: int | None = None,
        traceparent: str | None = None,
        raise_on_error: bool = True,
        timeout: float | None = None,
        progress: bool | Bar | Callable[..., Bar] | None = None,
    ) -> Batch:
        """Scores rollouts, and returns when all are answered.

        Exactly one form: `prompts` and `completions`, or `messages` (the model's chat template is applied); `texts` (which
        carry it already); `input_ids`; `prompt_ids` and `completion_ids`, padded only where a mask or lengths say so.

        After `timeout` seconds it returns in any case. Raises `RewardSidecarError` for the first rollout that failed, with
        the whole `batch`; not with `raise_on_error=False`. Raises `TypeError` or `ValueError` for arguments that cannot be meant, before anything
        is sent.
        """
    def stream(
        self,
        rollouts: Iterable[Rollout],
        group: str | int | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        weighting: str | None = None,
        aggregation: Aggregation | str | None = None,
        require_completion: bool | None = False,
        answer_only: bool | tuple[str, str] | None = None,
        version: str | None = None,
        tokenizer: HasVocabulary | str | None = None,
        deadline_ms: int | None = None,
        priority: int | None = None,
        traceparent: str | None = None,
        timeout: float | None = None,
    ) -> Stream:
        """Scores rollouts as they come, and gives their results as they finish.

        `rollouts` may be a generator, and endless: the next one is asked for while a result is waited for and there is
        room in flight. What is said here holds for rollouts that say nothing else; one with weights of its own has
        nothing of the aggregation here. A rollout that is malformed or rejected has a result with an `error`; raises
        `ConnectionFailed` when the server is lost, and `DeadlineExceeded` when no result has come for `timeout` seconds.
        """
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

@final
class Defaults:
    """What holds for each rollout of a stream."""

    def __new__(cls, client: Client, group: str | int | None = None, **options: Unpack[Options]) -> Self: ...

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
    def card(self) -> int | dict[str, Any]:
        """What the server serves, or where it is not known yet, the number under which `finished` will have it."""
    def forget(self, number: int) -> None:
        """Nobody waits for this one any more: what of it is unanswered is withdrawn."""
    def expire(self, number: int, timeout: float) -> None:
        """The time of this one is over, which was so many seconds: what of it is unanswered fails."""
    def finished(self) -> list[tuple[int, Any, bool]]:
        """What is done since the last call: numbers, what was wanted or an exception, and which of them."""
    def close(self) -> None:
        """What is not done fails with `CLOSED`."""

def _batch(*columns: Any) -> Batch:
    """A batch, of its columns."""

def _reads(tokens: Any, attributes: Any, rewards: Any, ends: Any) -> Reads:
    """Reads, of their columns."""

def _thinking(taken: Any, unclosed: bool) -> Thinking:
    """Thinking, of what its pickle holds."""

def _result(*fields: Any) -> Result:
    """A result, of its fields."""

def run_cli(arguments: Sequence[str]) -> int:
    """The command line: arguments in, the first of them its name, and the exit code out. For once in a process."""
