"""ms-swift: an outcome reward model (ORM), registered as `reward_sidecar`.

    export REWARD_CLIENT_ADDRESS=shm:///run/reward.sock
    swift rlhf --external_plugins "$(python -c 'import reward_sidecar.ms_swift as it; print(it.__file__)')" \\
      --reward_funcs reward_sidecar ...

Invariant: every completion gets a number, since ms-swift takes `None` for 0. Read against ms-swift 4.6.0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

# ms-swift runs this file apart from its package, and puts its folder before all others: nothing else may stand in it.
from reward_sidecar._trainer import Once, OnRejection, Scorer, conversation, finish_reason, from_environment, group_of

# As ms-swift has it.
NAME = "reward_sidecar"
ALLOWED: tuple[OnRejection, ...] = ("raise", "group-mean")


class _Asked:
    """What the registered classes share: one request for all of them."""

    def __init__(self) -> None:
        options = from_environment()
        self.attributes: list[str] = options.pop("attributes", [])
        if self.attributes:
            options.setdefault("weights", dict.fromkeys(self.attributes, 1.0))
        self._scorer = Scorer(options.pop("server"), options.pop("on_rejection", "raise"), ALLOWED, **options)
        self._once = Once(max(1, len(self.attributes)))

    def column(self, attribute: str | None, completions: Sequence[str], call: dict[str, Any]) -> list[float | None]:
        """One attribute, or the reward, of each completion."""
        pairs = [conversation(messages[:-1], messages[-1:]) for messages in call["messages"]]
        prompts = [prompt for prompt, _ in pairs]
        groups = call.get("prompt_id") or [group_of(prompt) for prompt in prompts]
        reasons = [finish_reason(reason) for reason in call.get("finish_reason") or [None] * len(prompts)]

        def ask() -> Any:
            # Lists: ms-swift's own are what identifies the batch, and the client takes them as they are.
            request = {"prompts": prompts, "completions": list(completions), "finish_reasons": reasons}
            return self._scorer.score(request | {"groups": [str(group) for group in groups]})  # type: ignore[arg-type]

        return self._once.of(completions, ask).column(attribute, groups)


def register(orms: dict[str, Any], orm: Any) -> None:
    """Registers the reward, or one class for each of `"attributes"` of the options, `reward_sidecar_NAME`."""
    asked = _Asked()
    names: Sequence[str | None] = asked.attributes or [None]
    for attribute in names:

        class Reward(orm):  # type: ignore[misc]
            """One column of the answers."""

            _attribute = attribute

            def __call__(self, completions: Sequence[str], **call: Any) -> list[float | None]:
                return asked.column(self._attribute, completions, call)

        # ms-swift logs a reward under its class's name.
        Reward.__name__ = Reward.__qualname__ = NAME if attribute is None else f"{NAME}_{attribute}"
        orms[Reward.__name__] = Reward


if "swift" in sys.modules:
    from swift.rewards import ORM, orms

    register(orms, ORM)
