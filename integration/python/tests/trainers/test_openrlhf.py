"""OpenRLHF's own executor, which loads our file by its path and calls it after each generation."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

import reward_sidecar
from material import TOO_LONG, needs
from reward_sidecar import Client, openrlhf

pytestmark = needs("openrlhf", "torch")


def execute(monkeypatch: pytest.MonkeyPatch, address: str, tokenizer: Any, prompt: str, answer: str) -> dict[str, Any]:
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    class Engine:
        async def generate(self, prompt_token_ids: list[int], *_: Any, **__: Any) -> Any:
            ids = [*tokenizer.encode(answer), tokenizer.eos_token_id]
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)])

    monkeypatch.setenv("REWARD_CLIENT_ADDRESS", address)
    executor = SingleTurnAgentExecutor([openrlhf.__file__])
    sampling = SimpleNamespace(max_tokens=16, logprobs=None)
    limit = len(tokenizer.encode(prompt)) + 64
    return asyncio.run(executor.execute(prompt, "label", sampling, limit, tokenizer, Engine()))


PROMPT = "<|im_start|>user\nHow do I make tea?<|im_end|>\n<|im_start|>assistant\n"


def test_its_executor_gets_what_score_says(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any, sidecar: reward_sidecar.Server, client: Client
) -> None:
    output = execute(monkeypatch, sidecar.address, tokenizer, PROMPT, "With water.")
    # The policy's own tokens as text, the end of the turn among them.
    expected = client.score(texts=[PROMPT + "With water.<|im_end|>"])
    assert output["reward"] == float(expected.rewards[0])
    assert 0.0 < output["scores"] < 1.0
    assert output["extra_logs"] == {name: float(expected[name][0]) for name in expected.names}
    # Its trainer makes a tensor of [1] of each number, and of [1, 1] of a list.
    assert all(type(value) is float for value in (output["reward"], output["scores"], *output["extra_logs"].values()))


def test_what_cannot_be_scored_has_no_reward_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any, sidecar: reward_sidecar.Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="reward_sidecar"):
        output = execute(monkeypatch, sidecar.address, tokenizer, PROMPT, TOO_LONG)
    assert output["reward"] is None
    assert any("TOO_LONG" in record.getMessage() for record in caplog.records)
