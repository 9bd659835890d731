"""TRL: reward functions for `GRPOTrainer`, `RLOOTrainer`, AsyncGRPO and `OnlineDPOTrainer`.

    GRPOTrainer(model, reward_funcs=reward_sidecar.trl.reward_funcs("shm:///run/reward.sock"), ...)

Invariant: however many functions there are, each batch of completions is one request. Read against trl 1.16.0.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ._trainer import Once, OnRejection, Scored, Scorer, ScorerOptions, conversation, ended, group_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._client import Client
    from ._types import Request

__all__ = ["RewardFunction", "reward_funcs"]


def reward_funcs(
    server: str | Client,
    attributes: Sequence[str] | None = None,
    *,
    on_rejection: OnRejection = "mask",
    also: Sequence[Callable[..., Any]] = (),
    eos_token_ids: Iterable[int] | None = None,
    **options: Unpack[ScorerOptions],
) -> list[Callable[..., Any]]:
    """The functions for `reward_funcs=` of a TRL trainer: the reward, or one for each of `attributes`, out of one request.

    `on_rejection`: what becomes of a completion that cannot be scored. `mask`: all functions say `None`, and TRL leaves the
    row out of its group's baseline and of the loss. `raise`: the training stops; for `OnlineDPOTrainer`, which has no mask.

    `also`: your other reward functions; they say `None` for the same rows. TRL counts a `None` beside a number as 0, so
    functions that stand beside these without it are refused.

    `eos_token_ids`: what ends a completion. GRPO and RLOO are asked themselves where it is not given.

        reward_funcs("shm:///run/reward.sock", ["helpfulness", "verbosity"])   # weights: GRPOConfig(reward_weights=...)
    """
    if attributes is not None and options.get("weights") is None and options.get("weighting") is None:
        # The columns do not depend on weights, but a model may have no weighting of its own.
        options["weights"] = dict.fromkeys(attributes, 1.0)
    takers = (1 if attributes is None else len(attributes)) + len(also)
    batches = _Batches(Scorer(server, on_rejection, ("mask", "raise"), **options), eos_token_ids, attributes, takers)
    names: Sequence[str | None] = [None] if attributes is None else attributes
    return [*(RewardFunction(batches, name) for name in names), *(_wrapped(batches, function) for function in also)]


class RewardFunction:
    """One column of the answers: what `reward_funcs` returns. TRL logs it under its `__name__`."""

    def __init__(self, batches: _Batches, attribute: str | None) -> None:
        """For `reward_funcs`: `RewardFunction(batches, "helpfulness")`."""
        self.__name__: str = attribute or "reward"
        self._batches, self._attribute = batches, attribute

    def __call__(self, **call: Any) -> list[float | None]:
        """One number for each completion, as TRL asks for them: `function(prompts=..., completions=..., ...)`."""
        return self._batches.scored(call).column(self._attribute)


class _Beside:
    """A function of the user's, which says nothing of completions that cannot be scored."""

    def __init__(self, batches: _Batches, function: Callable[..., Any]) -> None:
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self._batches, self._function = batches, function

    def __call__(self, **call: Any) -> list[Any]:
        return self._masked(self._batches.scored(call), self._function(**call))

    def _masked(self, scored: Scored, values: Iterable[Any]) -> list[Any]:
        return [None if row in scored.rejections else value for row, value in enumerate(values)]


class _AsyncBeside(_Beside):
    async def __call__(self, **call: Any) -> list[Any]:  # type: ignore[override]
        scored, values = await asyncio.gather(asyncio.to_thread(self._batches.scored, call), self._function(**call))
        return self._masked(scored, values)


def _wrapped(batches: _Batches, function: Callable[..., Any]) -> _Beside:
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    return (_AsyncBeside if is_async else _Beside)(batches, function)


class _Batches:
    """The answers to batches of completions, each asked for once."""

    def __init__(self, scorer: Scorer, ends: Iterable[int] | None, shown: Sequence[str] | None, takers: int) -> None:
        self._scorer, self._shown, self._once = scorer, shown, Once(takers)
        self._eos = None if ends is None else frozenset(ends)

    def scored(self, call: dict[str, Any]) -> Scored:
        """The answers to one call of TRL's, of which every function sees the same lists."""
        return self._once.of(call["completions"], lambda: self._ask(call))

    def _ask(self, call: dict[str, Any]) -> Scored:
        trainer = getattr(call.get("log_extra"), "__self__", None)
        self._check(call, trainer)
        prompts, completions = call["prompts"], call["completions"]
        request: Request = {"groups": [group_of(prompt) for prompt in prompts]}
        request["finish_reasons"] = self._finish_reasons(call, trainer)
        if isinstance(completions[0], str):
            # As TRL gives texts to a reward model: one behind the other, without a template.
            request["texts"] = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        else:
            pairs = [conversation(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
            request["prompts"], request["completions"] = map(list, zip(*pairs, strict=True))
        scored = self._scorer.score(request)
        self._show(call, scored)
        return scored

    def _check(self, call: dict[str, Any], trainer: Any) -> None:
        """Refuses a mask where it would become a 0."""
        if self._scorer.on_rejection != "mask":
            return
        if "trainer_state" in call and "log_extra" not in call:
            raise ValueError('OnlineDPOTrainer has no mask, None is 0 to it: reward_funcs(..., on_rejection="raise")')
        for function in getattr(trainer, "reward_funcs", ()):
            # Those of another call mask other rows.
            if getattr(function, "_batches", None) is not self:
                name = getattr(function, "__name__", type(function).__name__)
                raise ValueError(f"TRL takes a masked reward for 0 beside {name}: reward_funcs(..., also=[{name}])")

    def _finish_reasons(self, call: dict[str, Any], trainer: Any) -> list[str | None]:
        ends = self._eos if self._eos is not None else frozenset(getattr(trainer, "eos_token_ids", ()))
        rows: Iterable[Any] = call["completion_ids"]
        if "trainer_state" in call and "log_extra" not in call:
            # OnlineDPO pads its rows behind the first token that ends them.
            rows = ([id for id in row if id in ends][:1] or row for row in rows)
        return [ended(row, ends) for row in rows]

    def _show(self, call: dict[str, Any], scored: Scored) -> None:
        """Attributes that are no columns go to the trainer's table and log, and the share that was rejected."""
        if "log_extra" not in call:
            return
        for name in scored.batch.names:
            if self._shown is None or name not in self._shown:
                column = scored.column(name)
                call["log_extra"](name, column)
                if given := [value for value in column if value is not None]:
                    call["log_metric"](f"attributes/{name}", sum(given) / len(given))
        call["log_metric"]("rejected", len(scored.rejections) / len(scored.batch))
