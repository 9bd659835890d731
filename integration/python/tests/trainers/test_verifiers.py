"""verifiers' own scoring of a trace, with a task derived from ours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import reward_sidecar
from material import QUESTIONS, TOO_LONG, needs
from reward_sidecar import Client

pytestmark = needs("verifiers", "pydantic_config")


def score(address: str, answer: str) -> Any:
    """A trace of one answer, scored."""
    import verifiers.v1 as vf
    from verifiers.v1.graph import MessageNode
    from verifiers.v1.trace import AgentConfig, AgentInfo, TraceTask
    from verifiers.v1.types import AssistantMessage, UserMessage

    from reward_sidecar.verifiers import task_with

    class Tea(task_with(address, weight=0.5), vf.Task):  # type: ignore[misc]
        pass

    data = vf.TaskData(prompt=QUESTIONS[0])
    nodes = [
        MessageNode(message=UserMessage(content=QUESTIONS[0])),
        MessageNode(parent=0, message=AssistantMessage(content=answer), sampled=True),
    ]
    trace = vf.Trace(task=TraceTask(type="Tea", data=data), agent=AgentInfo(config=AgentConfig()), nodes=nodes)
    asyncio.run(Tea(data).score(trace))
    return trace


def test_its_scoring_gets_what_score_says(sidecar: reward_sidecar.Server, client: Client) -> None:
    trace = score(sidecar.address, "With water.")
    expected = client.score(prompts=[QUESTIONS[0]], completions=["With water."])
    assert trace.rewards["reward_sidecar"].score == float(expected.rewards[0])
    assert trace.reward == 0.5 * float(expected.rewards[0])
    assert trace.metrics == {name: float(expected[name][0]) for name in expected.names}


def test_what_cannot_be_scored_is_an_error_of_the_task(sidecar: reward_sidecar.Server) -> None:
    from verifiers.v1.errors import TaskError

    with pytest.raises(TaskError) as raised:
        score(sidecar.address, TOO_LONG)
    assert "TOO_LONG" in f"{raised.value} {raised.value.__cause__}"
