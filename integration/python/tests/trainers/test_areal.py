"""AReaL's own wrapper: our function in its process pool."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest

import reward_sidecar
from material import needs, without_parents
from reward_sidecar import Client, areal

pytestmark = needs("areal", "colorlog")


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, sidecar: reward_sidecar.Server) -> None:
    monkeypatch.setenv("REWARD_CLIENT_ADDRESS", sidecar.address)
    areal._settings.cache_clear()


@pytest.fixture
def wrapper(monkeypatch: pytest.MonkeyPatch) -> Any:
    without_parents(monkeypatch, "areal", "areal.api", "areal.utils")
    module: ModuleType = __import__("areal.api.reward_api", fromlist=["AsyncRewardWrapper"])
    yield module.AsyncRewardWrapper
    module.AsyncRewardWrapper._atexit_shutdown_all()
    for name in [name for name in sys.modules if name.startswith("areal")]:
        monkeypatch.delitem(sys.modules, name)


PROMPT = "<|im_start|>user\nHow do I make tea?<|im_end|>\n<|im_start|>assistant\n"


def test_its_process_pool_gets_what_score_says(wrapper: Any, client: Client) -> None:
    answers = ["With water.<|im_end|>", "Tea.<|im_end|>"]

    async def ask() -> list[float]:
        score = wrapper(areal.reward_fn)
        calls = (score(PROMPT, answer, [1, 2], [3, 4], topic="tea") for answer in answers)
        return await asyncio.gather(*calls)

    expected = client.score(texts=[PROMPT + answer for answer in answers])
    assert asyncio.run(ask()) == expected.rewards.tolist()


def test_what_cannot_be_scored_raises_and_is_never_0(wrapper: Any) -> None:
    async def ask() -> float:
        # AReaL's own retries: none, since the fault is the rollout's.
        return await wrapper(areal.reward_fn, max_retries=0)("tea " * 9000, "Yes.", [1], [2])

    with pytest.raises(reward_sidecar.Rejected, match="TOO_LONG"):
        asyncio.run(ask())


def test_ids_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    monkeypatch.setenv("REWARD_CLIENT_OPTIONS", '{"input": "ids", "eos_token_ids": [4]}')
    reward = areal.reward_fn("ignored", "ignored", [1, 2], [3, 4])
    assert reward == float(client.score(prompt_ids=[[1, 2]], completion_ids=[[3, 4]]).rewards[0])
