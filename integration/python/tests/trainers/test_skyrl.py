"""SkyRL's own registry, with our environment."""

from __future__ import annotations

import pytest

import reward_sidecar
from material import QUESTIONS, TOO_LONG, needs
from reward_sidecar import Client

pytestmark = needs("skyrl_gym")


def test_its_registry_makes_an_environment_that_scores(sidecar: reward_sidecar.Server, client: Client) -> None:
    import skyrl_gym

    skyrl_gym.register(id="reward_sidecar", entry_point="reward_sidecar.skyrl:RewardEnv")
    environment = skyrl_gym.make("reward_sidecar", env_config={"server": sidecar.address}, extras={"max_turns": 1})
    prompt = [{"role": "user", "content": QUESTIONS[0]}]
    first, _ = environment.init(prompt)
    assert first == prompt
    step = environment.step("With water.")
    expected = client.score(prompts=[QUESTIONS[0]], completions=["With water."])
    assert step["reward"] == float(expected.rewards[0]) and step["done"] and step["observations"] == []
    attributes = {name: float(expected[name][0]) for name in expected.names}
    assert step["metadata"] == environment.get_metrics() == attributes
    with pytest.raises(reward_sidecar.Rejected, match="TOO_LONG"):
        environment.step(TOO_LONG)
