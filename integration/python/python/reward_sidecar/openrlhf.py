"""OpenRLHF: its Python form of a reward, as a file that it loads by its path. (`/get_reward` needs none of this.)

    export REWARD_CLIENT_ADDRESS=shm:///run/reward.sock
    --reward.remote_url "$(python -c 'import reward_sidecar.openrlhf as it; print(it.__file__)')"

Invariant: a rollout that cannot be scored is logged as an error with its reason, and raises. OpenRLHF says so only at INFO
and stops later for want of a reward. Read against openrlhf 0.11.2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

# OpenRLHF runs this file apart from its package.
from reward_sidecar._errors import RewardSidecarError
from reward_sidecar._trainer import Scorer, from_environment, group_of, log

__all__ = ["reward_func"]


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
    """What OpenRLHF calls, a query at a time: prompt and answer in the policy's own template, special tokens and all.

    `rewards` train. `scores` are the same between 0 and 1 (the logistic function of the reward), because dynamic filtering
    looks for groups whose mean lies there. `extra_logs` are the attributes.

        reward_func(["<|im_start|>user..."], ["<|im_start|>user..."], [None])["rewards"]
    """
    try:
        scored = _scorer().score({"texts": list(queries), "groups": [group_of(prompt) for prompt in prompts]})
    except RewardSidecarError as error:
        log.error("OpenRLHF gets no reward: %s", error)
        raise
    columns = {"rewards": scored.batch.rewards, **{name: scored.batch[name] for name in scored.batch.names}}
    # A number for a single query, which OpenRLHF makes a tensor of [1] of; of a list it would make [1, 1].
    values = {name: column[0].item() if len(queries) == 1 else column.tolist() for name, column in columns.items()}
    rewards = values.pop("rewards")
    scores = _logistic(rewards) if len(queries) == 1 else [_logistic(reward) for reward in rewards]
    return {"rewards": rewards, "scores": scores, "extra_logs": values}


def _logistic(reward: float) -> float:
    # As tanh, because the exponential of a large negative reward overflows.
    return 0.5 + 0.5 * math.tanh(reward / 2.0)


@functools.cache
def _scorer() -> Scorer:
    options = from_environment()
    return Scorer(options.pop("server"), options.pop("on_rejection", "raise"), ("raise",), **options)
