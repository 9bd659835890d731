"""Tunix's own reward manager, with our functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import reward_sidecar
from material import TOO_LONG, Watched, needs, without_parents
from reward_sidecar import Client
from reward_sidecar.tunix import reward_fns

pytestmark = needs("tunix", "absl")

PROMPTS = ["Q: How do I make tea? A:"] * 3
ANSWERS = [" With water.", " Tea.", " No."]


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Any:
    # Its package as a whole needs JAX, which its reward manager does not.
    without_parents(monkeypatch, "tunix", "tunix.rl")
    module = __import__("tunix.rl.reward_manager", fromlist=["SequenceRewardManager"])
    config = __import__("tunix.rl.algorithm_config", fromlist=["AlgorithmConfig"])
    return lambda functions: module.SequenceRewardManager(functions, config.AlgorithmConfig())


def test_its_manager_gets_what_score_says(manager: Any, watched: Watched, client: Client) -> None:
    info = manager(reward_fns(watched, ["helpfulness", "verbosity"]))(PROMPTS, ANSWERS, mode="train")
    expected = client.score(texts=[prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS)])
    columns = expected.attributes[:, [0, 4]].astype(np.float64)
    np.testing.assert_array_equal(info["rewards"], columns.sum(axis=1))
    np.testing.assert_array_equal(info["log_metrics"]["rewards/helpfulness"][0], columns[:, 0])
    assert len(watched.asked) == 1


def test_no_row_is_ever_0_for_want_of_a_reward(manager: Any, client: Client) -> None:
    answers = [ANSWERS[0], TOO_LONG, ANSWERS[2]]
    with pytest.raises(reward_sidecar.Rejected, match="TOO_LONG"):
        manager(reward_fns(client))(PROMPTS, answers)
    rewards = manager(reward_fns(client, on_rejection="group-mean"))(PROMPTS, answers)["rewards"]
    assert rewards[1] == pytest.approx((rewards[0] + rewards[2]) / 2)
