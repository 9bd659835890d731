"""What the trainers' adapters share: one request for a batch, and what becomes of a rollout that cannot be scored.

Invariant: every number that leaves an adapter was given by the model, or is the mean of numbers that were (`group-mean`).
A fault that is not the rollout's own (no server, no time, a wrong option) always raises: masked, it would train on nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict

import numpy as np

from ._client import Client

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._errors import RewardSidecarError
    from ._native import Batch
    from ._types import Aggregation, Request

OnRejection: TypeAlias = Literal["raise"] | Literal["mask"] | Literal["group-mean"] | Literal["group-out"]
"""`raise`: the trainer's call fails. `mask`: the trainer is told, in its own way, that there is no reward. `group-mean`: the
mean of the group's scored members stands in. `group-out`: all members of the group are masked."""

# Rejections that are about one rollout; all others are about the request or the server.
ABOUT_ONE_ROLLOUT: Final = frozenset(
    {
        "BAD_MESSAGES",
        "EMPTY",
        "EMPTY_COMPLETION",
        "MALFORMED",
        "NON_FINITE",
        "NO_READ_POSITION",
        "PADDED",
        "TOKENIZER_FAILED",
        "TOKEN_OUT_OF_RANGE",
        "TOO_LONG",
    }
)

# Why engines say that a completion ended: vLLM and OpenAI, SGLang, slime. Any other word says nothing.
STOPPED: Final = frozenset({"stop", "tool_calls", "function_call", "completed", "eos_token"})
CUT_OFF: Final = frozenset({"length", "truncated", "max_tokens"})

ADDRESS_VARIABLE: Final = "REWARD_CLIENT_ADDRESS"
OPTIONS_VARIABLE: Final = "REWARD_CLIENT_OPTIONS"

# Batches whose answers are kept until all have taken them: a trainer may have several under way.
KEPT: Final = 64

log = logging.getLogger("reward_sidecar")


class ScorerOptions(TypedDict, total=False):
    """How an adapter asks: the options of `Client.score` that hold for every batch."""

    weights: Mapping[str, float] | None
    weighting: str | None
    aggregation: Aggregation | str | None
    deadline_ms: int | None
    priority: int | None
    require_completion: bool
    timeout: float | None


@dataclass(frozen=True)
class Scored:
    """A batch, and the rows of it that were rejected."""

    batch: Batch
    rejections: Mapping[int, RewardSidecarError]
    on_rejection: OnRejection

    def column(self, name: str | None = None, groups: Sequence[Hashable] | None = None) -> list[float | None]:
        """One attribute, or the reward, of each rollout. `None`: it is masked. `groups`: one key for each rollout."""
        values = self.batch.rewards if name is None else self.batch[name]
        column: list[float | None] = [None if row in self.rejections else float(v) for row, v in enumerate(values)]
        if self.rejections and self.on_rejection in ("group-mean", "group-out"):
            if groups is None or len(groups) != len(column):
                raise ValueError(f"on_rejection={self.on_rejection!r} needs the group of each rollout")
            self._settle(column, groups)
        return column

    def reward(self) -> float:
        """The reward of the only rollout, where there is no mask."""
        (value,) = self.column()
        if value is None:
            raise self.rejections[0]
        return value

    def attributes(self, row: int = 0) -> dict[str, float]:
        """The attributes of one rollout, by name: NaN where it was rejected."""
        return dict(zip(self.batch.names, map(float, self.batch.attributes[row]), strict=True))

    def _settle(self, column: list[float | None], groups: Sequence[Hashable]) -> None:
        for group in {groups[row] for row in self.rejections}:
            members = [row for row, key in enumerate(groups) if key == group]
            scored = [value for row in members if (value := column[row]) is not None]
            if not scored and self.on_rejection == "group-mean":
                # No member has a number from which one could be made.
                raise self.rejections[members[0]]
            for row in members:
                if self.on_rejection == "group-out":
                    column[row] = None
                elif column[row] is None:
                    column[row] = float(np.mean(scored))


class Scorer:
    """Asks for whole batches on an adapter's terms. May be pickled, and used after a fork, as the client may."""

    def __init__(
        self,
        server: str | Client,
        on_rejection: OnRejection,
        allowed: Iterable[OnRejection],
        **options: Unpack[ScorerOptions],
    ) -> None:
        """`allowed`: what the trainer has a way for."""
        allowed = tuple(allowed)
        if on_rejection not in allowed:
            raise ValueError(
                f"on_rejection={on_rejection!r}: this trainer has a way for {', '.join(map(repr, allowed))}"
            )
        self.client: Client = server if isinstance(server, Client) else Client(server)
        self.on_rejection: OnRejection = on_rejection
        self._options = options

    @classmethod
    def from_environment(cls, default: OnRejection, allowed: Iterable[OnRejection]) -> Scorer:
        """For trainers that hand over nothing: the address and, as JSON, options out of the environment's variables."""
        address = os.environ.get(ADDRESS_VARIABLE)
        if not address:
            raise ValueError(
                f"set {ADDRESS_VARIABLE} to the server's address: shm:///path, unix:///path or grpc://host:port"
            )
        options = json.loads(os.environ.get(OPTIONS_VARIABLE) or "{}")
        return cls(address, options.pop("on_rejection", default), allowed, **options)

    def score(self, request: Request) -> Scored:
        """Scores a batch. Raises what `on_rejection` has no say in, and everything where it is `raise`."""
        return self._judge(self.client.score(**self._request(request)))

    async def score_async(self, request: Request) -> Scored:
        """As `score`, for an event loop."""
        return self._judge(await self.client.score_async(**self._request(request)))

    def _request(self, request: Request) -> Request:
        asked: dict[str, Any] = {**self._options, **request, "raise_on_error": self.on_rejection == "raise"}
        # Of other forms nobody knows where the completion is.
        if {"completions", "completion_ids", "messages"}.isdisjoint(request):
            asked.pop("require_completion", None)
        else:
            asked.setdefault("require_completion", True)
        return asked  # type: ignore[return-value]

    def _judge(self, batch: Batch) -> Scored:
        for error in batch.errors:
            if error.code not in ABOUT_ONE_ROLLOUT:
                raise error
        if batch.errors:
            log.warning(
                "%s: %d of %d rollouts, first %s", self.on_rejection, len(batch.errors), len(batch), batch.errors[0]
            )
        rejections = {error.index: error for error in batch.errors if error.index is not None}
        return Scored(batch, rejections, self.on_rejection)


def from_environment() -> dict[str, Any]:
    """For trainers that hand over nothing: `server` and, as JSON, options out of the environment's variables."""
    address = os.environ.get(ADDRESS_VARIABLE)
    if not address:
        raise ValueError(
            f"set {ADDRESS_VARIABLE} to the server's address: shm:///path, unix:///path or grpc://host:port"
        )
    return {"server": address, **json.loads(os.environ.get(OPTIONS_VARIABLE) or "{}")}


def plain(options: Any) -> dict[str, Any]:
    """A trainer's configuration as objects that can become JSON, which OmegaConf's own cannot."""
    if "omegaconf" in sys.modules:
        from omegaconf import OmegaConf

        if OmegaConf.is_config(options):
            options = OmegaConf.to_container(options, resolve=True)
    return dict(options or {})


class Once:
    """The answers to batches that several functions are given, each asked for once. May be pickled, empty."""

    def __init__(self, takers: int) -> None:
        self._takers = takers
        self.__setstate__(takers)

    def of(self, batch: object, ask: Callable[[], Scored]) -> Scored:
        """What `ask` says of this very object, which every taker has to name."""
        with self._lock:
            _, answer, left = self._asked.pop(id(batch), (None, None, self._takers))
            mine = answer is None
            answer = answer or Future()
            if left > 1:
                self._asked[id(batch)] = batch, answer, left - 1
            while len(self._asked) > KEPT:
                del self._asked[next(iter(self._asked))]
        if mine:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)
        return answer.result()

    def __getstate__(self) -> int:
        return self._takers

    def __setstate__(self, takers: int) -> None:
        self._takers = takers
        self._lock = threading.Lock()
        # By identity, with the batch itself, so that no other object has it meanwhile; and how many are still to take it.
        self._asked: dict[int, tuple[object, Future[Scored], int]] = {}


def finish_reason(reason: object) -> str | None:
    """`stop` or `length` for what an engine says; `None` where it says neither."""
    if isinstance(reason, Mapping):
        # SGLang: {"type": "length", "length": 256}.
        reason = reason.get("type")
    # An enumeration's member by its value: slime's `Sample.Status.TRUNCATED` is "truncated".
    word = getattr(reason, "value", reason)
    return "stop" if word in STOPPED else "length" if word in CUT_OFF else None


def ended(ids: Sequence[int], eos_token_ids: Iterable[int]) -> str | None:
    """`stop` where a completion's last token is one that ends it, else `length`; `None` where none is known to."""
    ends = frozenset(eos_token_ids)
    return None if not ends else "stop" if len(ids) > 0 and int(ids[-1]) in ends else "length"


def group_of(prompt: object) -> str:
    """A key for rollouts of one prompt. Equal prompts have equal keys, wherever they are asked."""
    return hashlib.sha256(json.dumps(prompt, default=str).encode()).hexdigest()[:32]


def conversation(prompt: Sequence[Any], completion: Sequence[Any]) -> tuple[list[Any], Any]:
    """The messages that a completion answers, and the text of its last message, which is what is scored."""
    return [*prompt, *completion[:-1]], completion[-1]["content"] if completion else ""
