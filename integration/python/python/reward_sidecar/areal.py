"""AReaL: a reward function for its process pool, which needs one that can be pickled and asks one rollout at a time.

    export REWARD_CLIENT_ADDRESS=shm:///run/reward.sock
    RLVRWorkflow(reward_fn="reward_sidecar.areal.reward_fn", ...)

Invariant: it answers or raises before AReaL's 15 s are over, after which AReaL would take 0. Read against areal 1.0.4.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ._trainer import Scorer, ended, from_environment, group_of

__all__ = ["reward_fn"]

# Seconds; AReaL gives up after 15.
TIMEOUT_S = 12.0


def reward_fn(
    prompt: str, completions: str, prompt_ids: Sequence[int], completion_ids: Sequence[int], **data: Any
) -> float:
    """What AReaL calls. It reads the texts, with the policy's special tokens; with `"input": "ids"` among the options the
    policy's token ids, for a reward model of the same tokenizer. `"eos_token_ids": [2]` says when an answer is finished.

        reward_fn("Q: tea?", "With water.", [1, 2], [3, 4])
    """
    scorer, input, ends = _settings()
    reasons = [ended(completion_ids, ends)]
    if input == "ids":
        scored = scorer.score(
            {"prompt_ids": [list(prompt_ids)], "completion_ids": [list(completion_ids)], "finish_reasons": reasons}
        )
    else:
        scored = scorer.score(
            {"texts": [prompt + completions], "groups": [group_of(prompt)], "finish_reasons": reasons}
        )
    return scored.reward()


@functools.cache
def _settings() -> tuple[Scorer, str, tuple[int, ...]]:
    options = from_environment()
    input, ends = options.pop("input", "text"), tuple(options.pop("eos_token_ids", ()))
    options.setdefault("timeout", TIMEOUT_S)
    return Scorer(options.pop("server"), options.pop("on_rejection", "raise"), ("raise",), **options), input, ends
