"""The client: what is not Rust about it. Best of n, asyncio, and the model's card."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from . import _native
from ._desk import Desk

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ._native import Batch, Result
    from ._types import Candidate, Ids, Options, Prompt, Request, Rollout, ScoreOptions, Settings


@dataclass(frozen=True)
class Card:
    """What a server serves, and on which terms."""

    name: str
    """The model's name."""
    model_version: str
    """Identifies weights, precision and template: the same version gives the same bits."""
    architecture: str
    """As the model's own configuration calls it."""
    attributes: tuple[str, ...]
    """Names of the model's outputs, in the order of a batch's columns."""
    weightings: Mapping[str, Mapping[str, float]]
    """Weights that have a name, for `weighting=`."""
    default_weighting: str | None
    """The one that counts where a request names none. `None`: then each request must."""
    context_tokens: int
    """Longest rollout in tokens."""
    vocabulary_size: int
    """Token ids are below this."""
    chat_template: str | None
    """Jinja. `None`: it takes no conversations."""
    in_flight_limit: int
    """Rollouts of one connection that may be unanswered at a time."""
    over_long: str
    """What happens to a rollout longer than the context: `reject` or `truncate-left`."""
    aggregations: tuple[str, ...]
    """Names for `aggregation=`."""


@dataclass(frozen=True)
class Best:
    """The best of some candidates, best first."""

    indices: tuple[int, ...]
    """Their places among the candidates."""
    rewards: np.ndarray[Any, np.dtype[np.float32]]
    """float32 [k]."""
    candidates: tuple[Candidate, ...]
    """Themselves."""
    batch: Batch
    """What was said of all candidates."""

    @classmethod
    def of(cls, candidates: Sequence[Candidate], batch: Batch, k: int) -> Best:
        """The best `k`; fewer where fewer have rewards. Of equals, the first."""
        order = np.argsort(-batch.rewards, kind="stable")[:k]
        scored = order[np.isfinite(batch.rewards[order])]
        indices = tuple(scored.tolist())
        return cls(indices, batch.rewards[scored], tuple(candidates[index] for index in indices), batch)


def _candidates(prompt: Prompt | Ids, candidates: Sequence[Candidate], k: int, options: ScoreOptions) -> Request:
    """The arguments of `score` that ask for all candidates of one prompt."""
    if not 0 < k <= len(candidates):
        raise ValueError(f"the best {k} of {len(candidates)} candidates cannot be found")
    rows: Any = [prompt] * len(candidates)
    completions: Any = list(candidates)
    request: Request = {**options}  # type: ignore[typeddict-item]
    if isinstance(candidates[0], str):
        request["prompts"], request["completions"] = rows, completions
    else:
        request["prompt_ids"], request["completion_ids"] = rows, completions
    return request


class Client(_native.Client):
    """A client of one server: `shm:///path` (shared memory), `unix:///path` or `grpc://host:port`.

    It connects when it is first used, in each process for itself: it may be pickled, and used after a fork. Threads may
    share it. A lost connection is made anew, for up to `connect_timeout_s`, and what was unanswered is asked again.

    Arrays of token ids are read where they are: leave them as they are until the call returns.
    """

    _desks: WeakKeyDictionary[asyncio.AbstractEventLoop, Desk]

    @property
    def card(self) -> Card:
        """What the server serves, as of the latest connection."""
        return Card(**self._card())

    def best_of_n(
        self, prompt: Prompt | Ids, candidates: Sequence[Candidate], k: int = 1, **options: Unpack[ScoreOptions]
    ) -> Best:
        """The best `k` of some candidates for one prompt: texts for texts and conversations, token ids for token ids."""
        return Best.of(candidates, self.score(**_candidates(prompt, candidates, k, options)), k)

    async def score_async(self, **request: Unpack[Request]) -> Batch:
        """As `score`, for an event loop."""
        return await self._desk().score(request)

    def close(self) -> None:
        """Ends the connection. What waits in an event loop fails with `CLOSED`; threads that wait get their answers."""
        super().close()
        for desk in self.__dict__.pop("_desks", {}).values():
            desk.close()

    def _desk(self) -> Desk:
        """The running event loop's desk."""
        desks: WeakKeyDictionary[asyncio.AbstractEventLoop, Desk]
        desks = self.__dict__.setdefault("_desks", WeakKeyDictionary())
        loop = asyncio.get_running_loop()
        if loop not in desks:
            desks[loop] = Desk(self)
        return desks[loop]

    def __getstate__(self) -> None:
        # It is made of its arguments; loops do not travel.
        return None


class AsyncClient:
    """As `Client`, for asyncio."""

    def __init__(self, address: str, **settings: Unpack[Settings]) -> None:
        self._client = Client(address, **settings)
        self._settings = settings

    @property
    def address(self) -> str:
        """The address, as it was given."""
        return self._client.address

    async def card(self) -> Card:
        """What the server serves, as of the latest connection."""
        return await asyncio.to_thread(lambda: self._client.card)

    async def score(self, **request: Unpack[Request]) -> Batch:
        """Scores rollouts, and returns when all are answered."""
        return await self._client.score_async(**request)

    async def best_of_n(
        self, prompt: Prompt | Ids, candidates: Sequence[Candidate], k: int = 1, **options: Unpack[ScoreOptions]
    ) -> Best:
        """The best `k` of some candidates for one prompt: texts for texts and conversations, token ids for token ids."""
        return Best.of(candidates, await self.score(**_candidates(prompt, candidates, k, options)), k)

    async def stream(
        self,
        rollouts: Iterable[Rollout] | AsyncIterable[Rollout],
        group: str | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Result, None]:
        """Scores rollouts as they come, and gives their results as they finish.

        The next one is asked for while there is room for it in flight, whether results are taken or not.
        """
        room = (await self.card()).in_flight_limit
        window = min(room, self._settings.get("in_flight_limit") or room)
        results = self._client._desk().stream(rollouts, _native.Defaults(group, **options), window)
        async with aclosing(results):
            async for result in results:
                yield result

    async def close(self) -> None:
        """Ends the connection. What is unanswered fails with `CLOSED`."""
        self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.address, self._settings)

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r})"


def _restore(address: str, settings: Settings) -> AsyncClient:
    return AsyncClient(address, **settings)
