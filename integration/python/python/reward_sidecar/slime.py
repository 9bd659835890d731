"""slime: a custom reward, with `Sample`'s status as the reason why it ended. (`--rm-type remote_rm` needs none of this.)

    export REWARD_CLIENT_ADDRESS=shm:///run/reward.sock
    --custom-rm-path reward_sidecar.slime.reward               # add --group-rm for on_rejection "group-mean"

Invariant: no sample is dropped, since slime normalises the whole batch as one group when a count differs.
Read against slime at 624b824a898a.
"""

from __future__ import annotations

import functools
from typing import Any

from ._trainer import Scored, Scorer, finish_reason, from_environment, group_of

__all__ = ["reward"]


async def reward(args: Any, samples: Any, **_: Any) -> Any:
    """What slime calls with one `Sample`, or with `--group-rm` with a list of them. Numbers, or with `--reward-key` objects
    of the reward under that key and all attributes.

        await reward(args, sample)
    """
    if not isinstance(samples, list):
        return (await reward(args, [samples]))[0]
    scorer = _scorer()
    scored = await scorer.score_async(_request(samples))  # type: ignore[arg-type]
    rewards = scored.column(groups=[sample.group_index for sample in samples])
    _note(samples, scored)
    if not (key := getattr(args, "reward_key", None)):
        return rewards
    return [{**scored.attributes(row), key: value} for row, value in enumerate(rewards)]


def _request(samples: list[Any]) -> dict[str, Any]:
    request: dict[str, Any] = {
        "groups": [group_of(sample.prompt) for sample in samples],
        "finish_reasons": [finish_reason(sample.status) for sample in samples],
    }
    if isinstance(samples[0].prompt, str):
        # It has the policy's template already, so it is no user's words.
        return request | {"texts": [sample.prompt + sample.response for sample in samples]}
    return request | {
        "prompts": [list(sample.prompt) for sample in samples],
        "completions": [sample.response for sample in samples],
    }


def _note(samples: list[Any], scored: Scored) -> None:
    """Says in each sample's metadata what was scored; what was not is taken out of the loss."""
    for row, sample in enumerate(samples):
        metadata = sample.metadata if isinstance(sample.metadata, dict) else {}
        if rejection := scored.rejections.get(row):
            sample.remove_sample = True
            metadata["reward_rejected"] = str(rejection)
        else:
            metadata["reward_attributes"] = scored.attributes(row)
        sample.metadata = metadata


@functools.cache
def _scorer() -> Scorer:
    options = from_environment()
    return Scorer(options.pop("server"), options.pop("on_rejection", "raise"), ("raise", "group-mean"), **options)
