"""NeMo-RL's own registry and Ray actor, with our environment. It is not on PyPI: put a checkout on PYTHONPATH."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from material import QUESTIONS, TOO_LONG, needs
from reward_sidecar import Client

pytestmark = needs("nemo_rl", "ray", "torch")

ANSWERS = ("With water.", "Tea.", "Pour boiling water over the leaves.")


def logs(answers: tuple[str, ...]) -> list[Any]:
    return [[{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": answer}] for answer in answers]


def test_its_registry_makes_an_actor_that_scores(sidecar: reward_sidecar.Server, client: Client) -> None:
    import ray
    from nemo_rl.environments.utils import create_env

    from reward_sidecar import nemo_rl

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": dict(os.environ)})
    try:
        nemo_rl.register()
        environment = create_env("reward_sidecar", {"server": sidecar.address, "enabled": True})
        result = ray.get(environment.step.remote(logs(ANSWERS), [None] * 3))
    finally:
        ray.shutdown()
    expected = client.score(prompts=[QUESTIONS[0]] * 3, completions=ANSWERS)
    np.testing.assert_array_equal(result.rewards.numpy(), expected.rewards)
    assert result.terminateds.all() and result.answers == list(ANSWERS)


def test_a_groups_mean_keeps_the_baseline(sidecar: reward_sidecar.Server) -> None:
    from reward_sidecar.nemo_rl import Environment

    answers = (*ANSWERS[:2], TOO_LONG)
    with pytest.raises(reward_sidecar.Rejected, match="TOO_LONG"):
        Environment({"server": sidecar.address}).step(logs(answers), [None] * 3)
    settings = {"server": sidecar.address, "on_rejection": "group-mean"}
    rewards = Environment(settings).step(logs(answers), [None] * 3).rewards
    assert rewards.mean().item() == pytest.approx(rewards[:2].mean().item(), rel=1e-6)
    many = Environment({**settings, "multi_reward": True}).step(logs(answers), [None] * 3).rewards
    assert list(many) == ["helpfulness", "relevance", "coherence", "complexity", "verbosity"]
    # A rollout that comes alone has no scored sibling.
    with pytest.raises(reward_sidecar.Rejected, match="TOO_LONG"):
        Environment(settings).step(logs((TOO_LONG,)), [None])
