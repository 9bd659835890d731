"""SkyRL: a text environment of one turn, whose reward is the reward model's.

    skyrl_gym.register(id="reward_sidecar", entry_point="reward_sidecar.skyrl:RewardEnv")

The address stands in the variable REWARD_CLIENT_ADDRESS, or in `env_config` (`server`) where an environment is made by hand.
Invariant: a rollout that cannot be scored raises; an environment of SkyRL's has no mask. Read against skyrl 0.4.0.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from ._trainer import Scorer, from_environment, group_of, plain


def _environment() -> Any:
    """The class, made where SkyRL is installed."""
    from skyrl_gym.envs.base_text_env import BaseTextEnv

    class RewardEnv(BaseTextEnv):
        """Ends after the first answer, whose reward is that of the prompt's messages and the answer."""

        def __init__(self, env_config: Any = None, extras: Any = None) -> None:
            super().__init__()
            self._scorer = _scorer(json.dumps(plain(env_config), sort_keys=True))
            self._prompt: list[Any] = []
            self._attributes: dict[str, float] = {}

        def init(self, prompt: Any) -> tuple[Any, dict[str, Any]]:
            """Keeps the messages that the answer answers."""
            self._prompt = list(prompt)
            return prompt, {}

        def step(self, action: str) -> dict[str, Any]:
            """The answer's reward, and its attributes as metadata."""
            self.turns += 1
            request = {"prompts": [self._prompt], "completions": [action], "groups": [group_of(self._prompt)]}
            scored = self._scorer.score(request)  # type: ignore[arg-type]
            self._attributes = scored.attributes()
            return {"observations": [], "reward": scored.reward(), "done": True, "metadata": dict(self._attributes)}

        def get_metrics(self) -> dict[str, Any]:
            """The attributes, which SkyRL logs as means."""
            return dict(self._attributes)

    RewardEnv.__qualname__ = "RewardEnv"
    return RewardEnv


@functools.cache
def _scorer(configured: str) -> Scorer:
    """One client for all environments of a process that are configured alike: SkyRL makes one for each rollout."""
    options = json.loads(configured) if "server" in json.loads(configured) else from_environment()
    return Scorer(options.pop("server"), options.pop("on_rejection", "raise"), ("raise",), **options)


def __getattr__(name: str) -> Any:
    # SkyRL loads it by its name, and nobody else needs SkyRL.
    if name != "RewardEnv":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _environment()
    return globals()[name]
