"""What arguments look like, for type checkers and for readers. Nothing here does anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol, TypeAlias, TypedDict

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


class HasVocabulary(Protocol):
    """A tokenizer of transformers, for instance."""

    def get_vocab(self) -> dict[str, int]: ...


class Bar(Protocol):
    """What shows how far a call is: a bar of tqdm's, for instance."""

    def update(self, n: int, /) -> object:
        """So many more rollouts are answered."""

    def close(self) -> object:
        """The call is over. Called only where the call has made the bar."""


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

Masks: TypeAlias = Sequence[Ids] | NDArray[Any] | Array
"""For each token id 1 where it counts and 0 where it is padding: as an attention mask is."""

FinishReason: TypeAlias = str | Mapping[str, Any] | Enum | None
"""Why a completion ended, as the engine that made it says: a word such as `stop`, `length`, `tool_calls`, `max_tokens`, an enum's
member, SGLang's `{"type": ...}`. What is unknown counts as finished."""


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


class _SoftLength(TypedDict):
    limit_tokens: int
    cache_tokens: int


class SoftLength(_SoftLength, total=False):
    """Taken off the more, the nearer the completion is to `limit_tokens`: from 0 at `limit_tokens - cache_tokens` to `most`."""

    most: float
    """Default: 1."""


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
    unfinished_value: float
    soft_length: SoftLength


class Options(TypedDict, total=False):
    """How rollouts are to be scored."""

    weights: Mapping[str, float] | None
    """By attribute. None at all: the model's default weighting."""
    weighting: str | None
    """One of the card's weightings, by its name."""
    aggregation: Aggregation | str | None
    """Everything else about the aggregation, as in a rollout file."""
    require_completion: bool | None
    """Whether a rollout whose completion has no token is rejected, with `EMPTY_COMPLETION`. Default: it is scored."""
    answer_only: bool | tuple[str, str] | None
    """Whether a completion's thinking is taken out before it is scored: by the marks of the model's chat template (or `<think>`
    and `</think>`), or by these two. `Batch.thinking` says what went. Default: as the model's preset has it, which for most is no."""
    version: str | None
    """Which model version is to answer: one by its name, or `any`. Default: that of the first rewards; rollouts that another
    one scored fail with `OTHER_VERSION`."""
    tokenizer: HasVocabulary | str | None
    """Whose token ids they are: another tokenizer than the model's is refused. A transformers tokenizer, or its fingerprint."""
    deadline_ms: int | None
    """Milliseconds from the call after which a rollout is not scored any more."""
    priority: int | None
    """Higher goes first."""
    traceparent: str | None
    """W3C trace context."""


class ScoreOptions(Options, total=False):
    """The arguments of `score`, but for what is to be scored."""

    id: str | int | Iterable[str | int] | None
    """A name for each rollout, for `Batch.by_id` and for the server's log."""
    group: str | int | None
    """Rollouts of one group share a prompt, which is computed once. Never changes a reward."""
    finish_reason: FinishReason | Iterable[FinishReason]
    """Why all completions ended, or each of them."""
    finish_reasons: Iterable[FinishReason] | None
    """Why each completion ended."""
    attention_mask: Masks | None
    """Which of `input_ids` count; or of prompt and completion, one behind the other."""
    lengths: Ids | None
    """How many of each row of `input_ids` count; on which side the padding is, they say themselves."""
    prompt_mask: Masks | None
    """Which of `prompt_ids` count."""
    prompt_lengths: Ids | None
    """How many of them count."""
    completion_mask: Masks | None
    """Which of `completion_ids` count."""
    completion_lengths: Ids | None
    """How many of them count."""
    tools: Sequence[Json] | Sequence[Sequence[Json] | None] | str | None
    """Tools that the policy could call, as the chat template is to see them: for all rollouts, or a list for each."""
    documents: Sequence[Json] | Sequence[Sequence[Json] | None] | str | None
    """Documents that the policy could read, in the same way."""
    chat_template_kwargs: Json | Sequence[Json | None] | str | None
    """Further variables of the chat template, such as `enable_thinking`: for all rollouts, or for each."""
    chat_template: str | Sequence[str | None] | None
    """Which of the model's chat templates is applied, by its name: for all rollouts, or for each."""
    reference: str | Messages | Sequence[str | Messages | None] | None
    """An answer that completions are compared with, of models that do so: for all rollouts, or for each."""
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
    groups: Iterable[str | int] | None
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
    reference: str | Messages | None
    text: str | None
    input_ids: Ids | None
    prompt_ids: Ids | None
    completion_ids: Ids | None
    group: str | int | None
    attention_mask: Ids | None
    prompt_mask: Ids | None
    completion_mask: Ids | None
    finish_reason: FinishReason
    require_completion: bool | None
    answer_only: bool | tuple[str, str] | None
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
    connect_timeout_s: float | None
    """How long to try a server that does not answer. Default: 30; before the first connection 2 for a socket that does not
    exist, whose path is mostly mistyped."""
    version: str | None
    """Which model version is to answer, where a call does not say: one by its name, or `any`."""
    model: str | None
    """The model that answers, by its name, where the server has several. Default: its first. Not over shared memory, which is the
    first model's."""
    tokenizer: HasVocabulary | str | None
    """Whose token ids are sent, where a call does not say: another tokenizer than the model's is refused."""
