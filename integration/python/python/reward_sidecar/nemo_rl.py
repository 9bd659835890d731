"""NeMo-RL: an environment in place of its own reward model's.

    reward_sidecar.nemo_rl.register()                       # before the configuration is read
    env: {reward_sidecar: {server: "shm:///run/reward.sock"}}   # and task_name: reward_sidecar

Invariant: every rollout gets a number, since an `EnvironmentReturn` has no mask. Read against NeMo-RL at 7ea279abfbeb; not on
PyPI, so it was not run there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._trainer import Scorer, group_of, plain

NAME = "reward_sidecar"
CLASS = "reward_sidecar.nemo_rl.RewardEnvironment"


def register() -> None:
    """Tells NeMo-RL of the environment, and that it runs in the same Python as the trainer: `register()`."""
    from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY
    from nemo_rl.distributed.virtual_cluster import PY_EXECUTABLES
    from nemo_rl.environments.utils import register_env

    ACTOR_ENVIRONMENT_REGISTRY[CLASS] = PY_EXECUTABLES.SYSTEM
    register_env(NAME, CLASS)


class Environment:
    """What the Ray actor does: `step` and the metrics."""

    def __init__(self, config: Any) -> None:
        """The configuration's `env.reward_sidecar`: `server`, `on_rejection` (`raise`, or `group-mean` for the rollouts of a
        prompt that come in one step), `multi_reward` (attributes for GDPO), and the options of `score`.

            Environment({"server": "shm:///run/reward.sock", "weights": {"helpfulness": 0.7}})
        """
        options = plain(config)
        # NeMo-RL's own keys.
        for key in ("enabled", "num_workers"):
            options.pop(key, None)
        self._multi = options.pop("multi_reward", False)
        on_rejection = options.pop("on_rejection", "raise")
        self._scorer = Scorer(options.pop("server"), on_rejection, ("raise", "group-mean"), **options)

    def step(self, message_log_batch: list[Any], metadata: list[Any], *_: Any) -> Any:
        """Rewards of conversations, which end here: `ray.get(env.step.remote(logs, infos)).rewards`."""
        import torch
        from nemo_rl.environments.interfaces import EnvironmentReturn

        prompts = [[_message(message) for message in log[:-1]] for log in message_log_batch]
        answers = [log[-1]["content"] for log in message_log_batch]
        groups = [group_of(prompt) for prompt in prompts]
        scored = self._scorer.score({"prompts": prompts, "completions": answers, "groups": groups})

        def tensor(name: str | None) -> Any:
            return torch.tensor(np.array(scored.column(name, groups), dtype=np.float32))

        rewards = {name: tensor(name) for name in scored.batch.names} if self._multi else tensor(None)
        observed = [
            {"role": "environment", "content": f"Environment: {value}"} for value in scored.column(None, groups)
        ]
        nothing = [None] * len(answers)
        ended = torch.ones(len(answers), dtype=torch.bool)
        return EnvironmentReturn(observed, nothing, nothing, rewards, ended, answers)

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, Any]]:
        """Leaves the batch as it is."""
        return batch, {}

    def shutdown(self) -> None:
        """Ends the connection."""
        self._scorer.client.close()


def _message(message: Any) -> dict[str, Any]:
    return {"role": message["role"], "content": message["content"]}


def __getattr__(name: str) -> Any:
    # NeMo-RL finds the actor's class by its name, and nobody else needs Ray.
    if name != "RewardEnvironment":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import ray

    globals()[name] = ray.remote(Environment)
    return globals()[name]
