"""verifiers, and prime-rl on top of it: a reward and the attributes as metrics of a `Task`.

    class MyTask(reward_sidecar.verifiers.task_with("shm:///run/reward.sock"), vf.Task): ...

Invariant: a trace that cannot be scored raises, so that verifiers records the error and prime-rl leaves it out of its
group's mean; `None` without an error would count 0. Read against verifiers 0.4.0 (`verifiers.v1`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ._trainer import Scored, Scorer, ScorerOptions, finish_reason, group_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._client import Client


def task_with(server: str | Client, *, weight: float = 1.0, **options: Unpack[ScorerOptions]) -> type:
    """A class to derive a `Task` from: the reward `reward_sidecar` with a weight, and a metric for each attribute.

    class Tea(task_with("shm:///run/reward.sock", weight=0.5), vf.Task): ...
    """
    from verifiers.v1.utils.decorators import metric, reward

    asked = _Traces(Scorer(server, "raise", ("raise",), **options))

    class RewardTask:
        """Scores the messages of a trace's last branch up to its last answer."""

        @reward(weight=weight)
        async def reward_sidecar(self, trace: Any) -> float:
            """The reward of the last answer."""
            return (await asked.of(trace)).reward()

        @metric
        async def reward_attributes(self, trace: Any) -> dict[str, float]:
            """Its attributes, which are recorded and not added up."""
            return (await asked.of(trace)).attributes()

    return RewardTask


class _Traces:
    """The answers to traces, each asked for once though reward and metric both want it: metrics come first."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._asked: dict[int, tuple[Any, asyncio.Task[Scored]]] = {}

    async def of(self, trace: Any) -> Scored:
        """What is said of this very trace."""
        if kept := self._asked.pop(id(trace), None):
            return await kept[1]
        answer = asyncio.ensure_future(self._ask(trace))
        self._asked[id(trace)] = trace, answer
        try:
            return await answer
        except BaseException:
            # verifiers scores it again, or not at all.
            self._asked.pop(id(trace), None)
            raise

    async def _ask(self, trace: Any) -> Scored:
        messages = [_message(message) for message in trace.messages]
        *prompt, last = messages
        request = {
            "prompts": [prompt],
            "completions": [last["content"]],
            "groups": [group_of(prompt)],
            "finish_reasons": [finish_reason("length" if trace.is_truncated else "stop")],
        }
        return await self._scorer.score_async(request)  # type: ignore[arg-type]


def _message(message: Any) -> dict[str, Any]:
    return {"role": message.role, "content": message.content or ""}
