"""slime's own dispatch, with our custom reward. It is not on PyPI: put a checkout on PYTHONPATH to run what needs it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

import reward_sidecar
from material import QUESTIONS, TOO_LONG, needs
from reward_sidecar import Client, slime

PROMPT = "<|im_start|>user\nHow do I make tea?<|im_end|>\n<|im_start|>assistant\n"


@dataclass
class Sample:
    """The fields of slime's `Sample` that are read or written; slime/utils/types.py at 624b824a898a."""

    prompt: Any
    response: str
    group_index: int = 0
    status: Any = "completed"
    metadata: dict[str, Any] = field(default_factory=dict)
    remove_sample: bool = False


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, sidecar: reward_sidecar.Server) -> None:
    monkeypatch.setenv("REWARD_CLIENT_ADDRESS", sidecar.address)
    slime._scorer.cache_clear()


ARGS = SimpleNamespace(reward_key=None, custom_rm_path="reward_sidecar.slime.reward")


def test_one_sample(client: Client) -> None:
    # A text that carries the policy's template already.
    sample = Sample(PROMPT, "With water.<|im_end|>\n")
    reward = asyncio.run(slime.reward(ARGS, sample))
    expected = client.score(texts=[PROMPT + "With water.<|im_end|>\n"])
    assert reward == float(expected.rewards[0])
    assert sample.metadata["reward_attributes"]["helpfulness"] == float(expected["helpfulness"][0])
    # Messages, and an object for --reward-key.
    sample = Sample([{"role": "user", "content": QUESTIONS[0]}], "With water.")
    keyed = asyncio.run(slime.reward(SimpleNamespace(reward_key="total"), sample))
    expected = client.score(prompts=[QUESTIONS[0]], completions=["With water."])
    assert keyed["total"] == float(expected.rewards[0]) and keyed["verbosity"] == float(expected["verbosity"][0])


def test_a_groups_mean_stands_in_and_the_sample_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = [Sample(PROMPT, "With water."), Sample(PROMPT, TOO_LONG), Sample(PROMPT, "Tea.")]
    with pytest.raises(reward_sidecar.Rejected, match="TOO_LONG"):
        asyncio.run(slime.reward(ARGS, group))
    monkeypatch.setenv("REWARD_CLIENT_OPTIONS", '{"on_rejection": "group-mean"}')
    slime._scorer.cache_clear()
    rewards = asyncio.run(slime.reward(ARGS, group))
    assert rewards[1] == pytest.approx((rewards[0] + rewards[2]) / 2)
    assert [sample.remove_sample for sample in group] == [False, True, False]
    assert "TOO_LONG" in group[1].metadata["reward_rejected"]


@needs("slime", "httpx", "torch")
def test_its_own_dispatch_finds_it(client: Client) -> None:
    from slime.rollout.rm_hub import async_rm, batched_async_rm
    from slime.utils.types import Sample as Theirs

    samples = [
        Theirs(prompt=PROMPT, response=text, group_index=0, status=Theirs.Status.TRUNCATED)
        for text in ("With", "Tea is")
    ]
    expected = client.score(texts=[PROMPT + sample.response for sample in samples])
    assert asyncio.run(batched_async_rm(ARGS, samples)) == expected.rewards.tolist()
    assert asyncio.run(async_rm(ARGS, samples[0])) == float(expected.rewards[0])
    assert slime._request(samples)["finish_reasons"] == ["length", "length"]
