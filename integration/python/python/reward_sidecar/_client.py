"""The client: what is not Rust about it. Best of n, asyncio, and the model's card."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from . import _native
from ._desk import Desk
from ._tokenizer import Vocabulary

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ._native import Batch, Result
    from ._types import Candidate, Ids, Options, Prompt, Request, Rollout, ScoreOptions, Settings


@dataclass(frozen=True)
class Card:
    """What a server serves, and on which terms.

    print(client.card().attributes)   # ('helpfulness', 'relevance', ...)
    """

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
    chat_template: str | None = field(repr=False)
    """Jinja. `None`: it takes no conversations that name no template."""
    chat_templates: Mapping[str, str] = field(repr=False)
    """Further templates by their names, for `chat_template=`."""
    in_flight_limit: int
    """Rollouts of one connection that may be unanswered at a time."""
    over_long: str
    """What happens to a rollout longer than the context: `reject` or `truncate-left`."""
    aggregations: tuple[str, ...]
    """Names for `aggregation=`."""
    tokenizer: Vocabulary | None
    """The tokenizer's vocabulary, as far as it is told. `None`: the model has no tokenizer."""

    @classmethod
    def _of(cls, fields: Mapping[str, Any]) -> Card:
        tokenizer = fields["tokenizer"]
        return cls(**{**fields, "tokenizer": None if tokenizer is None else Vocabulary(**tokenizer)})


@dataclass(frozen=True)
class Best:
    """The best of some candidates, best first: what `best_of_n` returns.

    best = client.best_of_n("How do I make tea?", answers, k=2)
    print(best.candidates[0], best.rewards[0])
    """

    indices: tuple[int, ...]
    """Their places among the candidates: k of them, or fewer where fewer have rewards."""
    rewards: np.ndarray[Any, np.dtype[np.float32]]
    """float32 [k], falling."""
    candidates: tuple[Candidate, ...]
    """Themselves."""
    batch: Batch
    """What was said of all candidates."""

    @classmethod
    def of(cls, candidates: Sequence[Candidate], batch: Batch, k: int) -> Best:
        """The best `k` by the rewards of a batch; fewer where fewer have rewards. Of equals, the first.

        Best.of(completions, client.score(prompts=prompts, completions=completions), k=1)
        """
        order = np.argsort(-batch.rewards, kind="stable")[:k]
        scored = order[np.isfinite(batch.rewards[order])]
        indices = tuple(scored.tolist())
        return cls(indices, batch.rewards[scored], tuple(candidates[index] for index in indices), batch)


def _candidates(prompt: Prompt | Ids, candidates: Sequence[Candidate], k: int, options: ScoreOptions) -> Request:
    """The arguments of `score` that ask for all candidates of one prompt."""
    if isinstance(candidates, (str, bytes, Mapping)):
        raise TypeError(f"candidates is of type {type(candidates).__name__}; give a list of str or of token ids")
    if not 0 < k <= len(candidates):
        raise ValueError(f"the best {k} of {len(candidates)} candidates cannot be found")
    rows: Any = [prompt] * len(candidates)
    # One array of all stays one: whether it is padded is seen, or said, there.
    completions: Any = candidates if getattr(candidates, "ndim", 1) == 2 else list(candidates)
    request: Request = {**options}  # type: ignore[typeddict-item]
    if _is_text(prompt, candidates[0]):
        request["prompts"], request["completions"] = rows, completions
    else:
        request["prompt_ids"], request["completion_ids"] = rows, completions
    return request


def _is_text(prompt: Any, candidate: Any) -> bool:
    """Whether they go through the chat template, rather than being token ids. `as_py`: Arrow's texts have it."""
    for part in (prompt, candidate):
        if isinstance(part, (list, tuple)) and len(part) > 0 and isinstance(part[0], Mapping):
            return True
    return any(isinstance(part, str) or hasattr(part, "as_py") for part in (prompt, candidate))


class Client(_native.Client):
    """A client of one server: `shm:///path` (shared memory), `unix:///path` or `grpc://host:port`.

    It connects when it is first used, in each process for itself: it may be pickled, and used after a fork. Threads may
    share it. A lost connection is made anew, for up to `connect_timeout_s` seconds (30), and what was unanswered is asked
    again. A server that hangs is noticed within 10 s.

    A path at which there is no socket is given up after 2 s, before the first connection, unless `connect_timeout_s` says
    otherwise.

    `in_flight_limit`: most rollouts unanswered at a time. `deadline_ms`: milliseconds that rollouts may take that bring no
    deadline of their own. `spin_us`: microseconds for which a lane is watched before this side sleeps. `version` and
    `tokenizer` are those of `score`, for calls that do not say. `model`: the name of the model that answers, where the server
    has several (not over shared memory); a client is of one model.

    Arrays of token ids are read where they are: leave them as they are until the call returns.

        with Client("unix:///run/reward.sock") as client:
            batch = client.score(prompts=["Hello"], completions=["Hello, how can I help?"])
            print(batch.rewards)
    """

    _desks: WeakKeyDictionary[asyncio.AbstractEventLoop, Desk]
    _ended: Callable[[], str | None] | None = None

    def connect(self, timeout: float | None = None) -> Self:
        """Connects now rather than with the first rollout, and returns the client itself.

        Raises `ConnectionFailed` if there is no server, and `DeadlineExceeded` after `timeout` seconds.

            client = Client("grpc://reward:50051").connect(timeout=5.0)
        """
        self.card(timeout)
        return self

    def card(self, timeout: float | None = None) -> Card:
        """What the server serves, as of the latest connection; connects where there was none.

        Raises `ConnectionFailed` if there is no server, and `DeadlineExceeded` after `timeout` seconds.

            client.card().attributes          # ('helpfulness', 'relevance', ...)
        """
        return Card._of(self._card(timeout))

    def best_of_n(
        self, prompt: Prompt | Ids, candidates: Sequence[Candidate], k: int = 1, **options: Unpack[ScoreOptions]
    ) -> Best:
        """The best `k` of some candidates for one prompt: texts or messages for a text or a conversation, token ids for token
        ids.

        The options are those of `score`. Candidates that fail raise as there, or, with `raise_on_error=False`, are never
        among the best.

            best = client.best_of_n("How do I make tea?", ["Tea.", "Pour boiling water over the leaves."], k=1)
            best.candidates                   # ('Pour boiling water over the leaves.',)
        """
        return Best.of(candidates, self.score(**_candidates(prompt, candidates, k, options)), k)

    async def score_async(self, **request: Unpack[Request]) -> Batch:
        """As `score`, for an event loop. Cancelling it withdraws its rollouts.

        first, second = await asyncio.gather(client.score_async(texts=["a"]), client.score_async(texts=["b"]))
        """
        return await self._desk().score(request)

    def close(self) -> None:
        """Ends the connection. What waits in an event loop fails with `CLOSED`; threads that wait get their answers.

        A `with` block does it too: `with Client(address) as client: ...`
        """
        super().close()
        for desk in self.__dict__.pop("_desks", {}).values():
            desk.close()

    def _follow(self, ended: Callable[[], str | None]) -> Self:
        """Belongs to a server of which `ended` says, with a reason, that it will not answer any more."""
        self._watch(ended)
        self._ended = ended
        return self

    def _desk(self) -> Desk:
        """The running event loop's desk."""
        desks: WeakKeyDictionary[asyncio.AbstractEventLoop, Desk]
        desks = self.__dict__.setdefault("_desks", WeakKeyDictionary())
        loop = asyncio.get_running_loop()
        if loop not in desks:
            desks[loop] = Desk(self, self._ended, self._tokenizer)
        return desks[loop]

    def __getstate__(self) -> None:
        # It is made of its arguments; loops do not travel.
        return None


class AsyncClient:
    """As `Client`, with the same settings, for asyncio: nothing here holds up the event loop, and a cancelled call ends at
    once and withdraws its rollouts.

        async with AsyncClient("unix:///run/reward.sock") as client:
            batch = await client.score(prompts=["Hello"], completions=["Hello, how can I help?"], timeout=10.0)
    """

    def __init__(self, address: str, **settings: Unpack[Settings]) -> None:
        """Connects with the first call: `AsyncClient("grpc://reward:50051", connect_timeout_s=5.0)`."""
        self._client = Client(address, **settings)
        self._settings = settings

    @property
    def address(self) -> str:
        """The address, as it was given: `AsyncClient("unix:///run/reward.sock").address` is `"unix:///run/reward.sock"`."""
        return self._client.address

    async def connect(self, timeout: float | None = None) -> Self:
        """Connects now rather than with the first rollout, and returns the client itself.

        Raises `ConnectionFailed` if there is no server, and `DeadlineExceeded` after `timeout` seconds.

            client = await AsyncClient("grpc://reward:50051").connect(timeout=5.0)
        """
        await self.card(timeout)
        return self

    async def card(self, timeout: float | None = None) -> Card:
        """What the server serves, as of the latest connection; connects where there was none.

        Raises `ConnectionFailed` if there is no server, and `DeadlineExceeded` after `timeout` seconds.

            (await client.card()).attributes  # ('helpfulness', 'relevance', ...)
        """
        return Card._of(await self._client._desk().card(timeout))

    async def score(self, **request: Unpack[Request]) -> Batch:
        """Scores rollouts, and returns when all are answered: see `Client.score`. Cancelling it withdraws its rollouts.

        batch = await client.score(input_ids=[[1, 2, 3], [4, 5]])
        """
        return await self._client.score_async(**request)

    async def best_of_n(
        self, prompt: Prompt | Ids, candidates: Sequence[Candidate], k: int = 1, **options: Unpack[ScoreOptions]
    ) -> Best:
        """The best `k` of some candidates for one prompt: see `Client.best_of_n`.

        best = await client.best_of_n("How do I make tea?", answers, k=2)
        """
        return Best.of(candidates, await self.score(**_candidates(prompt, candidates, k, options)), k)

    async def stream(
        self,
        rollouts: Iterable[Rollout] | AsyncIterable[Rollout],
        group: str | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Result, None]:
        """Scores rollouts as they come, and gives their results as they finish: see `Client.stream`.

        `rollouts` may be asynchronous. The next one is asked for while there is room for it in flight, whether results are
        taken or not. Ending the loop early, or cancelling it, withdraws what is unanswered; so does a `timeout` that passes.

            async for result in client.stream(rollouts, group="g1"):
                print(result.id, result.reward)
        """
        tokenizer = options.pop("tokenizer", None)
        defaults = _native.Defaults(self._client, group, **options)
        room = (await self.card(timeout)).in_flight_limit
        window = min(room, self._settings.get("in_flight_limit") or room)
        results = self._client._desk().stream(rollouts, defaults, window, timeout, tokenizer)
        async with aclosing(results):
            async for result in results:
                yield result

    async def close(self) -> None:
        """Ends the connection. What is unanswered fails with `CLOSED`.

        An `async with` block does it too: `async with AsyncClient(address) as client: ...`
        """
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


# The forms in which the candidates of `best_of_n` are not given.
_FORMS = frozenset(
    {"prompts", "completions", "messages", "texts", "input_ids", "prompt_ids", "completion_ids", "groups"}
)

# What only `Client.score` shows.
_SYNC = frozenset({"progress"})


def _show_parameters(method: Callable[..., Any], shown: Callable[..., Any], left_out: frozenset[str]) -> None:
    """Shows, in place of a method's `**options`, the parameters by name that `shown` has, but those that are `left_out`."""
    parameters = [
        parameter
        for parameter in inspect.signature(method).parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    for name, parameter in inspect.signature(shown).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in left_out:
            parameters.append(parameter)
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]


_show_parameters(Client.best_of_n, _native.Client.score, _FORMS | _SYNC)
_show_parameters(Client.score_async, _native.Client.score, _SYNC)
_show_parameters(AsyncClient.best_of_n, _native.Client.score, _FORMS | _SYNC)
_show_parameters(AsyncClient.score, _native.Client.score, _SYNC)
_show_parameters(AsyncClient.stream, _native.Client.stream, frozenset())
