"""What arguments look like, for type checkers and for readers. Nothing here does anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray


class _Message(TypedDict):
    role: str


class Message(_Message, total=False):
    """One message of a conversation. It may have whatever else the model's chat template reads."""

    content: str | Sequence[Mapping[str, Any]] | None
    """What is said: a text, or parts that are texts."""
    name: str
    tool_calls: Sequence[Mapping[str, Any]] | None
    tool_call_id: str
    reasoning_content: str | None
    score: bool
    """Whether this turn is scored too, as if it were the completion of what comes before it. An assistant's only."""


class Array(Protocol):
    """What NumPy can read: a tensor on the CPU, for instance."""

    def __array__(self) -> NDArray[Any]: ...


Messages: TypeAlias = Sequence[Message | dict[str, Any]]
"""Messages of a conversation, oldest first."""

Prompt: TypeAlias = str | Messages
"""A text is what a user says."""

Completion: TypeAlias = str | Messages
"""A text is what the assistant says; of messages the last is the assistant's."""

Json: TypeAlias = Mapping[str, Any]
"""An object of JSON: a tool's schema, a document."""

Ids: TypeAlias = NDArray[np.integer[Any]] | Array | Sequence[int]
"""The token ids of one rollout, or of a part of it."""

IdRows: TypeAlias = Sequence[Ids] | NDArray[np.integer[Any]] | Array | tuple[Ids, Ids]
"""The token ids of several: one array for each, an array of two dimensions, or a tuple of all ids in one array and the
offsets: where each row begins, and where the last one ends."""

Candidate: TypeAlias = Completion | Ids


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
    """Milliseconds from the call after which a rollout is not scored any more."""
    priority: int | None
    """Higher goes first."""
    traceparent: str | None
    """W3C trace context."""


class ScoreOptions(Options, total=False):
    """The arguments of `score`, but for what is to be scored."""

    id: str | Iterable[str] | None
    """A name for each rollout, for `Batch.by_id` and for the server's log."""
    group: str | None
    """Rollouts of one group share a prompt, which is computed once. Never changes a reward."""
    finish_reasons: Iterable[str | None] | None
    """Why each completion ended: `stop` or `length`."""
    tools: Sequence[Json] | Sequence[Sequence[Json] | None] | str | None
    """Tools that the policy could call, as the chat template is to see them: for all rollouts, or a list for each."""
    documents: Sequence[Json] | Sequence[Sequence[Json] | None] | str | None
    """Documents that the policy could read, in the same way."""
    chat_template_kwargs: Json | Sequence[Json | None] | str | None
    """Further variables of the chat template, such as `enable_thinking`: for all rollouts, or for each."""
    chat_template: str | Sequence[str | None] | None
    """Which of the model's chat templates is applied, by its name: for all rollouts, or for each."""
    raise_on_error: bool
    """Whether a rollout that fails raises. Default: yes."""
    timeout: float | None
    """Seconds after which the call returns in any case; what has no answer by then fails with `DEADLINE_EXCEEDED`."""


class Request(ScoreOptions, total=False):
    """The arguments of `score`."""

    prompts: Iterable[Prompt] | None
    completions: Iterable[Completion] | None
    messages: Iterable[Messages] | None
    texts: Iterable[str] | None
    input_ids: IdRows | None
    prompt_ids: IdRows | None
    completion_ids: IdRows | None
    groups: Iterable[str] | None
    """As `group`, one for each."""


class RolloutFields(TypedDict, total=False):
    """The fields of a rollout."""

    id: str | int | None
    prompt: Prompt | None
    completion: Completion | None
    messages: Messages | None
    tools: Sequence[Json] | str | None
    documents: Sequence[Json] | str | None
    chat_template_kwargs: Json | str | None
    chat_template: str | None
    text: str | None
    input_ids: Ids | None
    prompt_ids: Ids | None
    completion_ids: Ids | None
    group: str | None
    finish_reason: Literal["stop", "length"] | None
    weights: Mapping[str, float] | None
    weighting: str | None
    aggregation: Aggregation | str | None
    deadline_ms: int | None
    priority: int | None
    traceparent: str | None


Rollout: TypeAlias = RolloutFields | dict[str, Any]
"""One rollout, in the form of a line of a rollout file; exactly one of the five forms."""


class Settings(TypedDict, total=False):
    """What a client is made with, beside its address."""

    in_flight_limit: int | None
    """Most rollouts unanswered at a time; the server's limit counts where it is lower."""
    deadline_ms: int | None
    """The deadline of rollouts that bring none of their own."""
    spin_us: int | None
    """How long to watch shared memory for an answer before sleeping. Pays where there is a core to spare for it."""
    connect_timeout_s: float
    """How long to try a server that does not answer. Default: 30."""
