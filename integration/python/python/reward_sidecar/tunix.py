"""Tunix: reward functions for its learners.

    GRPOLearner(..., reward_fns=reward_sidecar.tunix.reward_fns("shm:///run/reward.sock"))

Invariant: every function has a number for every completion, since Tunix has no mask and takes NaN for 0.
Read against google-tunix 0.1.7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ._trainer import Once, OnRejection, Scorer, ScorerOptions, group_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._client import Client

__all__ = ["RewardFunction", "reward_fns"]


def reward_fns(
    server: str | Client,
    attributes: Sequence[str] | None = None,
    *,
    on_rejection: OnRejection = "raise",
    **options: Unpack[ScorerOptions],
) -> list[Callable[..., Any]]:
    """The functions for `reward_fns=`: the reward, or one for each of `attributes`, out of one request. Tunix adds them up.

    `on_rejection`: `raise`, or `group-mean`: the mean of the completions of the same prompt stands in.

        reward_fns("shm:///run/reward.sock", weights={"helpfulness": 0.7})
    """
    if attributes is not None and options.get("weights") is None and options.get("weighting") is None:
        options["weights"] = dict.fromkeys(attributes, 1.0)
    scorer = Scorer(server, on_rejection, ("raise", "group-mean"), **options)
    names: Sequence[str | None] = [None] if attributes is None else attributes
    once = Once(len(names))
    return [RewardFunction(scorer, once, name) for name in names]


class RewardFunction:
    """One column of the answers: what `reward_fns` returns. Tunix logs it under its `__name__`."""

    def __init__(self, scorer: Scorer, once: Once, attribute: str | None) -> None:
        """For `reward_fns`: `RewardFunction(scorer, once, "helpfulness")`."""
        self.__name__: str = attribute or "reward"
        self._scorer, self._once, self._attribute = scorer, once, attribute

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **kwargs: Any) -> list[float | None]:
        """One number for each completion. The prompts carry the policy's template already: they are read as they are.

        function(prompts=["Q: tea?"], completions=["With water."])
        """
        groups = [group_of(prompt) for prompt in prompts]
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        scored = self._once.of(completions, lambda: self._scorer.score({"texts": texts, "groups": groups}))
        return scored.column(self._attribute, groups)
